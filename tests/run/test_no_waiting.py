"""A step on a device whose values nobody can read: torch's meta device, which has shapes only.

`sds3d.evaluation.fake_gpu` finds whatever would wait for a GPU: reading a value, a branch on a tensor, `nonzero`, a
mask as an index, copies. Counts of launches are in `tests/evaluation/test_launches.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from sds3d.config import build
from sds3d.evaluation.fake_gpu import META, Watch, pretended
from sds3d.evaluation.launches import place_of
from sds3d.priors.base import Prior
from sds3d.priors.control import control_picture
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.priors.graphs import Graphs
from sds3d.priors.telling import Kind
from sds3d.prompts.conditioning import Structure
from sds3d.rendering.shading import Environment, metallic_roughness
from sds3d.rendering.volume import render_rays
from sds3d.representations.mesh_appearance import PBRMaterial
from sds3d.run.config import RunConfig
from sds3d.run.drive import optimize_work, start_work
from sds3d.run.references import read_references
from tests.guidance.fewest import of_each_path, quickened
from tests.priors.test_diffusers import tiny_pipeline
from tests.slow import slow_after
from tests.test_pairs import ALIKE, GUIDANCE, REPRESENTATIONS


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Prior:
    folder = tmp_path_factory.mktemp("pipeline")
    tiny_pipeline("v_prediction").save_pretrained(folder)
    return DiffusersConfig(model=str(folder)).load("meta")


def watched_steps(settings: dict[str, Any], prior: Prior, steps: int = 1) -> Watch:
    """Do some steps after the first one under watch."""
    config = build(RunConfig, {"prompt": "a red mug", "steps": 100, "cameras": {"size": 16}, **settings})
    with pretended() as watch:
        references = read_references(config.reference, config.cameras, META)
        loop = optimize_work(start_work(config, [prior], references=references))
        next(loop)
        watch.forget()
        for _ in range(steps):
            next(loop)
    return watch


QUICK = ("multiview", "vsd")
WAITING = {"cfd", "cfd-ode 0", "cfd-sde 0"}
"""CFD's noise is locked to the surface: its texels are on the CPU, which reads the depth once in every step."""
CFD = "sds3d/guidance/surface_noise.py surface_corners"
SAMPLES = "sds3d/rendering/packed_warp.py march"
"""Radiance fields other than voxels read the number of samples."""


def all_of(guidance: dict[str, Any]) -> dict[str, Any]:
    """Return settings of a rule with their defaults, and few calls of the prior."""
    return quickened(build(RunConfig, {"prompt": "a red mug", "guidance": guidance}).guidance.model_dump(mode="json"))


RULES = of_each_path({name: all_of(guidance) for name, guidance in GUIDANCE.items()})


@pytest.mark.parametrize("guidance", slow_after(2, sorted(RULES, key=lambda name: (name not in QUICK, name))))
def test_no_rule_waits(guidance: str, prior: Prior) -> None:
    watch = watched_steps({"representation": "voxel_grid", "guidance": RULES[guidance]}, prior)
    assert [place_of(wait) for wait in watch.waits] == [CFD] * (guidance in WAITING)
    assert watch.wide == []  # Apple's GPUs have no float64


SCENES = {name: settings for name, settings in REPRESENTATIONS.items() if settings["name"] != "mesh"}
SCENES["latents"] = REPRESENTATIONS["hash_nerf"] | {"latent_channels": 4}


@pytest.mark.parametrize("scene", slow_after(3, sorted(SCENES, key=lambda name: name in ALIKE)))
def test_no_scene_waits(scene: str, prior: Prior, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight steps: radiance fields find where matter is after eight."""
    monkeypatch.setattr("sds3d.run.drive.latent_rgb_of", lambda prior: torch.eye(4, 3))
    watch = watched_steps({"representation": SCENES[scene], "guidance": "sds"}, prior, steps=8)
    assert {place_of(wait) for wait in watch.waits} <= {SAMPLES}
    assert len(watch.waits) == (8 if SCENES[scene]["name"] not in ("voxel_grid", "gaussians") else 0)
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


def test_whatever_waits_is_found() -> None:
    x, mask = torch.ones(3, device=META), torch.ones(3, dtype=torch.bool, device=META)
    steps = (
        x.sum().item, lambda: bool(x.any()), x.nonzero, lambda: x[x > 0], lambda: x.to("cpu"), x.tolist,
        lambda: torch.ones(3).to(META), lambda: x.copy_(torch.ones(3)), lambda: torch.ones(3).copy_(x),
        lambda: x.masked_select(mask), x.unique, lambda: torch.repeat_interleave(x, mask.long()),
        lambda: x.index_put((mask,), x), lambda: mask.long().bincount(),
        lambda: torch.tensor([1.0, 2.0], device=META), lambda: torch.tensor(1.0, device=META),
        lambda: torch.as_tensor((1, 2), device=META), lambda: x.new_tensor([1.0, 2.0]), lambda: x[[0, 1]],
        lambda: x[None, [0, 1]], lambda: x.__setitem__(mask.long(), 1.0),
    )  # fmt: skip
    for step in steps:
        with Watch() as watch:
            step()
        assert ["test_whatever_waits_is_found" in wait for wait in watch.waits] == [True]
    with Watch() as watch:
        torch.ones(3).to(META, non_blocking=True)
        x[mask] = 1.0
        torch.tensor([1.0]), torch.full((2,), 1.0, device=META), x.new_zeros(3), x[0], x[:, None]
    assert watch.waits == []


def test_launches_are_counted_with_those_of_warp_and_of_graphs() -> None:
    x = torch.ones(3, device=META)
    graphs = Graphs()
    with pretended() as watch, torch.no_grad():
        for _ in range(2):
            graphs(lambda x: (x * 2 + 1,), "", [x])
        watch.forget()
        x[:2].view(2), x + 1
        assert (watch.launches, watch.recorded) == (1, 0)
        graphs(lambda x: (x * 2 + 1,), "", [x])  # its input and its output are copied
        assert (watch.launches, watch.recorded) == (4, 2)
        watch.forget()
        voxels, points = torch.ones(4, 4, 4, 4, device=META), torch.ones(5, 3, device=META)
        render_rays(voxels, points, points, samples=4)
        assert watch.launches > 0
