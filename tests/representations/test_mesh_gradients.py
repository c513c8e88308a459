"""Gradients and regularisers of the mesh scene in closed form."""

import math

import pytest
import torch

from sds3d.cameras import orbit
from sds3d.ramps import Ramp
from sds3d.rendering.mesh_losses import normal_consistency
from sds3d.rendering.volume import BOUND
from sds3d.representations.base import Rendering
from sds3d.representations.isosurface import dmtet, grid_points
from sds3d.representations.mesh_distances import Distances, eikonal
from sds3d.representations.mesh_geometry import bending, face_normals
from sds3d.representations.mesh_scene import MeshScene
from tests.representations.mesh_scenes import (
    BACKGROUND,
    GEOMETRIES,
    scene_of,
)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_gradients_reach_every_parameter(geometry: str) -> None:
    scene = scene_of(geometry=geometry, shading="lambert")
    out = scene.render(orbit([0.0, 90.0], size=24), BACKGROUND)
    for picture in (out.rgb, out.alpha, out.depth, out.normal[..., 0]):
        gradients = torch.autograd.grad(
            (picture * torch.linspace(0, 1, 24)[:, None]).sum(),
            list(scene.parameters.values()),
            retain_graph=True,
            materialize_grads=True,
            allow_unused=True,
        )
        for name, gradient in zip(scene.parameters, gradients, strict=True):
            assert bool(gradient.isfinite().all()), name
            assert bool(gradient.any()) == (name != "color" or picture is out.rgb), name


@pytest.mark.parametrize("geometry", ["dmtet", "flexicubes"])
def test_slope_of_a_silhouettes_area(geometry: str) -> None:
    """A ball of radius r covers pi f^2 r^2 / (d^2 - r^2) pixels at distance d; the sdf gradient is minus its slope."""
    cameras, radius, distance = orbit([0.0], elevation=0.0, distance=2.1, size=64), 0.3, 2.1
    scene = scene_of(geometry=geometry, resolution=40, radius=radius)
    area = scene.render(cameras, BACKGROUND).alpha.sum()
    (gradient,) = torch.autograd.grad(area, scene.parameters["sdf"])
    focal = float(cameras.intrinsics()[0, 0, 0])
    rest = distance**2 - radius**2
    assert area.item() == pytest.approx(math.pi * focal**2 * radius**2 / rest, rel=0.01)
    slope = 2 * math.pi * focal**2 * radius * distance**2 / rest**2
    assert float(gradient.sum()) == pytest.approx(-slope, rel=0.05)


def test_colors_get_the_gradient_of_the_pixels_they_color() -> None:
    scene = scene_of(radius=0.25)
    scene.render(orbit([0.0], elevation=0.0, size=32), BACKGROUND).rgb.sum().backward()
    gradient = scene.parameters["color"].grad
    assert gradient is not None
    x, y, z = (grid_points(24)[gradient.abs().sum(-1) > 0]).unbind(-1)
    assert z.min() > -0.1  # only the front is visible
    assert (x * x + y * y + z * z).sqrt().max() < 0.25 + 2 * BOUND / 23 * math.sqrt(3)


def test_eikonal_is_zero_for_distances_and_in_closed_form() -> None:
    plane = torch.linspace(-6, 6, 13)[:, None, None].expand(13, 13, 13)
    assert float(eikonal(plane)) == pytest.approx(0, abs=1e-10)
    assert float(eikonal(1.5 * plane)) == pytest.approx(0.25, rel=1e-5)
    assert float(eikonal(torch.full((5, 5, 5), 9.0))) == 0


def test_bending_is_normal_consistency() -> None:
    noise = torch.randn(12, 12, 12, generator=torch.Generator().manual_seed(0))
    vertices, faces = dmtet(grid_points(12).norm(dim=-1) - 0.3 + 0.02 * noise)
    vertices, faces = vertices.double().requires_grad_(), faces.clone()
    faces[::3] = faces[::3].flip(1)  # the winding must not matter
    faces = torch.cat([faces[5:], torch.tensor([[0, 0, 1]])])  # an open mesh with a face of zero area
    ours = bending(face_normals(vertices, faces), faces, len(vertices))
    theirs = normal_consistency(vertices, faces)
    torch.testing.assert_close(ours, theirs)
    slopes = (torch.autograd.grad(loss, vertices)[0] for loss in (ours, theirs))
    torch.testing.assert_close(*slopes)


def distances(scene: MeshScene) -> Distances:
    assert isinstance(scene.geometry, Distances)
    return scene.geometry


def test_coarse_lattices_are_added_trilinearly() -> None:
    scene = scene_of(resolution=25)
    before, generator = distances(scene).sdf().detach(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        scene.parameters["coarse_12"].copy_(torch.randn(12, 12, 12, generator=generator) * 0.01)
    expected = torch.nn.functional.interpolate(
        scene.parameters["coarse_12"][None, None], (25, 25, 25), mode="trilinear", align_corners=True
    )
    inner = (slice(1, -1),) * 3
    torch.testing.assert_close((distances(scene).sdf() - before)[inner], expected[0, 0][inner], atol=1e-6, rtol=0)
    with torch.no_grad():  # interpolation reproduces linear functions exactly
        scene.parameters["coarse_12"].zero_()
        scene.parameters["coarse_6"].copy_(grid_points(6)[..., 0])
    torch.testing.assert_close(
        (distances(scene).sdf() - before)[inner], grid_points(25)[..., 0][inner], atol=1e-6, rtol=0
    )


def test_regularisers_are_scaled_by_weights_and_pixels() -> None:
    names = ["normal_consistency", "laplacian", "edge_length", "eikonal", "deviation"]
    scene = scene_of(geometry="flexicubes", smoothness=1.0, **dict.fromkeys(names, 1.0))
    small, large = torch.zeros(2, 4, 6, 1), torch.zeros(2, 8, 6, 1)
    with torch.no_grad():
        few = scene.regularisers(Rendering(small, small, small, small), 0.0)
        many = scene.regularisers(Rendering(large, large, large, large), 0.0)
        scene.geometry.config = scene.geometry.config.model_copy(
            update={"laplacian": Ramp(3.0), "edge_length": Ramp(0.0)}
        )
        other = scene.regularisers(Rendering(small, small, small, small), 0.0)
    assert few.keys() == {*names, "color_smoothness"}
    for name, loss in few.items():
        assert float(loss) > 0
        assert float(many[name]) == pytest.approx(2 * float(loss))
    assert float(other["laplacian"]) == pytest.approx(3 * float(few["laplacian"]))
    assert "edge_length" not in other
