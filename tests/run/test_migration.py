"""Former names and places of settings, and run folders of the previous version."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import trimesh

from sds3d.config import ConfigError, build, load_yaml
from sds3d.ramps import Ramp
from sds3d.representations.mesh_fixed import FixedTrianglesConfig
from sds3d.representations.mesh_scene import MeshConfig
from sds3d.representations.mesh_texels import TexelsConfig
from sds3d.representations.voxel_grid import VoxelGridConfig
from sds3d.run.config import make_config, read_config, run_config, stage_config
from sds3d.run.folder import Run, read_checkpoint
from sds3d.run.migration import MESH, migrated
from sds3d.run.outputs import load_scene
from sds3d.states import part
from tests.run.tiny_runs import finish

OLD_RUNS = Path(__file__).parent.parent / "data" / "old-runs"
"""Paused after step 4 of 6. Made by version 0.1.0."""


def representation(*layers: Any) -> Any:
    return run_config({"prompt": "a ball"}, *({"representation": layer} for layer in layers)).representation


def mesh(**sections: Any) -> MeshConfig:
    return build(MeshConfig, sections)


@pytest.mark.parametrize("given", ["nerf", {"name": "nerf"}, "voxel_grid"], ids=["word", "section", "present name"])
def test_nerf_is_the_voxel_grid(given: Any) -> None:
    assert representation("gaussians", given, {"resolution": 8}) == VoxelGridConfig(resolution=8)


def test_nerf_is_the_voxel_grid_in_every_kind_of_layer(tmp_path: Path) -> None:
    preset = tmp_path / "mine.yaml"
    preset.write_text(
        "representation: {name: nerf, samples: 32}\nstages: [{share: 1}, {share: 1, representation: nerf}]"
    )
    expected = VoxelGridConfig(samples=32)
    assert make_config("a ball", str(preset)).representation == expected
    assert stage_config(make_config("a ball", str(preset)), 1).representation == expected
    assert make_config("a ball", "splats", ["representation=nerf"]).representation == VoxelGridConfig()
    assert make_config("a ball", "splats", ["representation.name=nerf"]).representation == VoxelGridConfig()
    assert make_config("a ball", "splats", settings={"representation": "nerf"}).representation == VoxelGridConfig()


def test_perp_neg_was_a_setting_of_sds() -> None:
    """It blended the texts of views whatever `view_dependent` was."""

    def prompts(*layers: Any) -> Any:
        return run_config({"prompt": "a ball"}, *layers).prompts

    on = {"guidance": {"name": "sds", "perp_neg": True}, "prompts": {"view_dependent": False}}
    assert (prompts(on).perp_neg.strength, prompts(on).view_dependent) == (1.0, True)
    assert prompts(on, {"guidance": {"perp_neg": False}}).perp_neg.strength == 0.0
    stages = {"stages": [{"guidance": "sds"}, {"guidance": {"name": "sds", "perp_neg": True}}]}
    config = run_config({"prompt": "a ball"}, stages)
    assert [stage_config(config, i).prompts.perp_neg.strength for i in (0, 1)] == [0.0, 1.0]


def test_former_settings_of_a_mesh_have_a_place() -> None:
    assert representation({"name": "mesh", "resolution": 32, "sdf_lr": 0.1, "color_resolution": 16}) == mesh(
        geometry={"resolution": 32, "sdf_lr": 0.1}, appearance={"resolution": 16}
    )
    assert representation("mesh", {"geometry": "flexicubes"}, {"deviation": 0.5, "ambient": 0.1}) == mesh(
        geometry={"name": "flexicubes", "deviation": 0.5}
    )
    assert representation("mesh", {"shading": "lambert"}, {"ambient": 0.1}) == mesh(
        shading={"name": "lambert", "ambient": 0.1}
    )
    assert representation("mesh", {"material": "pbr", "material_lr": 0.2}, {"texture": "field"}) == mesh(
        appearance={"material": {"name": "pbr", "lr": 0.2}}
    )
    former = {"name": "mesh", "geometry": "fixed", "vertices_lr": 0, "texture": "texels", "texture_size": 64}
    assert representation(former) == mesh(
        geometry={"name": "fixed", "vertices_lr": 0}, appearance={"name": "texels", "size": 64}
    )
    # The order of keys does not matter, and the choice may be in any layer.
    assert representation(dict(reversed(former.items()))) == representation(former)
    assert representation(former, {"texture_size": 32}).appearance == TexelsConfig(size=32)


def test_two_former_settings_share_a_place() -> None:
    both = {"color_smoothness": 1.0, "texel_smoothness": 2.0}
    assert representation({"name": "mesh", **both}).appearance.smoothness == Ramp(1.0)
    texels = {"name": "mesh", "geometry": "fixed", "texture": "texels"}
    assert representation(texels | both).appearance.smoothness == Ramp(2.0)
    assert representation(texels, {"color_smoothness": 3.0}).appearance == TexelsConfig()


def test_former_settings_without_effect_are_reported() -> None:
    message = r"^old settings of a mesh do not apply to .* and are left out: deviation, texture_size$"
    with pytest.warns(UserWarning, match=message) as given:
        left = representation({"name": "mesh", "deviation": 0.1, "texture_size": 64, "sdf_lr": 0.2})
    assert len(given) == 1
    assert left == mesh(geometry={"sdf_lr": 0.2})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        representation({"name": "mesh", "geometry": "flexicubes", "deviation": 0.1})


def test_present_and_former_settings_mix() -> None:
    assert representation(
        {"name": "mesh", "geometry": {"name": "fixed"}, "radius": 0.2}
    ).geometry == FixedTrianglesConfig(radius=0.2)
    section = {"name": "mesh", "geometry": "fixed", "appearance": "texels", "texture_size": 64}
    assert representation(section).appearance == TexelsConfig(size=64)


def test_settings_of_other_representations_stay() -> None:
    settings = {"resolution": 8, "color_lr": 0.2, "color_smoothness": 0.0}
    assert representation(settings) == VoxelGridConfig(**settings)
    assert representation("mesh", {"name": "nerf", **settings}) == VoxelGridConfig(**settings)
    assert migrated({"prompt": "a mug", "steps": 3}) == [{"prompt": "a mug", "steps": 3}]


def test_former_betas_did_not_apply_to_scenes_with_their_own() -> None:
    former = {"betas": [0.9, 0.99], "eps": 1e-15, "warmup": 10, "final": 0.2, "max_grad_norm": 1e8}
    assert run_config({"prompt": "a ball", "optimizer": former}).optimizer.betas is None
    assert run_config({"prompt": "a ball", "optimizer": {"betas": [0.9, 0.99]}}).optimizer.betas == (0.9, 0.99)
    present = {**former, "decay": "linear", "weight_decay": 0.0}
    assert run_config({"prompt": "a ball", "optimizer": present}).optimizer.betas == (0.9, 0.99)


def test_names_choose_geometry_appearance_and_shading() -> None:
    words = ["representation=mesh", "representation.geometry=fixed", "representation.appearance=texels"]
    config = make_config("a ball", overrides=[*words, "representation.shading=normal"]).representation
    assert config == mesh(geometry="fixed", appearance="texels", shading="normal")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": "mesh", "geometry": "dmtett"}, r'representation\.geometry\.name = "dmtett" is unknown; did you mean'),
        ({"name": "mesh", "geometry": 3}, r"representation\.geometry"),
        ({"name": "mesh", "sdf_lrr": 3}, r'unknown key "representation\.sdf_lrr"; did you mean'),
        ({"name": ["mesh"]}, "representation"),
        (3, "representation"),
    ],
    ids=["name", "number", "key", "list", "no section"],
)
def test_wrong_settings_are_still_reported(wrong: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        representation(wrong)


def test_every_new_place_exists() -> None:
    places = set()
    choices = [(g, "voxels", "pbr", s) for g in ("dmtet", "flexicubes", "fixed") for s in ("none", "textureless")]
    for geometry, appearance, material, shading in [*choices, ("fixed", "texels", "pbr", "none")]:
        look = {"name": appearance, "material": material}
        tree = mesh(geometry=geometry, appearance=look, shading=shading).model_dump()
        sections = {"geometry": tree["geometry"], "appearance": tree["appearance"], "shading": tree["shading"]}
        sections["appearance.material"] = tree["appearance"]["material"]
        places |= {f"{section}.{key}" for section, values in sections.items() for key in values}
    assert set(MESH.values()) <= places


@pytest.fixture(params=sorted(path.name for path in OLD_RUNS.iterdir()))
def old_run(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    shutil.copytree(OLD_RUNS / request.param, tmp_path / request.param)
    monkeypatch.chdir(tmp_path)
    trimesh.creation.icosphere(2, 0.3).export("ball.ply")  # the sketch of one of the runs
    return Run(tmp_path / request.param)


def test_a_run_of_the_previous_version_opens_resumes_and_exports(old_run: Run) -> None:
    stored = read_checkpoint(old_run.checkpoints[0])
    scene = load_scene(old_run, torch.device("cpu"))
    expected, opened = part(stored, "scene"), scene.state_dict()
    assert opened.keys() == expected.keys()
    assert all(torch.equal(opened[name], tensor) for name, tensor in expected.items())
    assert finish(old_run) == [5, 6]
    assert old_run.state.status == "done"
    ended = part(read_checkpoint(old_run.checkpoints[0]), "scene")
    assert ended.keys() == expected.keys()
    assert any(not torch.equal(ended[name], tensor) for name, tensor in expected.items())
    assert {"a-ball.glb", "a-ball.ply", "contact_sheet.png"} <= {path.name for path in old_run.exports.iterdir()}


def test_old_runs_keep_their_settings() -> None:
    def config(name: str) -> Any:
        return read_config(Run(OLD_RUNS / name)).representation

    assert config("voxel-grid") == VoxelGridConfig(resolution=10, samples=16, warmup=2)
    small = {"resolution": 10, "radius": 0.42}
    colors = {"resolution": 8}
    light = {"name": "lambert", "ambient": 0.5}
    assert config("mesh-dmtet") == mesh(geometry=small, appearance=colors, shading=light)
    pbr = colors | {"material": {"name": "pbr", "lr": 0.04}}
    assert config("mesh-flexicubes") == mesh(
        geometry={"name": "flexicubes", **small, "sdf_lr": 0.004, "eikonal": 0.02}, appearance=pbr
    )
    assert config("mesh-fixed-texels") == mesh(
        geometry={"name": "fixed", **small, "vertices_lr": 0.002}, appearance={"name": "texels", "size": 16, "lr": 0.2}
    )
    stages = read_config(Run(OLD_RUNS / "stages"))
    assert [stage_config(stages, i).representation for i in range(2)] == [
        VoxelGridConfig(resolution=12, samples=16, warmup=2, blob_radius=0.4),
        mesh(geometry={"resolution": 12, "sdf_lr": 0.004, "offsets_lr": 0.005}, appearance=colors),
    ]
    # The files must really come from the previous version.
    assert load_yaml(OLD_RUNS / "voxel-grid" / "config.yaml")["representation"]["name"] == "nerf"
