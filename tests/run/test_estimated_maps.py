"""Surfaces that follow estimates: one of normals that knows the truth makes an uneven ball round; the loss on depth is
that of HiFA's code."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
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
from sds3d.run.estimated_maps import EstimatorConfig, Followed, load_followed, material_losses
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
        losses = Followed(config, BallKnower(cameras)).losses(rendering, cameras, step, step / 30)
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
    estimator = Followed(
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
    (loaded,) = load_followed([EstimatorConfig(model=str(tmp_path / "normals"))], torch.device("cpu"))
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


class Says:
    """An estimator that answers with given maps."""

    def __init__(self, name: Map, values: Tensor) -> None:
        self.maps: tuple[Map, ...] = (name,)
        self.values = values

    def __call__(
        self, rgb: Tensor, seed: int = 0, *, steps: int | None = None, ensemble: int = 1, resolution: int | None = None
    ) -> dict[Map, Tensor]:
        return {self.maps[0]: self.values}


def uneven_depths(size: int = 12) -> tuple[Cameras, Tensor, Rendering]:
    """Return the cameras of two views, depths along their axes (B, H, W), and a render with these, half opaque."""
    cameras = turntable(2, size=size)
    generator = torch.Generator().manual_seed(3)
    depth = 2 + torch.rand(2, size, size, generator=generator)
    forward = -cameras.c2w()[:, :3, 2]
    along = depth / torch.einsum("bhwi,bi->bhw", cameras.rays()[1], forward)  # distances along the rays
    alpha = (0.6 + 0.4 * torch.rand(2, size, size, generator=generator)) * (torch.arange(size) > 4)
    rgb = torch.rand(2, size, size, 3, generator=generator)
    return cameras, depth, Rendering(rgb, alpha[..., None], (alpha * along)[..., None], torch.zeros(2, size, size, 3))


def depth_loss(rendering: Rendering, cameras: Cameras, model: Says, weight: float = 1.0) -> Tensor:
    config = EstimatorConfig.model_validate({"map": "depth", "model": "x", "weight": weight})
    return Followed(config, model).losses(rendering, cameras, 0, 0.0)["estimated_depth"]


def test_the_loss_on_depth_is_what_a_line_fitted_to_the_inverse_depths_leaves_over():
    """HiFA's code scales the centred inverse depth so that it comes nearest to the estimate of mean 0 and variance 1,
    and takes the mean squared error: here by numpy's own fit."""
    cameras, depth, rendering = uneven_depths()
    seen = torch.rand(2, 12, 12, generator=torch.Generator().manual_seed(4)) + 1 / depth
    left = []
    for view in range(2):
        opaque = rendering.alpha[view, ..., 0].numpy() > 0.5
        x, y = 1 / depth[view].numpy()[opaque], seen[view].numpy()[opaque]
        y = (y - y.mean()) / y.std()
        left.append(np.mean((np.polyval(np.polyfit(x, y, 1), x) - y) ** 2))
    loss = depth_loss(rendering, cameras, Says("disparity", seen), weight=0.5)
    assert float(loss) == pytest.approx(0.5 * 144 * np.mean(left), rel=1e-4)
    assert 0.1 < np.mean(left) < 0.99


@pytest.mark.parametrize("name", ["disparity", "depth"])
def test_the_loss_on_depth_vanishes_at_any_scale_and_offset_of_the_truth(name: Map):
    cameras, depth, rendering = uneven_depths()
    truth = 1 / depth if name == "disparity" else -depth
    assert float(depth_loss(rendering, cameras, Says(name, 3 * truth + 7))) == pytest.approx(0, abs=0.02)


def test_the_gradient_on_depth_is_that_of_finite_differences():
    cameras, _, rendering = uneven_depths(6)
    seen = Says("disparity", torch.rand(2, 6, 6, generator=torch.Generator().manual_seed(5)).double())
    parts = {name: value.double() for name, value in vars(rendering).items() if value is not None}

    def loss(depth: Tensor) -> Tensor:
        return depth_loss(Rendering(**parts | {"depth": depth}), cameras, seen)

    assert torch.autograd.gradcheck(loss, (parts["depth"].clone().requires_grad_(),))


def test_a_view_without_opaque_pixels_has_no_gradient_on_depth():
    cameras, _, rendering = uneven_depths()
    clear = replace(rendering, alpha=torch.zeros_like(rendering.alpha), depth=rendering.depth.requires_grad_())
    loss = depth_loss(clear, cameras, Says("disparity", torch.rand(2, 12, 12)))
    (gradient,) = torch.autograd.grad(loss, clear.depth)
    assert float(gradient.abs().max()) == 0


