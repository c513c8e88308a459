"""Training of a prior that is told structure, end to end at toy sizes, and its data."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from sds3d.cameras import turntable
from sds3d.geometry.mesh import Mesh
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.priors.loading import toybox_folder
from sds3d.priors.structure import FOLDER, LIT_MAPS, MAPS, StructureEncoder
from sds3d.priors.unet_latent import DiffusersPrior
from sds3d.rendering.shading import srgb_to_linear
from sds3d.rendering.structure import LIGHT, unstacked
from sds3d.states import read_metadata, read_tensors
from sds3d.toybox import diffusion
from sds3d.toybox.material_views import lit_views
from sds3d.toybox.materials import Look
from sds3d.toybox.objects import build
from sds3d.toybox.render import render_object
from sds3d.toybox.train import begin
from sds3d.toybox.train_condition import ToldViews, checkpoint, train_condition
from sds3d.toybox.train_config import TrainConfig
from sds3d.toybox.train_light import LIT
from sds3d.toybox.train_structure import STRUCTURE
from sds3d.toybox.varied import fitted, joined, mirrored, stretched, turned, varied
from sds3d.toybox.world import Spec

TINY = TrainConfig(
    objects=16, held_out_objects=1, samples=1, workers=1, unet_objects=1, checkpoint_every=1, structure_steps=2,
    start_from=str(toybox_folder()),
)  # fmt: skip


class Killed(Exception):
    pass


def ignore(stage: str, step: int, total: int, figures: dict[str, float]) -> None:
    pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("structure")
    assert train_condition(path, STRUCTURE, TINY, ignore) == path / "prior"
    return path


@pytest.mark.slow
def test_the_folder_is_a_prior_that_takes_structure_and_has_a_card_and_samples(folder: Path):
    prior = DiffusersConfig(model=str(folder / "prior")).load()
    assert (prior.takes_structure, prior.needs_structure, prior.n_views, prior.image_size) == (True, False, 4, 64)
    vocabulary = DiffusersConfig(model=str(folder / "prior")).vocabulary()
    assert vocabulary == DiffusersConfig(model="toybox").vocabulary()
    assert str(toybox_folder()) not in (folder / "prior" / "unet" / "config.json").read_text()
    encoder, _ = read_tensors(folder / "prior" / FOLDER / "model.safetensors")
    assert encoder["last.weight"].abs().max() > 0
    card, digest = (folder / "CARD.md").read_text(), DiffusersConfig(model="toybox").digest()
    assert "2 steps, 8 views" in card
    assert f"from the prior with the weights\n`{digest[:12]}`." in card
    assert StructureEncoder.load(folder / "prior" / FOLDER).digest == digest
    assert (folder / "samples.png").stat().st_size > 1000
    size = sum(path.stat().st_size for path in (folder / "prior").rglob("*") if path.is_file())
    assert size < 18e6


@pytest.mark.slow
def test_a_killed_training_ends_in_the_same_weights(folder: Path, tmp_path: Path):
    shutil.copytree(
        folder, tmp_path / "again", ignore=shutil.ignore_patterns("prior", checkpoint(folder, STRUCTURE).name)
    )

    def killer(name: str, step: int, total: int, figures: dict[str, float]) -> None:
        if (name, step) == ("structure", 2):
            raise Killed

    without_samples = TINY.model_copy(update={"samples": 0})
    with pytest.raises(Killed):
        train_condition(tmp_path / "again", STRUCTURE, without_samples, killer)
    train_condition(tmp_path / "again", STRUCTURE, without_samples, ignore)
    for part in ("unet/diffusion_pytorch_model", f"{FOLDER}/model"):
        expected, _ = read_tensors(folder / "prior" / f"{part}.safetensors")
        resumed, _ = read_tensors(tmp_path / "again" / "prior" / f"{part}.safetensors")
        assert all(torch.equal(value, resumed[key]) for key, value in expected.items()), part


@pytest.mark.slow
def test_at_a_rate_of_zero_the_plain_prior_stays(folder: Path, tmp_path: Path):
    for pictures in ("pictures", "held-out"):
        shutil.copytree(folder / pictures, tmp_path / pictures)
    still = TINY.model_copy(update={"structure_rate": 1e-12, "samples": 0, "structure_steps": 1})
    trained = DiffusersConfig(model=str(train_condition(tmp_path, STRUCTURE, still, ignore))).load()
    plain = DiffusersConfig(model="toybox").load()
    x = plain.encode_image(torch.rand(4, 64, 64, 3, generator=torch.Generator().manual_seed(0)))
    text, t = plain.encode_text(["a red mug"] * 4), torch.full((4,), 0.8)
    expected = plain.predict(x, t, text, turntable(4)).eps
    torch.testing.assert_close(trained.predict(x, t, text, turntable(4)).eps, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_a_prior_that_is_told_the_light_knows_words_for_materials_and_a_killed_training_resumes(tmp_path: Path):
    config = TINY.model_copy(update={"samples": 0})

    def killer(name: str, step: int, total: int, figures: dict[str, float]) -> None:
        if (name, step) == ("light", 2):
            raise Killed

    with pytest.raises(Killed):
        train_condition(tmp_path / "killed", LIT, config, killer)
    for pictures in ("pictures", "held-out"):
        shutil.copytree(tmp_path / "killed" / pictures, tmp_path / "whole" / pictures)
    folders = [train_condition(tmp_path / name, LIT, config, ignore) for name in ("killed", "whole")]
    for part in ("unet/diffusion_pytorch_model", "text_encoder/model", f"{FOLDER}/model"):
        expected, resumed = (read_tensors(folder / f"{part}.safetensors")[0] for folder in folders)
        assert all(torch.equal(value, resumed[key]) for key, value in expected.items()), part
    given = DiffusersConfig(model=str(folders[0]))
    prior, words = given.load(), given.vocabulary()
    assert (prior.takes_structure, prior.takes_light) == (True, True)
    assert words is not None
    assert words.read("a red polished metal mug").unknown == ()
    assert isinstance(prior, DiffusersPrior)
    assert prior.tokenizer.tokenize("a Shiny metal mug made of chrome")[1:3] == ["shiny", "metal"]
    first, second = prior.encode_text(["a red rubber mug", "a red mirror mug"]).hidden
    assert (first - second).abs().max() > 0.1


def test_a_prior_of_another_kind_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="starts from another: give its folder, --start-from FOLDER"):
        train_condition(tmp_path, STRUCTURE, TINY.model_copy(update={"start_from": ""}), ignore)


def test_pictures_of_a_training_without_structure_are_not_used(tmp_path: Path):
    begin(tmp_path, TINY)
    with pytest.raises(ValueError, match="was begun without --structure: use another --out"):
        train_condition(tmp_path, STRUCTURE, TINY, ignore)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.slow
def test_training_for_minutes_takes_up_pictures_as_they_come_and_resumes(tmp_path: Path):
    shares = {"waiting_share": 0.1, "rendering_share": 0.2}
    config = TINY.model_copy(update={"objects": 25600, "minutes": 0.05, "samples": 0, **shares})

    def killer(name: str, step: int, total: int, figures: dict[str, float]) -> None:
        if name == "structure":
            raise Killed

    def rendered() -> int:
        return len(list((tmp_path / "pictures").glob("*.safetensors")))

    with pytest.raises(Killed):
        train_condition(tmp_path, STRUCTURE, config, killer)
    assert 1 <= rendered() < 400
    train_condition(tmp_path, STRUCTURE, config, ignore)
    files = rendered()
    assert 1 <= files < 400
    assert int((tmp_path / "pictures" / "files").read_text()) == files  # the set keeps its size
    assert 2.7 <= float(read_metadata(checkpoint(tmp_path, STRUCTURE))["seconds"]) < 30  # 0.9 of 0.05 minutes
    assert DiffusersConfig(model=str(tmp_path / "prior")).load().takes_structure


def structured_views(numbers: list[int], unusual: bool) -> ToldViews:
    """Objects whose latents and maps hold their number."""
    n, number = len(numbers), torch.tensor(numbers).reshape(-1, 1, 1, 1, 1)
    words = torch.ones(n, 8, 24, dtype=torch.int16)
    views = diffusion.LatentViews.of(
        number.float().expand(-1, 4, 1, 1, 1), torch.zeros(n, 4, 3), words, words[:, None].expand(-1, 4, -1, -1)
    )
    maps = number.to(torch.int8).expand(-1, 4, 5, 2, 2)
    return ToldViews(views, {"maps": maps, "varied": torch.full((n,), unusual)}, [""] * n)


def test_structure_that_comes_later_goes_with_its_pictures():
    generator = torch.Generator().manual_seed(0)

    def told() -> tuple[set[int], set[int]]:
        """Return the numbers that are drawn, and those whose structure is dropped at times."""
        batch = diffusion.draw_batch(room.views, torch.zeros(24, dtype=torch.int64), 400, generator)
        maps = (127 * STRUCTURE.draw(room, batch, generator)[:, 0, 0, 0]).round()
        shown = batch.x[:, 0, 0, 0]
        assert torch.equal(maps[maps > 0], shown[maps > 0])
        return set(shown.int().tolist()), set(shown[maps == 0].int().tolist())

    first = structured_views([1, 2], unusual=False)
    room = first.with_room(6)
    assert (len(first), len(room)) == (2, 6)
    assert told() == ({1, 2}, {1, 2})
    room.append(structured_views([3], unusual=True), 2)
    assert told() == ({1, 2, 3}, {1, 2})
    room.append(structured_views([4, 5], unusual=False), 3)
    assert told() == ({1, 2, 3, 4, 5}, {1, 2, 4, 5})


def test_the_light_is_dropped_with_the_structure_and_alone():
    n = 40
    words = torch.ones(n, 8, 24, dtype=torch.int16)
    views = diffusion.LatentViews.of(
        torch.zeros(n, 4, 1, 1, 1), torch.zeros(n, 4, 3), words, words[:, None].expand(-1, 4, -1, -1)
    )
    maps = torch.full((n, 4, LIT_MAPS, 4, 4), 127, dtype=torch.int8)
    data = ToldViews(views, {"maps": maps, "varied": torch.zeros(n, dtype=torch.bool)}, [""] * n)
    generator = torch.Generator().manual_seed(0)
    batch = diffusion.draw_batch(views, torch.zeros(24, dtype=torch.int64), 400, generator)
    told = LIT.draw(data, batch, generator).amax(dim=(2, 3))  # (B, 14)
    shape, light = told[:, 0], told[:, MAPS]
    assert torch.equal(told, torch.stack([shape] * MAPS + [light] * LIGHT, dim=1))
    assert (light <= shape).all()
    assert shape.mean() == pytest.approx(0.8, abs=0.06)
    assert light.mean() == pytest.approx(0.6, abs=0.07)


def test_pictures_of_a_matte_object_are_its_colour_times_the_light_that_is_told():
    views = lit_views(Look(Spec("snowman", "red"), "rubber"), np.random.default_rng(1), 64, 64)
    assert views.structure is not None
    assert views.structure.shape == (4, LIT_MAPS, 64, 64)
    structure = unstacked(torch.from_numpy(views.structure) / 127)
    assert structure.light is not None
    picture, matte = srgb_to_linear(torch.from_numpy(views.pictures) / 255), srgb_to_linear(structure.light[..., :3])
    lit = (structure.alpha == 1) & (structure.light[..., :3].amax(dim=-1) < 0.99) & (matte.amin(dim=-1) > 0.05)
    ratio = (picture / matte.clamp(min=0.05))[lit]  # of a base colour to a grey
    body = ratio[(ratio[:, 0] > 2 * ratio[:, 1]) & (ratio[:, 0] > 2 * ratio[:, 2])]
    assert len(body) > 300
    low, high = body[:, 0].quantile(torch.tensor([0.1, 0.9])).tolist()  # other parts shine through at edges
    assert high < 1.15 * low


def test_the_structure_is_that_of_the_pictures():
    spec = Spec("mug", "red")
    views = render_object(spec, np.random.default_rng(3), size=64, maps=64)
    again = render_object(spec, np.random.default_rng(3), size=64)
    assert views.structure is not None
    assert views.structure.shape == (4, 5, 64, 64)
    if not views.varied:
        assert np.array_equal(views.pictures, again.pictures)
    covered = views.structure[:, 4] == 127
    background = np.abs(views.pictures / 255 - views.background).max(axis=-1) < 0.01
    assert not (background & covered).mean() > 0.02
    assert background[views.structure[:, 4] == 0].all()
    lengths = np.linalg.norm(views.structure[:, 1:4] / 127, axis=1)
    assert np.abs(lengths[covered] - 1).max() < 0.02
    depth = views.structure[:, 0][covered] / 127
    assert 0.19 <= depth.min() < 0.25
    assert depth.max() > 0.95


def test_without_maps_objects_are_what_they_were():
    views = render_object(Spec("duck", "yellow"), np.random.default_rng(5))
    assert views.structure is None
    assert not views.varied


def test_half_of_the_objects_have_another_shape():
    kinds = [render_object(Spec("car", "red"), np.random.default_rng(seed), 16, 1, 16).varied for seed in range(60)]
    assert 18 <= sum(kinds) <= 42


def facing(mesh: Mesh) -> float:
    """Return the mean cosine between the normals of vertices and those of their faces."""
    corners = mesh.vertices[mesh.faces]
    faces = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    faces /= np.linalg.norm(faces, axis=1, keepdims=True).clip(1e-12)
    assert mesh.normals is not None
    return float((mesh.normals[mesh.faces] * faces[:, None]).sum(axis=-1).mean())


def test_changed_shapes_keep_their_normals_outwards_their_colours_and_their_size():
    mesh = build(Spec("teapot", "pink", "blue"), np.random.default_rng(0))
    usual = facing(mesh)
    assert usual > 0.9
    for other in (
        stretched(mesh, np.array([0.6, 1.5, 1.0])), mirrored(mesh, 0), turned(mesh, "y", 70), turned(mesh, "z", -40),
        joined(mesh, mirrored(mesh, 2)),
    ):  # fmt: skip
        assert facing(other) == pytest.approx(usual, abs=0.05)
    radius = np.linalg.norm(mesh.vertices, axis=1).max()
    for seed in range(8):
        other = varied(mesh, np.random.default_rng(seed))
        assert np.linalg.norm(other.vertices, axis=1).max() == pytest.approx(radius, rel=1e-4)
        assert facing(other) > 0.85
        assert other.colors is not None
        assert mesh.colors is not None
        assert {tuple(c) for c in other.colors} == {tuple(c) for c in mesh.colors}


def test_turning_is_counter_clockwise_from_above_and_fitting_centres():
    vertices = np.array([[0, 0, 1], [0, 1, 1], [0, 0, 2]], np.float32)
    normals = np.array([[0, 0, 1]] * 3, np.float32)
    mesh = Mesh(vertices, np.array([[0, 1, 2]], np.int32), None, normals)
    right = turned(mesh, "y", 90)  # what faced +Z faces +X
    np.testing.assert_allclose(right.vertices[0], [1, 0, 0], atol=1e-6)
    assert right.normals is not None
    np.testing.assert_allclose(right.normals[0], [1, 0, 0], atol=1e-6)
    small = fitted(mesh, 0.5)
    np.testing.assert_allclose(small.vertices.min(axis=0) + small.vertices.max(axis=0), 0, atol=1e-6)


def test_only_the_structure_of_usual_shapes_is_dropped_and_groups_share_it():
    n = 40
    words = torch.ones(n, 8, 24, dtype=torch.int16)
    latents, angles = torch.zeros(n, 4, 1, 1, 1), torch.zeros(n, 4, 3)
    views = diffusion.LatentViews.of(latents, angles, words, words[:, None].expand(-1, 4, -1, -1))
    unusual = torch.arange(n) % 2 == 0
    maps = torch.full((n, 4, 5, 4, 4), 127, dtype=torch.int8)
    data = ToldViews(views, {"maps": maps, "varied": unusual}, [""] * n)
    generator = torch.Generator().manual_seed(0)
    batch = diffusion.draw_batch(views, torch.zeros(24, dtype=torch.int64), 400, generator)
    told = STRUCTURE.draw(data, batch, generator)
    kept = (told == 1).flatten(1).all(dim=1)
    assert torch.equal(kept, (told != 0).flatten(1).any(dim=1))
    assert kept[unusual[batch.rows]].all()
    assert kept[~unusual[batch.rows]].float().mean() == pytest.approx(0.6, abs=0.07)
    groups = kept[: len(kept) - batch.n_single].reshape(-1, 4)
    assert (groups == groups[:, :1]).all()
