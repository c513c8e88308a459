"""Runs of several stages: each stage starts from the previous result, and can be paused and resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh

from sds3d.cameras import orbit, turntable
from sds3d.config import ConfigError, build, merge
from sds3d.formats.load import load_asset
from sds3d.geometry.mesh import Mesh
from sds3d.representations.base import Scene, Start
from sds3d.representations.contents import source_of
from sds3d.representations.gaussians import GaussiansConfig, GaussiansScene
from sds3d.representations.mesh_dmtet import DMTetConfig
from sds3d.representations.mesh_scene import MeshConfig, MeshScene
from sds3d.representations.voxel_grid import VoxelGridConfig, VoxelGridScene
from sds3d.run.config import RunConfig, make_config, new_run, stage_config, total_steps
from sds3d.run.drive import latent_rgb_of
from sds3d.run.outputs import load_scene
from sds3d.toybox.objects import build as build_object
from sds3d.toybox.world import Spec
from tests.run.tiny_runs import TINY, disc, finish, same

SMALL_MESH = {"geometry": {"resolution": 16}, "appearance": {"resolution": 16}}
MESH = {"representation": {"name": "mesh", **SMALL_MESH}, "steps": 5}
SPLATS = {"representation": {"name": "gaussians", "count": 300}, "steps": 6}
STAGES = (dict[str, Any](steps=8), MESH, SPLATS)


def staged(*stages: dict[str, Any]) -> RunConfig:
    return build(RunConfig, merge(TINY, {"stages": stages or STAGES}))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_stages_override_the_settings_of_the_run() -> None:
    config = staged()
    assert [stage_config(config, i).steps for i in range(3)] == [8, 5, 6]
    assert total_steps(config) == 19
    assert stage_config(config, 0).representation == config.representation
    assert stage_config(config, 1).representation == build(MeshConfig, SMALL_MESH)
    assert stage_config(config, 1).guidance == config.guidance
    alone = build(RunConfig, TINY)
    assert (stage_config(alone, 0), total_steps(alone)) == (alone, 12)


def test_stages_share_the_steps_of_the_run() -> None:
    halves = staged({"share": 2}, {"steps": 7}, {"share": 1.5}, {"share": 0.5})
    for steps, expected in ((12, [6, 7, 4, 2]), (101, [50, 7, 38, 13]), (1, [1, 7, 1, 1])):
        config = halves.model_copy(update={"steps": steps})
        assert [stage_config(config, i).steps for i in range(4)] == expected
    assert total_steps(make_config("a ball", "mesh", ["steps=100"])) == 100


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"share": 0}, r"stages\.0\.share = 0: give a number above 0"),
        ({"share": "half"}, r"stages\.0\.share = 'half': give a number above 0"),
        ({"share": 1, "steps": 3}, r"stages\.0: give either steps or share"),
        ({"representation": "blob"}, r'in stages\.0: representation\.name = "blob" is unknown'),
        ({"stepz": 3}, r'in stages\.0: unknown key "stepz"; did you mean "steps"\?'),
        ({"prompt": "a mug"}, r"stages\.0\.prompt: it applies to the whole run"),
    ],
)
def test_an_invalid_stage_is_named(stage: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        staged(stage)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory):
    run = new_run(tmp_path_factory.mktemp("stages"), staged())
    assert finish(run) == list(range(1, 20))
    return run


def test_every_stage_runs(straight) -> None:
    assert straight.state.status == "done"
    assert (straight.state.step, straight.state.total) == (19, 19)
    log = (straight.folder / "run.log").read_text()
    for line in ("stage 1 of 3: voxel_grid", "stage 2 of 3: mesh", "stage 3 of 3: gaussians"):
        assert line in log
    assert isinstance(load_scene(straight, torch.device("cpu")), GaussiansScene)
    assert (straight.exports / "a-ball.glb").stat().st_size > 0


@pytest.mark.parametrize("stop", [3, 8, 9, 13, 17])  # within a stage, and exactly at the end of one
def test_pausing_anywhere_changes_nothing(stop: int, straight, tmp_path: Path) -> None:
    run = new_run(tmp_path, staged())
    assert finish(run, stop)[-1] == stop
    assert (run.state.status, run.state.step) == ("paused", stop)
    assert finish(run)[0] == stop + 1
    assert same(run, straight)


# ---- Latent-NeRF ----

HASH = {"name": "hash_nerf", "samples": 16, "levels": 3, "log2_entries": 9, "hidden": 8}


def test_a_latent_stage_and_then_a_stage_of_colours(tmp_path: Path) -> None:
    """With a pixel prior the latents are the three colours, so the map to colours must stay near the identity."""
    latents = HASH | {"latent_channels": 3}
    config = staged({"steps": 6, "representation": latents}, {"steps": 4, "representation": latents | {"refine": True}})
    runs = [new_run(tmp_path / name, config) for name in ("straight", "stopped")]
    assert finish(runs[0]) == list(range(1, 11))
    finish(runs[1], 6)
    first = load_scene(runs[1], torch.device("cpu")).state_dict()
    torch.testing.assert_close(first["latent_rgb"], latent_rgb_of(disc()))
    assert (first["latent_rgb"].diagonal() > 0.5).all()
    finish(runs[1])
    assert same(*runs)
    refined = load_scene(runs[1], torch.device("cpu")).state_dict()
    moved = (refined["latent_rgb"] - first["latent_rgb"]).abs()
    assert 0 < moved.max() < 0.1  # the map is trained, starting from its old value


def test_a_sketch_keeps_the_shape(tmp_path: Path) -> None:
    box = trimesh.creation.box((0.5, 0.9, 0.3))
    box.export(tmp_path / "box.ply")
    sketch = {"sketch": str(tmp_path / "box.ply"), "sketch_weight": 20.0, "sketch_slack": 0.02}
    run = new_run(tmp_path, build(RunConfig, merge(TINY, {"representation": HASH | sketch, "steps": 120})))
    finish(run, 20)
    finish(run)
    extents = np.ptp(load_asset(run.exports / "a-ball.ply").vertices, axis=0)  # type: ignore[union-attr]
    size = box.extents / np.linalg.norm(box.extents)  # scaled to fit the sphere of radius 0.5
    voxel = 1.1 / 23  # of the grid for surface extraction
    np.testing.assert_allclose(extents, size, atol=3 * voxel)
    (tmp_path / "box.ply").unlink()
    assert load_scene(run, torch.device("cpu"))  # loading the scene needs no sketch


# ---- a scene starts from another ----

CONFIGS = {
    "voxel_grid": VoxelGridConfig(resolution=64, samples=96),
    "gaussians": GaussiansConfig(count=6000),
    "mesh": MeshConfig(geometry=DMTetConfig(resolution=64)),
}


@pytest.fixture(scope="module")
def duck() -> Mesh:
    return build_object(Spec("duck", "yellow"), np.random.default_rng(0))


@pytest.fixture(scope="module")
def sources(duck: Mesh) -> dict[str, Scene]:
    return {name: config.make(Start(generator(), steps=10, before=source_of(duck))) for name, config in CONFIGS.items()}


def pictures(scene: Scene) -> torch.Tensor:
    with torch.no_grad():
        out = scene.render(turntable(3, size=96), torch.zeros(3))
    return torch.cat([out.rgb, out.alpha], dim=-1)


@pytest.mark.parametrize("source", CONFIGS)
@pytest.mark.parametrize("target", CONFIGS)
def test_every_representation_starts_from_every_other(source: str, target: str, sources: dict[str, Scene]) -> None:
    scene = CONFIGS[target].make(Start(generator(), steps=10, before=sources[source]))
    assert isinstance(scene, {"voxel_grid": VoxelGridScene, "gaussians": GaussiansScene, "mesh": MeshScene}[target])
    error = (pictures(scene) - pictures(sources[source])).square().mean()
    assert -10 * torch.log10(error) > 22
    # It can be optimised at once: gradients reach its parameters.
    out = scene.render(orbit([20.0], size=32), torch.zeros(3))
    out.rgb.square().sum().backward()
    gradients = [p.grad for group in scene.parameter_groups() for p in group["params"]]
    assert any(g is not None and g.abs().sum() > 0 for g in gradients)
