"""Generators: what they make is an ordinary scene, gradients reach all of the network, and prompts are learnt apart."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sds3d.cameras import orbit
from sds3d.config import ConfigError, build
from sds3d.files import PriorError, RunError
from sds3d.generators.base import GeneratedField, Generator, generate
from sds3d.generators.files import SETTINGS, WEIGHTS, About, load_generator, read_about, save_generator
from sds3d.guidance.base import Views
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.priors.digest import model_anywhere
from sds3d.priors.gaussian import Gaussian, GaussianPrior
from sds3d.prompts.conditioning import Conditioning
from sds3d.prompts.prompt import PromptConfig, encode_prompt
from sds3d.representations.field_nerf import FieldNerfScene
from sds3d.run.config import new_run, read_config
from sds3d.run.generated_start import check_generator, generated_scene
from sds3d.run.generator_pictures import sample_sheet, views_between
from sds3d.run.inputs import check_inputs
from sds3d.run.outputs import load_scene
from sds3d.run.train_generator import CHECKPOINT, GeneratorTraining, train_generator, write_card
from sds3d.toybox.render import render_prompt
from sds3d.toybox.true_views import TrueViews
from tests.run.tiny_runs import SIZE, disc, finish, tiny

SMALL = {
    "triplane": {
        "name": "triplane",
        "width": 16,
        "layers": 1,
        "heads": 2,
        "patches": 2,
        "features": 8,
        "hidden": 8,
        "seed_size": 1,
    },
    "prd": {"name": "prd", "steps": 2, "latents": 8, "doublings": 1, "width": 8, "features": 8, "hidden": 8},
    "hyper": {"name": "hyper", "width": 16, "levels": 3, "log2_entries": 9, "finest": 16, "hidden": 8, "seed_size": 1},
}
TEXTS = {"a yellow ball": (0.95, 0.85, 0.1), "a blue ball": (0.02, 0.02, 0.4)}
WIDTH = 2  # that of the prior in closed form, whose tokens are mean and spread


@pytest.fixture(autouse=True)
def coarse_occupancy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of a small step's time would go into the occupancy grid."""
    monkeypatch.setattr("sds3d.representations.field_nerf._CORNERS", 12)


def make(kind: str) -> Generator:
    about = About(generator=SMALL[kind], text_width=WIDTH, model="", digest="", rule="sds")  # type: ignore[arg-type]
    return about.generator.make(WIDTH, balls(), torch.Generator().manual_seed(0))


def told(network: Generator, seed: int) -> tuple[Conditioning, torch.Tensor]:
    """Return a text and the seed of an object."""
    generator = torch.Generator().manual_seed(seed)
    return Conditioning(torch.rand(1, 3 * 8 * 8, WIDTH, generator=generator)), network.draw_seed(generator)


def places(count: int) -> torch.Tensor:
    return torch.rand(count, 3, generator=torch.Generator().manual_seed(0)) - 0.5


def balls() -> GaussianPrior:
    """A prior of two prompts: pictures of one colour each."""
    colors = {text: Gaussian(torch.tensor(rgb)[:, None, None], 0.1) for text, rgb in TEXTS.items()}
    return GaussianPrior({**colors, "": Gaussian(0.5, 0.3)}, (3, 8, 8))


def training(**changes: object) -> GeneratorTraining:
    settings = {
        "generator": SMALL["hyper"] | {"lr": 3e-2, "shared_lr": 2e-2},
        "texts": list(TEXTS),
        "cameras": {"size": 8},
        "guidance": {"name": "sds", "scale": 1.0},
        "prompts": {"view_dependent": False},
        "optimizer": {"warmup": 2},
        "checkpoint_every": 3,
        "sample_every": 1000,
    }
    return build(GeneratorTraining, settings, changes)


def silent(*_: object) -> None:
    pass


@pytest.mark.parametrize("kind", SMALL)
def test_what_is_generated_is_an_ordinary_scene(kind: str) -> None:
    network = make(kind)
    text, seed = told(network, 1)
    field = GeneratedField(network)
    field.given = network(text, seed)
    points = places(50)
    scene = generate(network, text, seed)
    assert type(scene) is FieldNerfScene
    for ours, theirs in zip(scene.field(points), field(points), strict=True):
        torch.testing.assert_close(ours, theirs)
    again = network.config.representation.make_field(torch.Generator())
    again.load_state_dict(scene.field.state_dict())  # the state of a scene of that representation
    torch.testing.assert_close(again(points)[1], field(points)[1])
    other = generate(network, *told(network, 2))
    assert not torch.equal(other.field(points)[1], scene.field(points)[1])
    assert generate(network, text, seed).to_mesh(24).faces.size > 0


