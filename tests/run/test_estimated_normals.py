"""Surfaces that follow estimated normals: an estimator that knows the truth makes an uneven ball round."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from sds3d.cameras import Cameras, orbit, turntable
from sds3d.config import ConfigError
from sds3d.files import PriorError
from sds3d.geometry.mesh import Mesh
from sds3d.geometry.triangles import vertex_normals
from sds3d.priors.estimators import Map, load_estimator
from sds3d.priors.normals import NormalsNetwork
from sds3d.representations.base import Rendering
from sds3d.representations.isosurface import dmtet, grid_points
from sds3d.representations.mesh_scene import MeshConfig, MeshScene
from sds3d.run.config import make_config
from sds3d.run.estimated_normals import EstimatorConfig, NormalEstimator, load_normal_estimators
from sds3d.run.inputs import check_inputs

RADIUS = 0.35


class BallKnower:
    """An estimator that answers with the normals of a ball around the origin, wherever a ray hits it."""

    maps: tuple[Map, ...] = ("normal",)

    def __init__(self, cameras: Cameras) -> None:
        self.cameras = cameras

    def __call__(
        self, rgb: Tensor, seed: int = 0, *, steps: int | None = None, ensemble: int = 1, resolution: int | None = None
    ) -> dict[Map, Tensor]:
        origins, directions = self.cameras.rays()
        along = (origins * directions).sum(-1, keepdim=True)
        inside = (along.square() - origins.square().sum(-1, keepdim=True) + RADIUS**2).clamp(min=0)
        points = origins - (along + inside.sqrt()) * directions
        world = functional.normalize(points, dim=-1)
        return {"normal": torch.einsum("bij,bhwi->bhwj", self.cameras.c2w()[:, :3, :3], world)}


def uneven_ball() -> Mesh:
    points = grid_points(20)
    lumps = 0.015 * torch.sin(22 * points).prod(dim=-1) + 0.01 * torch.cos(25 * points).sum(dim=-1)
    surface = dmtet(points.norm(dim=-1) - RADIUS + lumps)
    vertices, faces = surface.vertices.numpy(), surface.faces.int().numpy()
    return Mesh(vertices, faces, normals=vertex_normals(vertices, faces))


def unevenness(scene: MeshScene) -> float:
    """Return the mean angle in degrees between the normals of the vertices and those of a ball."""
    mesh = scene.to_mesh(0)
    assert mesh.normals is not None
    cosines = functional.cosine_similarity(torch.from_numpy(mesh.normals), torch.from_numpy(mesh.vertices), dim=1)
    return float(torch.rad2deg(torch.acos(cosines.clamp(-1, 1))).mean())


def test_a_surface_takes_the_normals_that_are_seen():
    settings = {"geometry": {"name": "fixed", "vertices_lr": 0.002}}
    scene = MeshScene.from_mesh(uneven_ball(), MeshConfig.model_validate(settings), torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(scene.parameter_groups())
    before = unevenness(scene)
    config = EstimatorConfig(model="x")
    for step in range(30):
        cameras = orbit([17.0 * step + 90 * i for i in range(4)], 60 * ((step % 3) - 1.0), size=40)
        rendering = scene.render(cameras, torch.ones(3))
        losses = NormalEstimator(config, BallKnower(cameras)).losses(rendering, cameras, step, step / 30)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        scene.after_step(step, optimizer)
    assert before > 10
    assert unevenness(scene) < 0.5 * before


def test_the_loss_is_the_weighted_mean_over_the_views_of_sums_over_opaque_pixels():
    cameras = turntable(2, size=8)
    normal = functional.normalize(torch.randn(2, 8, 8, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    alpha = (torch.arange(8) > 3).float().expand(2, 8, 8)[..., None]
    estimator = NormalEstimator(
        EstimatorConfig.model_validate({"model": "x", "weight": [[0, 2], [1, 4]], "every": 2}), BallKnower(cameras)
    )
    rendering = Rendering(torch.rand(2, 8, 8, 3), alpha, alpha, normal)
    seen = torch.einsum("bij,bhwj->bhwi", cameras.c2w()[:, :3, :3], BallKnower(cameras)(rendering.rgb)["normal"])
    expected = (alpha[..., 0] * (1 - (seen * normal).sum(-1))).sum() / 2  # in the world's frame
    losses = estimator.losses(rendering, cameras, 4, 0.5)
    torch.testing.assert_close(losses, {"estimated_normals": 3 * expected})
    assert estimator.losses(rendering, cameras, 5, 0.5) == {}


def test_a_toy_estimator_is_loaded_by_its_folder(tmp_path: Path):
    torch.manual_seed(0)
    network = NormalsNetwork().eval()
    network.save(tmp_path / "normals")
    (loaded,) = load_normal_estimators([EstimatorConfig(model=str(tmp_path / "normals"))], torch.device("cpu"))
    rgb = torch.rand(1, 64, 64, 3)
    torch.testing.assert_close(loaded.model(rgb)["normal"], network.estimate(rgb), atol=0.02, rtol=0)
    (tmp_path / "normals" / "model.safetensors").write_bytes(b"")
    with pytest.raises(PriorError, match="can't load the estimator"):
        load_estimator(str(tmp_path / "normals"))


def test_a_missing_estimator_is_reported_before_the_run(tmp_path: Path):
    mesh = tmp_path / "ball.obj"
    mesh.write_text("v 0 0 0\nv 0.4 0 0\nv 0 0.4 0\nf 1 2 3\n")
    config = make_config("a red mug", "polish", [f"start_from={mesh}", "estimators=[{model: nowhere}]"])
    with pytest.raises(ConfigError, match=r"estimators\.0\.model: nowhere is no folder of an estimator: give one"):
        check_inputs(config)
