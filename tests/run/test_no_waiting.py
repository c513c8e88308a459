"""A step on a device whose values nobody can read: torch's meta device, which has shapes only.

Whatever would wait for a GPU raises there: reading a value, a branch on a tensor, `nonzero`, a mask as an index, a copy
to the CPU. Copies to the device that wait are found by watching torch's operations, and its functions: a tensor of a
list is made without operations. The kernels that draw a scene are replaced, because they differ on a GPU; `tests/cuda`
holds them.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from sds3d.config import build
from sds3d.priors.base import Prior
from sds3d.priors.control import control_picture
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.priors.telling import Kind
from sds3d.prompts.conditioning import Conditioning, Structure
from sds3d.prompts.prompt import encode_texts
from sds3d.rendering.packed import FieldPictures
from sds3d.rendering.shading import Environment, metallic_roughness
from sds3d.rendering.splatting import Splatted
from sds3d.rendering.volume import RayPictures
from sds3d.representations.mesh_appearance import PBRMaterial
from sds3d.run.config import RunConfig
from sds3d.run.drive import start_work
from sds3d.run.optimize import Setup, optimize
from sds3d.run.references import read_references
from tests.guidance.fewest import of_each_path, quickened
from tests.priors.test_diffusers import tiny_pipeline
from tests.slow import slow_after
from tests.test_pairs import GUIDANCE, REPRESENTATIONS

META = torch.device("meta")
FREE = {
    name
    for line in (
        "_reshape_alias _unsafe_view alias as_strided chunk detach diagonal empty empty_like empty_strided expand",
        "is_same_size lift_fresh new_empty new_empty_strided permute select slice split split_with_sizes squeeze t",
        "transpose unbind unfold unsqueeze view",
    )
    for name in line.split()
}
"""Operations that queue no work on a device: views and memory."""


class Watch(TorchDispatchMode):
    """Counts the operations on the meta device, and keeps where copies to it wait, and which results are float64."""

    def __init__(self) -> None:
        super().__init__()
        self.launches, self.waits, self.wide = 0, [], []
        self._lists = Lists(self.waits)

    def __enter__(self) -> Watch:
        self._lists.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._lists.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if isinstance(result, Tensor) and result.device == META and name not in FREE:
            self.launches += 1
            self.wide += [name] if result.dtype == torch.float64 else []
            source = args[0] if name == "_to_copy" else args[1] if name == "copy_" else None
            waits = not (args[2:] or (kwargs or {}).get("non_blocking"))
            if source is not None and source.device.type == "cpu" and waits:
                self.waits.append(caller())
        return result


class Lists(TorchFunctionMode):
    """Keeps where a list or a number becomes a tensor on the meta device by a copy: a new one, or an index."""

    def __init__(self, waits: list[str]) -> None:
        super().__init__()
        self._waits = waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = args[1 if func is Tensor.new_tensor else 0] if func in MAKERS else None
        index = args[1] if func in INDEXED and args[0].device == META else ()
        parts = index if isinstance(index, tuple) else (index,)
        new = isinstance(made, (list, tuple, int, float)) and result.device == META
        if new or any(isinstance(part, list) for part in parts):
            self._waits.append(caller())
        return result


MAKERS = {torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor}
INDEXED = {Tensor.__getitem__, Tensor.__setitem__}


def caller() -> str:
    return "".join(traceback.format_stack(limit=8)[:-1])


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat the meta device as a GPU. It lacks random streams, fused Adam and kernels that draw a scene."""
    monkeypatch.setattr("sds3d.updates.runs_late", lambda device: True)
    monkeypatch.setattr("sds3d.run.optimize.READ_EVERY", 1e9)
    monkeypatch.setattr(sys.modules["torch.optim.optimizer"], "_get_fused_kernels_supported_devices", lambda: ["meta"])
    for module in ("guidance.base", "representations.voxel_grid", "representations.field_nerf"):
        monkeypatch.setattr(f"sds3d.{module}.seeded", lambda seed, device: None)
    for module in ("representations.voxel_grid", "rendering.packed"):
        monkeypatch.setattr(f"sds3d.{module}.empty_distance", lambda density, threshold: density.to(torch.uint8))
    monkeypatch.setattr("sds3d.run.drive.encode_texts", lambda prior, *given: encode_texts(AnyTexts(), *given))
    monkeypatch.setattr("sds3d.representations.voxel_grid.render_rays", draw_grid)
    monkeypatch.setattr("sds3d.representations.field_nerf.render_field", draw_field)
    monkeypatch.setattr("sds3d.representations.gaussians.rasterization", draw_splats)