@pytest.mark.parametrize("kind", SMALL)
def test_gradients_reach_every_parameter_that_is_used(kind: str) -> None:
    network = make(kind)
    field = GeneratedField(network)
    field.given = network(*told(network, 1))
    density, color = field(places(300))
    (density.square().mean() + color.square().mean()).backward()
    groups = field.parameter_groups()
    trained = [p for group in groups for p in group["params"]]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained)
    assert network.gives == set(field.given)
    assert len(trained) == len(list(network.parameters())) - len(network.gives)


@pytest.mark.parametrize(
    ("kind", "lr", "steps"),
    [
        ("hyper", 3e-2, 200),
        pytest.param("triplane", 2e-3, 200, marks=pytest.mark.slow),
        pytest.param("prd", 1e-2, 120, marks=pytest.mark.slow),
    ],
)
def test_prompts_get_the_colors_that_the_prior_wants(kind: str, lr: float, steps: int, tmp_path: Path) -> None:
    prior, rates = balls(), {"lr": lr, "shared_lr": 2e-2}
    folder = train_generator(tmp_path, training(steps=steps, generator=SMALL[kind] | rates), silent, prior=prior)
    network = load_generator(folder, prior)
    for text, wanted in TEXTS.items():
        scene = generate(network, prior.encode_text([text]), torch.zeros(network.seed_size))
        with torch.no_grad():
            view = scene.render(orbit([0.0, 120.0], size=16), torch.full((3,), 0.5))
        mean = (view.rgb * view.alpha).sum((0, 1, 2)) / view.alpha.sum()
        assert (mean - torch.tensor(wanted)).abs().max() < 0.15
    assert read_about(folder).rule == "sds"
    # On the way from one prompt's embedding to the other's, yellow turns into blue.
    first, last = TEXTS
    yellow = [float(view[8, 8, 0] - view[8, 8, 2]) for view in views_between(folder, prior, first, last, 4, size=16)]
    assert all(later <= before + 0.01 for before, later in pairwise(yellow))
    assert yellow[0] > 0.5 > -0.2 > yellow[-1]