class Knows:
    """An estimator that knows base colour and material, whatever it sees."""

    maps: tuple[Map, ...] = ("albedo", "roughness", "metallic")

    def __call__(
        self, rgb: Tensor, seed: int = 0, *, steps: int | None = None, ensemble: int = 1, resolution: int | None = None
    ) -> dict[Map, Tensor]:
        pixels = torch.ones(rgb.shape[:3])
        return {"albedo": torch.tensor(ALBEDO) * pixels[..., None], "roughness": 0.3 * pixels, "metallic": 0.8 * pixels}


ALBEDO = (0.2, 0.6, 0.4)


def test_a_mesh_shows_its_material_without_the_light():
    """The loss at a uniform material is that of the differences of its numbers, whatever lights it, and its gradient is
    that of central differences."""
    lamps = [{"name": "lamps", "seed": 1}, {"name": "lamps", "seed": 2}]
    settings = {
        "geometry": {"name": "fixed", "vertices_lr": 0},
        "appearance": {"name": "voxels", "resolution": 16, "material": {"name": "pbr", "environments": lamps}},
    }
    scene = MeshScene.from_mesh(uneven_ball(), MeshConfig.model_validate(settings), torch.Generator().manual_seed(0))
    color, material = scene.parameters["color"], scene.parameters["material"]
    with torch.no_grad():
        color.copy_(torch.logit(torch.tensor(ALBEDO)).expand_as(color))
        material.copy_(torch.logit(torch.tensor([0.8, 0.3])).expand_as(material))
    cameras = turntable(3, size=24)
    followed = Followed(EstimatorConfig(map="material", model="x", weight=2.0), Knows())

    def loss() -> Tensor:
        rendering = scene.render(cameras, torch.ones(3))
        return followed.losses(rendering, cameras, 0, 0.0)["estimated_material"]

    assert loss().item() == pytest.approx(0, abs=1e-4)
    with torch.no_grad():
        material.copy_(torch.logit(torch.tensor([0.6, 0.4])).expand_as(material))
    opaque = float((scene.render(cameras, torch.ones(3)).alpha > 0.5).sum()) / 3
    value = loss()
    assert float(value) == pytest.approx(2 * 0.5 * (0.2**2 + 0.1**2) * opaque, rel=0.05)  # edges are half covered
    (gradient,) = torch.autograd.grad(value, material)
    direction = torch.randn(material.shape, generator=torch.Generator().manual_seed(2))
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            material.add_(0.01 * sign * direction)
            values.append(float(loss()))
            material.sub_(0.01 * sign * direction)
    assert float((gradient * direction).sum()) == pytest.approx((values[0] - values[1]) / 0.02, rel=0.02)


def test_the_loss_on_materials_is_half_the_squares_over_opaque_pixels_of_what_is_estimated():
    draw = torch.Generator().manual_seed(1)
    rgb, albedo, other = (torch.rand(2, 3, 4, 3, generator=draw, dtype=torch.float64) for _ in range(3))
    rough, metal, seen = (torch.rand(2, 3, 4, generator=draw, dtype=torch.float64) for _ in range(3))
    alpha = torch.tensor([0.2, 0.4, 0.6, 1.0]).double().expand(2, 3, 4)[..., None]
    shown = Rendering(rgb, alpha, alpha, rgb, albedo=albedo, metallic=metal, roughness=rough)
    half = 0.5 * ((albedo - other) ** 2)[:, :, 2:].sum(dim=(1, 2, 3))
    torch.testing.assert_close(material_losses(shown, {"albedo": other}), half)
    both = half + 0.5 * ((rough - seen) ** 2)[:, :, 2:].sum(dim=(1, 2))
    torch.testing.assert_close(material_losses(shown, {"albedo": other, "roughness": seen}), both)


def test_a_scene_without_a_material_is_refused():
    estimator = "estimators=[{map: material, model: x}]"
    with pytest.raises(ConfigError, match=r"map=material is for meshes with representation\.appearance\.material=pbr"):
        make_config("a red mug", "splats", [estimator])
    stage = "stages=[{representation: {name: mesh, geometry: fixed, appearance: {name: texels, material: pbr}}}]"
    assert make_config("a red mug", "splats", [estimator, stage]).estimators


def test_an_estimator_of_another_map_is_refused(tmp_path: Path):
    torch.manual_seed(0)
    NormalsNetwork().eval().save(tmp_path / "normals")
    config = EstimatorConfig.model_validate({"map": "depth", "model": str(tmp_path / "normals")})
    with pytest.raises(PriorError, match="estimates normal, not depth: give another model"):
        load_followed([config], torch.device("cpu"))