def draw_grid(grid: Tensor, origins: Tensor, directions: Tensor, **options: Any) -> RayPictures:
    rgb = grid.mean() + directions
    return RayPictures(rgb, rgb[..., 0], rgb[..., 0], rgb, rgb[..., 0])


def draw_field(field: Any, origins: Tensor, directions: Tensor, **options: Any) -> FieldPictures:
    density, features = field(directions.reshape(-1, 3))
    alpha = density.reshape(directions.shape[:-1])
    return FieldPictures(features.reshape(*alpha.shape, -1), alpha, alpha)


def draw_splats(means: Tensor, *others: Tensor, width: int = 0, **options: Any) -> Splatted:
    quats, scales, opacities, colors, viewmats, _, width, height = others
    means2d = (viewmats[:, None, :2, :3] @ means[..., None])[..., 0]  # (C, N, 2)
    mean = (means2d.mean() + quats.mean() + scales.mean() + opacities.mean() + colors.mean()).expand(1, 1, 1, 4)
    picture = mean.expand(len(viewmats), height, width, 4)
    return Splatted(picture, picture[..., :1], {"means2d": means2d, "radii": means2d.detach().int()})


class AnyTexts:
    takes_cameras = False  # so texts have view words

    def encode_text(self, prompts: Sequence[str]) -> Conditioning:
        return Conditioning(torch.empty(len(prompts), 8, 32, device=META))


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Prior:
    folder = tmp_path_factory.mktemp("pipeline")
    tiny_pipeline("v_prediction").save_pretrained(folder)
    return DiffusersConfig(model=str(folder)).load("meta")


def watched_steps(settings: dict[str, Any], prior: Prior, steps: int = 1) -> Watch:
    """Do some steps after the first one under watch."""
    config = build(RunConfig, {"prompt": "a red mug", "cameras": {"size": 16}, **settings})
    references = read_references(config.reference, config.cameras, META)
    work = start_work(config, [prior], references=references)
    if config.representation.renders_latents:
        work.scene._back = torch.empty(3, 4, device=META)  # computed once, on the CPU
    setup = Setup(work.scene, work.teachers, 100, config.cameras, config.optimizer, config.background)
    work.state.settle = lambda: None  # reads numbers, which there are none of
    loop = optimize(setup, work.state)
    next(loop)
    with Watch() as watch:
        for _ in range(steps):
            next(loop)
    return watch


QUICK = ("multiview", "vsd")
WAITING = {"cfd", "cfd-ode 0", "cfd-sde 0"}
"""CFD's noise is locked to the surface: its texels are on the CPU, which reads the depth in every step."""


def all_of(guidance: dict[str, Any]) -> dict[str, Any]:
    """Return settings of a rule with their defaults, and few calls of the prior."""
    return quickened(build(RunConfig, {"prompt": "a red mug", "guidance": guidance}).guidance.model_dump(mode="json"))


RULES = of_each_path({name: all_of(guidance) for name, guidance in GUIDANCE.items() if name not in WAITING})


@pytest.mark.parametrize("guidance", slow_after(2, sorted(RULES, key=lambda name: (name not in QUICK, name))))
def test_no_rule_waits(guidance: str, prior: Prior) -> None:
    watch = watched_steps({"representation": "voxel_grid", "guidance": RULES[guidance]}, prior)
    assert watch.waits == []
    assert watch.wide == []  # Apple's GPUs have no float64


SCENES = {name: settings for name, settings in REPRESENTATIONS.items() if settings["name"] != "mesh"}
SCENES["latents"] = REPRESENTATIONS["hash_nerf"] | {"latent_channels": 4}