@pytest.mark.parametrize("kind", ["hyper", "prd"])
def test_a_training_that_was_killed_ends_with_the_same_weights(kind: str, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill(stage: str, step: int, total: int, figures: dict[str, float]) -> None:
        if step == 5:  # two steps after the checkpoint
            raise Killed

    config = training(steps=7, generator=SMALL[kind])
    with pytest.raises(Killed):
        train_generator(tmp_path / "killed", config, kill, prior=balls())
    assert load_file(tmp_path / "killed" / CHECKPOINT)["step"] == 3
    train_generator(tmp_path / "killed", config, silent, prior=balls())
    train_generator(tmp_path / "whole", config, silent, prior=balls())
    killed, whole = (load_file(tmp_path / name / CHECKPOINT) for name in ("killed", "whole"))
    assert killed.keys() == whole.keys()
    assert all(torch.equal(killed[name], whole[name]) for name in whole)
    with pytest.raises(ValueError, match="was begun with steps=7: use these again, or another --out"):
        train_generator(tmp_path / "whole", training(steps=8, generator=SMALL[kind]), silent, prior=balls())


def test_a_training_begins_with_the_weights_of_another(tmp_path: Path) -> None:
    first = train_generator(tmp_path / "first", training(steps=2), silent, prior=balls())
    tiny = SMALL["hyper"] | {"lr": 1e-12, "shared_lr": 1e-12}  # so that one step leaves the weights as they were
    config = training(steps=1, start_from=str(first), generator=tiny, optimizer={"warmup": 0})
    second = train_generator(tmp_path / "second", config, silent, prior=balls())
    assert (second / WEIGHTS).read_bytes() == (first / WEIGHTS).read_bytes()
    cards = [(folder / "CARD.md").read_text() for folder in (first, second)]
    assert ["begun with the weights of another" in card for card in cards] == [False, True]
    wider = training(start_from=str(first), generator=SMALL["hyper"] | {"seed_size": 3})
    with pytest.raises(ConfigError, match=r"another network: give the `generator` settings of its generator\.json"):
        train_generator(tmp_path / "third", wider, silent, prior=balls())


def test_a_training_writes_a_card_and_a_sheet_has_a_row_per_prompt(tmp_path: Path) -> None:
    prior = balls()
    folder = train_generator(tmp_path, training(steps=1), silent, prior=prior)
    card = (folder / "CARD.md").read_text()
    for told in ("2 in all, for example `a yellow ball`", "the rule `sds`", "`hyper`, 0.0", "1 steps of one prompt"):
        assert told in card
    assert (folder / "samples.png").stat().st_size > 0
    (folder / "CARD.md").unlink()
    assert write_card(tmp_path, prior).read_text() == card
    with pytest.raises(RunError, match=r"has no training\.json"):
        write_card(folder, prior)
    one, two = (sample_sheet(folder, prior, list(TEXTS)[:n], size=32) for n in (1, 2))
    assert two.width >= one.width
    assert two.height > one.height + 31
    other = sample_sheet(folder, prior, list(TEXTS)[:1], seed=1, size=32)
    assert np.asarray(other).shape == np.asarray(one).shape
    assert not np.array_equal(np.asarray(other), np.asarray(one))


def test_a_generator_names_its_prior_so_that_it_is_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    folder = train_generator(Path("out"), training(steps=1, prior={"model": "mine"}), silent, prior=balls())
    assert read_about(folder).model == str(tmp_path / "mine")
    assert model_anywhere("toybox") == "toybox"
    assert model_anywhere("someone/model") == "someone/model"


def test_prompts_are_needed_for_a_prior_without_words(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not tell its words: give texts"):
        train_generator(tmp_path, training(texts=[], prior={"model": str(tmp_path)}), silent, prior=balls())


def test_a_folder_that_is_none_or_is_damaged_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"has no generator\.json and generator\.safetensors"):
        load_generator(tmp_path, balls())
    about = About(generator=SMALL["hyper"], text_width=WIDTH, model="m", digest="d", rule="asd")  # type: ignore[arg-type]
    save_generator(tmp_path, about, make("hyper"))
    assert read_about(tmp_path) == about
    weights = (tmp_path / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(weights[:-10])
    with pytest.raises(RunError, match=r"does not fit its generator\.json"):
        load_generator(tmp_path, balls())
    (tmp_path / WEIGHTS).write_bytes(weights)
    text = (tmp_path / SETTINGS).read_text()
    (tmp_path / SETTINGS).write_text(text.replace('"hidden": 8', '"hidden": 16'))
    with pytest.raises(RunError, match=r"does not fit its generator\.json"):
        load_generator(tmp_path, balls())
    (tmp_path / SETTINGS).write_text("{")
    with pytest.raises(RunError, match="is damaged"):
        load_generator(tmp_path, balls())


def test_true_views_show_the_object_of_the_prompt_on_backgrounds_of_any_color() -> None:
    prior = GaussianPrior({text: Gaussian(0.0, 1.0) for text in ("a red mug", "")}, (3, 32, 32))
    prompt = encode_prompt(prior, "a red mug", PromptConfig(view_dependent=False))
    cameras = orbit([0.0, 90.0], 15.0, size=32)
    views = Views(cameras, torch.zeros(2, 32, 32, 3), torch.zeros(2, 8, 8, 1), torch.zeros(2, 8, 8, 1), prompt)
    generator = torch.Generator().manual_seed(0)
    first, second = (TrueViews()(torch.zeros(2, 3, 32, 32), views, 0.0, generator) for _ in range(2))
    truth = torch.from_numpy(render_prompt("a red mug", [0.0, 90.0], size=32)).float() / 255
    assert first.gradient is None
    assert first.image_target is not None
    assert second.image_target is not None
    inside = ((truth - 1).abs() > 0.2).any(dim=-1)
    assert (first.image_target - truth)[inside].abs().median() < 0.01  # edges blend with the background
    behind = [target[0, 0, 0] for target in (first.image_target, second.image_target)]
    assert (behind[0] - behind[1]).abs().max() > 0.1


def test_a_run_without_steps_exports_what_a_generator_makes(tmp_path: Path) -> None:
    prior = disc()
    config = training(steps=1, texts=["a ball"], cameras={"size": SIZE})
    folder = train_generator(tmp_path / "trained", config, silent, prior=prior)
    own = {"name": "hash_nerf", "levels": 3, "log2_entries": 9, "finest": 16, "hidden": 8}
    run = new_run(tmp_path, tiny(start_from=str(folder), steps=0, representation=own))
    check_inputs(read_config(run))
    assert finish(run) == []
    assert (run.exports / "a-ball.glb").is_file()
    made = generated_scene(folder, prior, encode_prompt(prior, "a ball", PromptConfig()), seed=0)
    assert torch.equal(load_scene(run, torch.device("cpu")).to_grid(8), made.to_grid(8))
    other = new_run(tmp_path, tiny(start_from=str(folder), steps=0, prior={"model": str(tmp_path)}))
    with pytest.raises(PriorError, match="was trained with another prior, toybox"):
        finish(other)
    with pytest.raises(PriorError, match="was trained with another prior, toybox"):
        check_generator(folder, DiffusersConfig(model=str(tmp_path)))
