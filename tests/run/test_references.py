"""Pictures that a run follows: reading them, their losses in closed form, and whole runs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sds3d.cameras import Cameras, look_at, orbit
from sds3d.config import ConfigError, build
from sds3d.files import RunError
from sds3d.formats.pictures import to_uint8
from sds3d.rendering.shading import shade_mesh
from sds3d.representations.base import Rendering
from sds3d.run.config import RunConfig, new_run, read_config
from sds3d.run.inputs import check_inputs
from sds3d.run.outputs import load_scene
from sds3d.run.reference_config import ReferenceConfig
from sds3d.run.reference_pictures import COLOR, DEPTH, FILL, MASK, NORMAL, SEEN, read_view
from sds3d.run.references import References
from sds3d.toybox.objects import build as build_object
from sds3d.toybox.world import Spec
from tests.run.scenes import SIZE, Canvas
from tests.run.tiny_runs import finish, same, tiny

KNOWN = {"azimuth": 30.0, "elevation": 15.0, "distance": 2.1, "fovy": 30.0}


class Shown(Canvas):
    """A picture that is the same in any light."""

    shows_colors = True

    def portray(self, cameras: Cameras, background: torch.Tensor) -> Rendering:
        return self.render(cameras, background)


def save(path: Path, rgb: Any, alpha: Any = None) -> Path:
    """Write a picture (H, W, 3) in [0, 1], with alpha (H, W) if given."""
    layers = to_uint8(np.asarray(rgb, np.float32))
    if alpha is not None:
        layers = np.concatenate([layers, to_uint8(np.asarray(alpha, np.float32))[..., None]], axis=-1)
    Image.fromarray(layers).save(path)
    return path


def half(path: Path, level: float = 0.8, size: int = SIZE) -> Path:
    """Write a grey picture whose left half is opaque."""
    alpha = np.zeros((size, size))
    alpha[:, : size // 2] = 1
    return save(path, np.full((size, size, 3), level), alpha)


def references(*configs: dict[str, Any]) -> References:
    built = [build(ReferenceConfig, config) for config in configs]
    return References(built, [read_view(config, "reference.0", 2.1, 30.0) for config in built])


def losses(found: References, scene: Any, step: int = 0, progress: float = 0.0, size: int = SIZE) -> dict[str, float]:
    values = found.losses(scene, step, progress, size, torch.Generator().manual_seed(1))
    return {name: float(value.detach()) for name, value in values.items()}


def test_losses_are_those_of_the_formulas(tmp_path: Path) -> None:
    picture = half(tmp_path / "a.png")
    level = 204 / 255  # 0.8 in bytes
    grey = float(torch.rand((), generator=torch.Generator().manual_seed(1)))
    found = references({"image": str(picture), **KNOWN, "color_weight": 3.0, "mask_weight": 5.0})
    pixels = SIZE * SIZE / 2
    for alpha in (1.0, 0.25):
        ours = alpha * 0.5 + (1 - alpha) * grey
        color = 0.5 * 3 * (pixels - SIZE) * (ours - level) ** 2  # without the column at the mask's edge
        outline = 0.5 * pixels * ((1 - alpha) ** 2 + alpha**2)
        assert losses(found, Shown(0.5, alpha)) == pytest.approx(
            {"reference_color": 3 * color, "reference_mask": 5 * outline}, rel=1e-5
        )


def test_weights_change_over_time_and_pictures_take_turns(tmp_path: Path) -> None:
    config = {"image": str(half(tmp_path / "a.png")), **KNOWN, "every": 2, "mask_weight": 0}
    found = references(config | {"color_weight": [[0, 1], [1, 3]]}, config | {"color_weight": 0})
    one = losses(found, Shown(), progress=0.0)["reference_color"]
    assert losses(found, Shown(), progress=0.5) == pytest.approx({"reference_color": 2 * one})
    assert losses(found, Shown(), step=1) == {}  # the turn of the other one, which has no weight


def test_where_the_scene_shows_no_colours_only_the_outline_counts(tmp_path: Path) -> None:
    scene = Shown()
    scene.shows_colors = False
    found = references({"image": str(half(tmp_path / "a.png")), **KNOWN})
    assert losses(found, scene).keys() == {"reference_mask"}


def test_depth_and_normals_are_compared_at_the_camera(tmp_path: Path) -> None:
    """A plane that is tilted against the camera, in closed form."""
    ones = np.ones((SIZE, SIZE))
    camera = orbit([90.0], 0.0)  # on +X, so that world +X is camera +z and world +Z is camera -x
    tilt = np.tile(np.linspace(0, 1, SIZE), (SIZE, 1))
    normal = np.array([-0.6, 0.0, 0.8])
    found = references(
        {
            "image": str(save(tmp_path / "a.png", np.ones((SIZE, SIZE, 3)), np.pad(ones[1:-1, 1:-1], 1))),
            "depth": str(save(tmp_path / "d.png", np.repeat(tilt[..., None], 3, -1))),
            "normal": str(save(tmp_path / "n.png", np.broadcast_to((normal + 1) / 2, (SIZE, SIZE, 3)))),
            **KNOWN, "azimuth": 90.0, "elevation": 0.0, "color_weight": 0, "mask_weight": 0,
            "depth_weight": 1.0, "normal_weight": 1.0,
        }
    )  # fmt: skip
    inside = (SIZE - 2) ** 2

    class Plane(Shown):
        def __init__(self, depth: np.ndarray, world_normal: tuple[float, float, float]) -> None:
            super().__init__()
            self.depth, self.normal = depth, world_normal

        def portray(self, cameras: Cameras, background: torch.Tensor) -> Rendering:
            assert torch.allclose(cameras.c2w(), camera.c2w(), atol=1e-6)
            full = torch.ones(1, SIZE, SIZE, 1)
            depth = torch.tensor(self.depth, dtype=torch.float32)[None, ..., None]
            normal = torch.tensor(self.normal).expand(1, SIZE, SIZE, 3)
            return Rendering(full.expand(-1, -1, -1, 3), full, depth, normal)

    right = losses(found, Plane(3 - 0.5 * tilt, (0.8, 0.0, 0.6)))
    assert right == pytest.approx({"reference_depth": 0, "reference_normal": 0}, abs=0.02 * inside)
    assert right["reference_depth"] == pytest.approx(0, abs=1e-4 * inside)
    wrong = losses(found, Plane(3 + 0.5 * tilt, (-0.8, 0.0, -0.6)))
    assert wrong["reference_depth"] == pytest.approx(2 * inside, rel=1e-4)
    assert wrong["reference_normal"] == pytest.approx(2 * inside, rel=0.01)
    aside = losses(found, Plane(3 - 0.5 * tilt, (0.0, 1.0, 0.0)))
    assert aside["reference_normal"] == pytest.approx(inside, rel=0.01)


def true_picture(size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    mesh = build_object(Spec("mug", "red"), np.random.default_rng(3))
    rgb, alpha = shade_mesh(mesh, orbit([30.0], 15.0, size=size), (0, 0, 0))
    return rgb[0], alpha[0, ..., 0]


def test_a_picture_that_was_cropped_off_centre_is_put_back_in_its_place(tmp_path: Path) -> None:
    rgb, alpha = true_picture()
    rgb = rgb / np.maximum(alpha, 1e-3)[..., None]
    rows, columns = slice(8, 56), slice(4, 64)
    path = save(tmp_path / "a.png", rgb[rows, columns], alpha[rows, columns])
    fovy = 2 * math.degrees(math.atan(math.tan(math.radians(15)) * 48 / 64))
    config = build(ReferenceConfig, {"image": str(path), **KNOWN, "fovy": fovy, "center": [28 / 60, 24 / 48]})
    view = read_view(config, "reference.0", 1.0, 90.0)
    assert view.layers.shape == (64, 64, 5)  # without depth and normals
    assert float(view.camera.fovy) == pytest.approx(30, rel=1e-6)
    seen = np.zeros((64, 64))
    seen[rows, columns] = 1
    assert np.array_equal(view.layers[..., SEEN][..., 0], seen)
    assert np.abs(view.layers[..., MASK][..., 0] - alpha * seen).max() < 1 / 255
    assert np.abs(view.layers[..., COLOR] - (rgb * alpha[..., None]) * seen[..., None]).max() < 3 / 255


def test_the_background_does_not_mix_with_depth_and_normals(tmp_path: Path) -> None:
    """A ball of 1024 pixels on black, in a picture of 64: at its edge, the closed form is the mean of its own part."""
    y, x = (np.mgrid[:1024, :1024] + 0.5) / 512 - 1
    inside = np.hypot(x, y) < 0.75
    z = np.sqrt(np.maximum(0.75**2 - x**2 - y**2, 0))
    normal = np.stack([x, -y, z], axis=-1) / 0.75
    files = {
        "image": str(save(tmp_path / "a.png", np.ones((1024, 1024, 3)), inside)),
        "depth": str(save(tmp_path / "d.png", np.repeat((z * inside)[..., None], 3, -1))),
        "normal": str(save(tmp_path / "n.png", (normal + 1) / 2 * inside[..., None])),
    }
    layers = references({**files, **KNOWN})._at(64)[0].numpy()
    covered = inside.reshape(64, 16, 64, 16).mean((1, 3))
    edge = (covered > 0.6) & (covered < 1)
    assert edge.sum() > 50

    def mean(values: np.ndarray) -> np.ndarray:
        parts = (values * inside[..., None]).reshape(64, 16, 64, 16, -1).sum((1, 3))
        return (parts / np.maximum(covered, 1e-6)[..., None] / 256)[edge]

    def unit(values: np.ndarray) -> np.ndarray:
        return values / np.linalg.norm(values, axis=-1, keepdims=True)

    cosine = (unit(layers[..., NORMAL][edge]) * unit(mean(normal))).sum(-1).clip(-1, 1)
    assert np.degrees(np.arccos(cosine)).mean() < 3
    assert np.abs(layers[..., DEPTH][edge] - mean(z[..., None])).mean() < 0.03
    # Far inside, nothing changes.
    middle = slice(24, 40), slice(24, 40)
    assert np.abs(layers[..., DEPTH][middle][..., 0] - z[8::16, 8::16][middle]).max() < 0.01


def test_pictures_with_and_without_depth_go_together(tmp_path: Path) -> None:
    """All have the channels of the largest; only sizes of renders are kept beside the pictures themselves."""
    plain = {"image": str(half(tmp_path / "a.png")), **KNOWN}
    deep = {**plain, "depth": str(save(tmp_path / "d.png", np.full((SIZE, SIZE, 3), 0.4)))}
    assert references(plain, plain)._at(8).shape == (2, 8, 8, 5)
    found = references(plain, deep)
    assert [layers.shape[-1] for layers in found._layers] == [5, 6]
    assert found._at(SIZE)[:, 0, 0, DEPTH].tolist() == [[0.0], [pytest.approx(102 / 255)]]


def test_without_a_distance_the_object_has_the_size_of_renders(tmp_path: Path) -> None:
    y, x = np.mgrid[:100, :160] + 0.5
    alpha = (np.hypot(x - 40, y - 60) < 20).astype(float)
    path = save(tmp_path / "a.png", np.ones((100, 160, 3)), alpha)
    view = read_view(build(ReferenceConfig, {"image": str(path), "azimuth": 0, "elevation": 0}), "", 2.1, 30.0)
    side = len(view.layers)
    rows, columns = np.nonzero(view.layers[..., MASK][..., 0] > 0.5)
    assert rows.mean() + 0.5 == pytest.approx(side / 2, abs=0.5)
    assert columns.mean() + 0.5 == pytest.approx(side / 2, abs=0.5)
    assert np.hypot(rows + 0.5 - side / 2, columns + 0.5 - side / 2).max() == pytest.approx(FILL * side / 2, abs=0.8)
    assert (float(view.camera.distance), float(view.camera.fovy)) == pytest.approx((2.1, 30.0))
    # With a field of view, the object is as large as in renders, and the perspective is that of the picture.
    config = build(ReferenceConfig, {"image": str(path), "azimuth": 0, "elevation": 0, "fovy": 50})
    camera = read_view(config, "", 2.1, 30.0).camera
    tangent = math.tan(math.radians(float(camera.fovy)) / 2)
    assert tangent == pytest.approx(math.tan(math.radians(25)) * (19.9 / FILL) / 50, rel=0.02)
    assert float(camera.distance) * tangent == pytest.approx(2.1 * math.tan(math.radians(15)), rel=1e-5)


def test_a_pose_is_the_camera(tmp_path: Path) -> None:
    pose = look_at(torch.tensor([[1.0, 2.0, 2.0]]), torch.tensor([[0.1, 0.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.1]]))
    config = {"image": str(half(tmp_path / "a.png")), "fovy": 40, "pose": pose[0].tolist()}
    camera = read_view(build(ReferenceConfig, config), "", 2.1, 30.0).camera
    assert torch.equal(camera.c2w(), pose)
    assert float(camera.distance) == pytest.approx(3)
    assert float(camera.azimuth) == pytest.approx(math.degrees(math.atan2(1, 2)))
    assert float(camera.elevation) == pytest.approx(math.degrees(math.asin(2 / 3)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": "none.png"}, r"reference\.0: none\.png: there is no such file"),
        ({"image": "text.png"}, r"reference\.0: text\.png: it is no PNG, JPEG or WebP"),
        ({"image": "cut.png"}, r"reference\.0: cut\.png: it cannot be decoded"),
        ({"image": "noisy.png"}, r"reference\.0: noisy\.png: its background is neither .* give a mask"),
        ({"mask": "wide.png"}, r"reference\.0: wide\.png: the mask and its picture are not of the same shape"),
        ({"mask": "black.png"}, r"reference\.0: black\.png: it shows no object"),
        ({"normal": "wide.png"}, r"reference\.0: wide\.png: it has another shape than the picture \(32 x 16"),
        ({"depth": "red.png"}, r"reference\.0: red\.png: the picture has colours"),
    ],
    ids=["missing", "text", "truncated", "opaque", "wide mask", "empty mask", "wide normals", "coloured depth"],
)
def test_bad_files_give_one_line(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    half(tmp_path / "a.png")
    save(tmp_path / "noisy.png", np.random.default_rng(0).random((16, 16, 3)))
    save(tmp_path / "wide.png", np.ones((16, 32, 3)))
    save(tmp_path / "black.png", np.zeros((16, 16, 3)))
    save(tmp_path / "red.png", np.broadcast_to([1.0, 0.0, 0.0], (16, 16, 3)))
    (tmp_path / "text.png").write_text("no picture")
    noise = np.random.default_rng(0).random((64, 64, 3))
    save(tmp_path / "cut.png", noise, noise[..., 0])
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:5000])
    files = {key: str(tmp_path / name) for key, name in ({"image": "a.png"} | changes).items()}
    with pytest.raises(ConfigError, match=message) as error:
        check_inputs(tiny(reference=[files | KNOWN]))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["image", "mask", "depth", "normal"])
def test_a_null_byte_in_a_name_gives_one_line(key: str) -> None:
    with pytest.raises(ConfigError) as error:
        build(RunConfig, {"prompt": "a red mug", "reference": [{"image": "a.png", key: "a\0.png"}]})
    assert str(error.value).count("\n") == 0
    assert f"reference.0.{key}" in str(error.value)
    assert "is no file's name: it has a null byte" in str(error.value)
    with pytest.raises(ConfigError, match=r"prompts\.image.*null byte"):
        build(RunConfig, {"prompt": "a red mug", "prompts": {"image": "a\0.png"}})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"elevation": None}, "both azimuth and elevation"),
        ({"pose": torch.eye(4).tolist()}, "either pose"),
        ({"distance": None, "center": [0.4, 0.5]}, "center needs distance or pose"),
        ({"center": [12, 0.5]}, r"center\.0.*less than or equal to 2"),
        ({"azimuth": 1000}, "less than or equal to 360"),
        ({"azimut": 0}, 'did you mean "reference.0.azimuth"'),
    ],
    ids=["one angle", "two cameras", "center of a cut", "center far away", "out of range", "misspelt"],
)
def test_settings_that_contradict_each_other_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny(reference=[{"image": "a.png"} | KNOWN | changes])


@pytest.mark.parametrize(
    "where",
    [2 * torch.eye(4), torch.eye(4).flip(0), torch.diag(torch.tensor([1.0, 1, -1, 1]))],
    ids=["scaled", "turned over", "mirrored"],
)
def test_a_pose_that_is_no_camera_is_refused(where: torch.Tensor) -> None:
    with pytest.raises(ConfigError, match=r"rotation|last row"):
        tiny(reference=[{"image": "a.png", "fovy": 30, "pose": where.tolist()}])


def followed(folder: Path, **changes: Any) -> RunConfig:
    """Return a tiny run that follows a blue picture."""
    picture = folder / "a.png"
    if not picture.exists():
        folder.mkdir(parents=True, exist_ok=True)
        y, x = np.mgrid[-1:1:32j, -1:1:32j]
        save(picture, np.broadcast_to([0.1, 0.2, 0.9], (32, 32, 3)), np.hypot(x, y) < 0.5)
    return tiny(reference=[{"image": str(picture), **KNOWN, **changes}])


def test_a_run_keeps_copies_and_ends_bit_identical_after_a_pause(tmp_path: Path) -> None:
    config = followed(tmp_path / "own")
    straight, paused = new_run(tmp_path / "a", config), new_run(tmp_path / "b", config)
    assert straight.folder.name == paused.folder.name
    (tmp_path / "own" / "a.png").unlink()  # the runs are whole
    copy = Path(read_config(straight).reference[0].image)
    assert copy.parent.parent == straight.folder / "inputs"
    finish(straight)
    assert finish(paused, stop=5) == list(range(1, 6))
    finish(paused)
    assert same(straight, paused)
    assert {"reference_color", "reference_mask"} <= straight.events()[-1]["losses"].keys()
    # The settings of a run give the same run again, and another picture another run.
    assert new_run(tmp_path / "a", read_config(straight)).folder == straight.folder
    half(tmp_path / "own" / "a.png")
    assert new_run(tmp_path / "a", followed(tmp_path / "own")).folder != straight.folder


def test_the_scene_becomes_the_picture(tmp_path: Path) -> None:
    """Far stronger than the rule, the picture decides what its camera sees; the rule alone knows nothing of blue."""
    config = followed(tmp_path / "own", color_weight=100, mask_weight=100)
    config = config.model_copy(update={"steps": 40})
    run, alone = new_run(tmp_path / "a", config), new_run(tmp_path / "b", config.model_copy(update={"reference": ()}))
    camera = orbit([30.0], 15.0, size=16)
    away = {}
    for each in (run, alone):
        finish(each)
        with torch.no_grad():
            middle = load_scene(each, torch.device("cpu")).render(camera, torch.ones(3)).rgb[0, 7:9, 7:9].mean((0, 1))
        away[each] = float((middle - torch.tensor([0.1, 0.2, 0.9])).abs().max())
    assert away[run] < 0.15
    assert away[alone] > 0.5


def test_stages_may_weigh_the_pictures(tmp_path: Path) -> None:
    config = followed(tmp_path).model_dump() | {"stages": [{"steps": 1, "reference_weight": w} for w in (1, 3, 0)]}
    run = new_run(tmp_path / "runs", build(RunConfig, config))
    finish(run)
    first, second, third = (json.loads(line)["losses"] for line in (run.folder / "events.jsonl").open())
    for name in ("reference_color", "reference_mask"):  # of the same scene, but for a step of warm-up
        assert second[name] == pytest.approx(3 * first[name], rel=0.05)
        assert name not in third


def test_a_stage_cannot_change_pictures(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="reference: it applies to the whole run"):
        tiny(stages=[{"reference": []}])


def test_the_missing_file_of_a_run_is_named(tmp_path: Path) -> None:
    run = new_run(tmp_path / "a", followed(tmp_path / "own"))
    next((run.folder / "inputs").glob("*/a.png")).unlink()
    with pytest.raises((ConfigError, RunError), match=r"cannot read .*a\.png: No such file"):
        finish(run)