@pytest.mark.parametrize("scene", SCENES)
def test_no_scene_waits(scene: str, prior: Prior, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight steps: radiance fields find where matter is after eight."""
    monkeypatch.setattr("sds3d.run.drive.latent_rgb_of", lambda prior: torch.eye(4, 3))
    watch = watched_steps({"representation": SCENES[scene], "guidance": "sds"}, prior, steps=8)
    assert watch.waits == []
    assert watch.wide == []  # Apple's GPUs have no float64


@pytest.mark.parametrize("background", ["random", "learned"])
def test_no_background_and_no_jitter_waits(background: str, prior: Prior) -> None:
    cameras = {"size": 16, "position_jitter": 0.1, "frame": [0.8, 1.0]}
    given = {"name": background} | ({"random_share": 0.5} if background == "learned" else {})
    settings = {"representation": "voxel_grid", "guidance": "sds", "cameras": cameras, "background": given}
    assert watched_steps(settings, prior, steps=6).waits == []


def test_no_picture_waits(prior: Prior, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six steps with cameras that are known, corrected and found, and with all losses."""
    picture = Image.new("RGBA", (16, 16), (90, 90, 90, 255))
    picture.putpixel((0, 0), (0, 0, 0, 0))
    file = str(tmp_path / "a.png")
    picture.save(file)
    known = {"image": file, "azimuth": 30, "elevation": 0, "depth": file, "normal": file}
    monkeypatch.setattr("sds3d.run.references.SEARCH_AT", 0.02)  # in the third of 100 steps
    settings = {
        "representation": "voxel_grid",
        "guidance": "sds",
        "reference": [known, {**known, "distance": 2, "refine": True}, {"image": file}],
    }
    assert watched_steps(settings, prior, steps=6).waits == []


@pytest.mark.parametrize("kind", ["depth", "normal", "canny"])
def test_no_picture_of_a_controlnet_waits(kind: Kind) -> None:
    depth, normal = torch.empty(2, 24, 24, device=META), torch.empty(2, 24, 24, 3, device=META)
    with Watch() as watch:
        picture = control_picture(Structure(depth, normal, depth), kind, 32)
    assert (picture.shape, picture.device) == ((2, 3, 32, 32), META)
    assert watch.waits == []


def test_no_material_in_several_lights_waits() -> None:
    material = PBRMaterial(metallic=(0, 0.9), roughness=(0.1, 0.95))
    values, normal = torch.empty(2, 4, 4, 2, device=META), torch.empty(2, 4, 4, 3, device=META)
    lights = Environment(torch.empty(2, 34, 34, 3, device=META), torch.empty(12, 34, 34, 3, device=META))
    which = torch.empty(2, 1, 1, 1, dtype=torch.int64, device=META).expand(2, 4, 4, 1)
    with Watch() as watch:
        metallic, roughness = material.scaled(values).split(1, dim=-1)
        color = metallic_roughness(normal, metallic, roughness, normal, normal, lights, which=which, turn=metallic)
    assert (color.shape, color.device) == ((2, 4, 4, 3), META)
    assert (watch.waits, watch.wide) == ([], [])


def test_whatever_waits_is_found(prior: Prior) -> None:
    settings = {"representation": "voxel_grid", "guidance": GUIDANCE["cfd"]}
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
        watched_steps(settings, prior)
    x = torch.ones(3, device=META)
    for wait in (x.sum().item, lambda: bool(x.any()), x.nonzero, lambda: x[x > 0], lambda: x.to("cpu"), x.tolist):
        with pytest.raises((NotImplementedError, RuntimeError)):
            wait()
    with Watch() as watch:
        torch.ones(3).to(META)
        x.copy_(torch.ones(3))
        torch.ones(3).to(META, non_blocking=True)
    assert len(watch.waits) == 2
    for copies in (
        lambda: torch.tensor([1.0, 2.0], device=META), lambda: torch.tensor(1.0, device=META),
        lambda: torch.as_tensor((1, 2), device=META), lambda: x.new_tensor([1.0, 2.0]), lambda: x[[0, 1]],
        lambda: x[None, [0, 1]],
    ):  # fmt: skip
        with Watch() as watch:
            copies()
        assert ["test_whatever_waits_is_found" in wait for wait in watch.waits] == [True]
    with Watch() as watch:
        torch.tensor([1.0]), torch.full((2,), 1.0, device=META), x.new_zeros(3), x[0], x[:, None]
    assert watch.waits == []
