"""Sketch-Shape: inside and outside in closed form, the loss by its formula, and a field fitted to a sketch."""

import math

import pytest
import torch
import trimesh

from sds3d.geometry.mesh import Mesh
from sds3d.rendering.volume import BOUND
from sds3d.representations.fields import Blob
from sds3d.representations.fields_hash import HashField
from sds3d.representations.sketch_shape import SketchShape, sketch_shape_loss, winding_number


def to_mesh(mesh: trimesh.Trimesh) -> Mesh:
    return Mesh(mesh.vertices.astype("float32"), mesh.faces.astype("int32"))


def sphere(radius: float = 0.3, subdivisions: int = 3) -> Mesh:
    return to_mesh(trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius))


def sketch_of(mesh: Mesh, **options) -> SketchShape:
    return SketchShape(mesh, torch.Generator().manual_seed(0), **options)


def test_winding_number_of_a_ball() -> None:
    mesh = sphere()
    points = BOUND * (2 * torch.rand(300, 3, generator=torch.Generator().manual_seed(1)) - 1)
    points = points[(points.norm(dim=-1) - 0.3).abs() > 0.01]
    expected = (points.norm(dim=-1) < 0.3).double()
    torch.testing.assert_close(winding_number(points, mesh.vertices, mesh.faces), expected, atol=1e-9, rtol=0)
    inverted = winding_number(points, mesh.vertices, mesh.faces[:, ::-1].copy())
    torch.testing.assert_close(inverted, -expected, atol=1e-9, rtol=0)


def test_winding_number_of_an_open_mesh() -> None:
    # From the middle of a cube, one side covers a sixth of all directions.
    box = trimesh.creation.box(extents=(0.4, 0.4, 0.4))
    side = box.faces[box.face_normals[:, 1] > 0.5].astype("int32")
    middle = winding_number(torch.zeros(1, 3), box.vertices.astype("float32"), side)
    assert float(middle) == pytest.approx(1 / 6, abs=1e-9)


def test_overlapping_parts_are_inside_once_or_twice() -> None:
    two = trimesh.util.concatenate([trimesh.creation.box(extents=(0.4,) * 3), trimesh.creation.icosphere(radius=0.1)])
    points = torch.tensor([[0.0, 0.0, 0.0], [0.15, 0.15, 0.15], [0.3, 0.0, 0.0]])
    number = winding_number(points, two.vertices.astype("float32"), two.faces.astype("int32"))
    assert number.tolist() == pytest.approx([2.0, 1.0, 0.0], abs=1e-9)


def test_the_pool_has_insides_and_distances() -> None:
    sketch = sketch_of(sphere(), points=1000)
    radius = sketch.points.norm(dim=-1)
    near = (radius - 0.3).abs() < 0.004
    assert torch.equal(sketch.inside[~near], (radius < 0.3)[~near])
    torch.testing.assert_close(sketch.distance, (radius - 0.3).abs(), atol=0.004, rtol=0)


@pytest.mark.parametrize("inside", [False, True])
def test_slope_in_closed_form(inside: bool) -> None:
    # d loss / d occupancy is the weight times log 99, positive outside and negative inside; 0 on the surface.
    density = torch.full((3,), 4.0, requires_grad=True)
    distance, slack = torch.tensor([0.0, 0.1, 1e3]), 0.15
    loss = sketch_shape_loss(density, torch.full((3,), inside), distance, slack)
    (gradient,) = torch.autograd.grad(loss, density)
    weight = 1 - torch.exp(-distance.square() / (2 * slack**2))
    sign = -1 if inside else 1
    slope = sign * weight * math.log(99) * 0.2 * math.exp(-0.2 * 4.0)  # d occupancy / d density
    torch.testing.assert_close(gradient, slope, atol=1e-5, rtol=1e-5)


def test_the_loss_is_lowest_where_the_field_is_the_sketch() -> None:
    inside, distance = torch.tensor([True, False, True]), torch.tensor([0.1, 0.2, 0.3])

    def loss(*density: float) -> float:
        return float(sketch_shape_loss(torch.tensor(density), inside, distance, 0.15))

    best = loss(1e3, 0.0, 1e3)
    for worse in ((0.0, 0.0, 1e3), (1e3, 5.0, 1e3), (1e3, 0.0, 1.0)):
        assert loss(*worse) > best


def test_a_field_is_fitted_to_the_shape() -> None:
    box = trimesh.creation.box(extents=(0.7, 0.3, 0.3))
    sketch = sketch_of(to_mesh(box), points=4096, batch=1024)
    generator = torch.Generator().manual_seed(2)
    field = HashField(generator, levels=4, entries=1 << 11, finest=24, hidden=16, blob=Blob(3.0, 0.275))
    optimizer = torch.optim.Adam(field.parameter_groups())
    for _ in range(60):
        optimizer.zero_grad()
        sketch.loss(field, generator).backward()
        optimizer.step()
    points = BOUND * (2 * torch.rand(2000, 3, generator=generator) - 1)
    gap = (points.abs() - torch.tensor([0.35, 0.15, 0.15])).amax(-1)  # distance to the box's sides, negative inside
    with torch.no_grad():
        occupied = 1 - torch.exp(-0.2 * field(points)[0]) > 0.5
    sure = gap.abs() > 0.05
    assert (occupied == (gap < 0))[sure].float().mean() > 0.97


def test_one_generator_state_one_loss() -> None:
    sketch, field = sketch_of(sphere(), points=500, batch=100), HashField(torch.Generator().manual_seed(0))
    with torch.no_grad():
        one, same, other = (sketch.loss(field, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_invalid_sketches_are_refused() -> None:
    with pytest.raises(ValueError, match="scale it down"):
        sketch_of(sphere(0.7))
    with pytest.raises(ValueError, match="no faces"):
        sketch_of(Mesh(sphere().vertices, sphere().faces[:0]))
    broken = sphere()
    broken.vertices[0] = math.nan
    with pytest.raises(ValueError, match="scale it down"):
        sketch_of(broken)
