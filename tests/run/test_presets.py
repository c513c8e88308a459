"""Every preset runs with the embedded prior from a prompt to files, with a few steps per stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh

from sds3d.config import ConfigError, build, merge
from sds3d.formats.load import load_asset
from sds3d.geometry.mesh import Mesh
from sds3d.presets import load_preset, presets
from sds3d.priors.base import Prior
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.priors.normals import NormalsNetwork
from sds3d.run.config import RunConfig, make_config, new_run
from sds3d.run.drive import drive
from sds3d.toybox.captions import parse
from sds3d.toybox.objects import build as build_object
from tests.guidance.fewest import quickened
from tests.slow import slow_after

SMALL = {
    "cameras": {"size": 32},
    "export": {"resolution": 32, "faces": 500, "texture_size": 64, "picture_size": 32, "frames": 4},
}


@pytest.fixture(scope="module")
def prior() -> Prior:
    return DiffusersConfig().load()


@pytest.fixture(scope="module")
def object_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of a mug without colours, too large and far from the origin."""
    spec = parse("a red mug")
    assert spec is not None
    mesh = build_object(spec, np.random.default_rng(0))
    path = tmp_path_factory.mktemp("mesh") / "mug.obj"
    trimesh.Trimesh(20 * mesh.vertices + 7, mesh.faces, process=False).export(path)
    return path


def short(name: str, **changes: Any) -> RunConfig:
    """Return a preset with few steps and small sizes.

    Presets without stages get four steps. The first stage gets six, so that the shape does not vanish, others two.
    Rules call the prior as rarely as they can.
    """
    later = load_preset(name).about.needs_asset
    config = make_config("a red mug", name, ["start_from=later"] if later else []).model_dump()
    config["start_from"] = "" if later else config["start_from"]
    config["guidance"] = quickened(config["guidance"])
    stages = [quickened(stage) | {"share": 6 if i == 0 else 2} for i, stage in enumerate(config["stages"])]
    for stage in stages:
        if isinstance(stage["representation"], dict) and stage["representation"]["name"] == "mesh":
            fixed = stage["representation"].get("geometry", {}).get("name") == "fixed"
            voxels = {} if fixed else {"appearance": {"resolution": 24}}
            stage["representation"] = merge(stage["representation"], {"geometry": {"resolution": 24}, **voxels})
    if isinstance(config["representation"], dict) and config["representation"]["name"] == "voxel_grid":
        config["representation"] |= {"resolution": 16, "samples": 16}
    steps = 4 + 2 * len(stages) if stages else 4
    return build(RunConfig, merge(merge(config, SMALL | {"steps": steps, "stages": stages}), changes))


TOY = [p.name for p in presets() if p.about.group != "real" and p.name != "texture"]  # which has a test of its own
MATERIALS = ("fantasia3d", "materials")


@pytest.mark.parametrize("name", slow_after(1, TOY))
def test_a_preset_writes_files(name: str, prior: Prior, object_file: Path, tmp_path: Path) -> None:
    """The first preset writes its own formats, the others what is read back."""
    changes: dict[str, Any] = {} if name == TOY[0] else {"export": {"formats": ["glb"]}}
    if load_preset(name).about.needs_asset:
        changes["start_from"] = str(object_file)
    if name in MATERIALS:
        changes["optimizer"] = {"warmup": 0}  # so that a few steps are seen in 8 bits
    if name == "polish":
        NormalsNetwork().eval().save(tmp_path / "normals")
        changes["estimators"] = [{"model": str(tmp_path / "normals"), "weight": 0.1}]
    run = new_run(tmp_path / "runs", short(name, **changes))
    steps = list(drive(run, threads=1, prior=prior))
    assert run.state.status == "done"
    assert len(steps) == run.state.total
    mesh = load_asset(run.exports / "a-red-mug.glb")
    assert isinstance(mesh, Mesh)
    assert mesh.texture is not None
    assert np.abs(mesh.vertices).max() < 0.6
    if name in MATERIALS:  # a material in every place, not only its mean
        assert mesh.metallic_roughness is not None
        assert mesh.metallic_roughness.reshape(-1, 3)[:, 1:].std(axis=0).max() > 0
        (part,) = trimesh.load(run.exports / "a-red-mug.glb").geometry.values()
        assert part.visual.material.occlusionTexture is not None


def test_texturing_needs_a_mesh() -> None:
    with pytest.raises(ConfigError, match=r'the preset "texture" needs a mesh: sds3d texture FILE'):
        make_config("a red mug", "texture")


def test_changed_file_content_makes_another_run(object_file: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.obj"
    mine.write_bytes(object_file.read_bytes())
    config = make_config("a red mug", "texture", [f"start_from={mine}"])
    first = new_run(tmp_path, config)
    assert new_run(tmp_path, config).folder == first.folder
    mine.write_bytes(object_file.read_bytes() + b"# changed")
    assert new_run(tmp_path, config).folder != first.folder


def test_a_users_mesh_keeps_its_shape_and_gets_a_texture(object_file: Path, prior: Prior, tmp_path: Path) -> None:
    export = {"formats": ["glb"], "faces": 0}
    run = new_run(tmp_path, short("texture", start_from=str(object_file), steps=6, export=export))
    list(drive(run, threads=1, prior=prior))
    ours, given = load_asset(run.exports / "a-red-mug.glb"), trimesh.load(object_file, force="mesh", process=False)
    assert isinstance(ours, Mesh)
    assert ours.texture is not None
    assert ours.texture.reshape(-1, 3).std(axis=0).max() > 1  # painted: no longer one grey
    # The same triangles, moved and scaled to fit the cube.
    truth = given.vertices[given.faces]
    corners = ours.vertices[ours.faces]
    scale = np.ptp(corners.reshape(-1, 3), axis=0) / np.ptp(truth.reshape(-1, 3), axis=0)
    np.testing.assert_allclose(scale, scale[0], rtol=1e-4)
    middle = truth.reshape(-1, 3).min(0) + np.ptp(truth.reshape(-1, 3), axis=0) / 2
    np.testing.assert_allclose(corners, (truth - middle) * scale[0], atol=1e-4)
    assert np.linalg.norm(ours.vertices, axis=1).max() == pytest.approx(0.5, abs=1e-3)
