"""Surfaces of signed distances: closed, manifold, outward, accurate and differentiable; FlexiCubes keep edges."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree
from skimage.measure import marching_cubes
from torch import Tensor

from sds3d.geometry.mesh import EmptySurfaceError, Mesh
from sds3d.representations.isosurface import Surface, dmtet, grid_points
from sds3d.representations.isosurface_flexicubes import WEIGHTS, DualSurface, deviation, flexicubes

BOUND = 0.55
Shape = Callable[[Tensor], Tensor]
Method = Callable[[Tensor], Surface | DualSurface]


def ball(points: Tensor) -> Tensor:
    return points.norm(dim=-1) - 0.3


def torus(points: Tensor) -> Tensor:
    x, y, z = points.unbind(-1)
    return (((x * x + z * z).sqrt() - 0.3).square() + y * y).sqrt() - 0.12


def box(points: Tensor) -> Tensor:
    beyond = points.abs() - torch.tensor([0.31, 0.23, 0.27]).to(points)
    return beyond.clamp(min=0).norm(dim=-1) + beyond.amax(-1).clamp(max=0)


VOLUMES = {ball: 4 / 3 * np.pi * 0.3**3, torus: 2 * np.pi**2 * 0.3 * 0.12**2, box: 8 * 0.31 * 0.23 * 0.27}

METHODS = [
    pytest.param(dmtet, id="dmtet"),
    pytest.param(flexicubes, id="flexicubes"),
    pytest.param(lambda sdf: flexicubes(sdf, middles=True), id="flexicubes with middles"),
]


def surface_of(method: Method, shape: Shape, resolution: int) -> tuple[Tensor, Tensor]:
    surface = method(shape(grid_points(resolution)))
    return surface.vertices, surface.faces


def mesh_of(vertices: Tensor, faces: Tensor) -> Mesh:
    return Mesh(vertices.detach().float().numpy(), faces.numpy().astype(np.int32))


def open_edges(faces: Tensor) -> Tensor:
    """Return the edges (E, 2) of only one face. Fails if two faces run along an edge in the same direction."""
    edges = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    n = int(faces.max()) + 1
    there, back = edges[:, 0] * n + edges[:, 1], edges[:, 1] * n + edges[:, 0]
    assert len(there.unique()) == len(there), "an edge belongs to two faces with the same winding"
    return edges[~torch.isin(there, back)]


def fans(faces: Tensor) -> int:
    """Return the number of face fans of a closed surface: the number of vertices, unless sheets touch in a point."""
    corner = np.arange(faces.numel()).reshape(-1, 3)
    following = np.roll(corner, -1, axis=1).ravel()
    start, end = faces.numpy().ravel(), faces.roll(-1, 1).numpy().ravel()  # edge k starts at corner k
    there, back = start * 2**31 + end, end * 2**31 + start
    order = np.argsort(there)
    other = order[np.searchsorted(there[order], back)]  # the same edge in the neighbouring face, reversed
    # If two faces share an edge, their corners at each end of it belong to the same fan.
    rows, columns = np.concatenate([corner.ravel(), following]), np.concatenate([following[other], other])
    return int(connected_components(coo_matrix((np.ones(len(rows)), (rows, columns))))[0])


def assert_closed_manifold(vertices: Tensor, faces: Tensor) -> None:
    assert len(open_edges(faces)) == 0
    assert torch.equal(faces.unique(), torch.arange(len(vertices)))
    assert fans(faces) == len(vertices)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("shape", "characteristic"), [(ball, 2), (torus, 0), (box, 2)])
def test_shapes_are_closed_and_of_the_right_topology(method: Method, shape: Shape, characteristic: int) -> None:
    vertices, faces = surface_of(method, shape, 20)
    assert_closed_manifold(vertices, faces)
    assert len(vertices) - 3 * len(faces) // 2 + len(faces) == characteristic


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", VOLUMES)
def test_volume_is_positive_and_right(method: Method, shape: Shape) -> None:
    assert mesh_of(*surface_of(method, shape, 48)).volume() == pytest.approx(VOLUMES[shape], rel=0.02)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [ball, torus])
def test_distance_to_smooth_shapes_shrinks_with_the_square_of_the_voxel(method: Method, shape: Shape) -> None:
    coarse, fine = (float(shape(surface_of(method, shape, n)[0]).abs().max()) for n in (17, 33))
    assert coarse < 0.3 * 2 * BOUND / 16
    assert fine < 0.4 * coarse


@pytest.mark.parametrize("method", METHODS)
def test_distance_to_a_box_shrinks_with_the_voxel(method: Method) -> None:
    distances = [float(box(surface_of(method, box, n)[0]).abs().mean()) for n in (17, 33)]
    assert distances[1] < 0.6 * distances[0]


@pytest.mark.parametrize("shape", VOLUMES)
@pytest.mark.parametrize("method", METHODS)
def test_agrees_with_marching_cubes(method: Method, shape: Shape) -> None:
    sdf = shape(grid_points(48))
    vertices, faces, _, _ = marching_cubes(sdf.numpy(), level=0.0, spacing=(2 * BOUND / 47,) * 3)
    theirs = Mesh(vertices.astype(np.float32), faces)
    assert mesh_of(*surface_of(method, shape, 48)).volume() == pytest.approx(abs(theirs.volume()), rel=0.01)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(3, 7), st.sampled_from([1.0, 1e-20]))
def test_random_distances_give_closed_manifolds(seed: int, n: int, scale: float) -> None:
    g = torch.Generator().manual_seed(seed)
    inner = torch.randn(n, n, n, generator=g) - 0.3 * torch.randn(1, generator=g)
    inner = scale * torch.where(torch.rand(n, n, n, generator=g) < 0.1, torch.zeros(()), inner)  # some exact zeros
    sdf = torch.nn.functional.pad(inner, (1,) * 6, value=scale)
    if not (inner < 0).any():
        return
    offsets = 3 * torch.randn(*sdf.shape, 3, generator=g)
    weights = 3 * torch.randn(n + 1, n + 1, n + 1, WEIGHTS, generator=g)
    for surface in (
        dmtet(sdf, offsets),
        flexicubes(sdf, offsets, weights),
        flexicubes(sdf, offsets, weights, middles=True),
    ):
        assert_closed_manifold(*surface[:2])
        assert bool(surface.vertices.isfinite().all())


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31))
def test_random_distances_end_at_the_border_only(seed: int) -> None:
    n = 6
    sdf = torch.randn(n, n, n, generator=torch.Generator().manual_seed(seed))
    for surface, reach in ((dmtet(sdf), 1e-6), (flexicubes(sdf), 1.0)):
        edges = open_edges(surface.faces)
        assert len(edges)
        to_border = (BOUND - surface.vertices[edges].abs().amax(-1)) / (2 * BOUND / (n - 1))  # (E, 2) in voxels
        assert float(to_border.max()) <= reach


def test_tetrahedra_separate_inside_from_outside_samples() -> None:
    """The winding number of the surface is 1 at inside samples and 0 at outside ones."""
    g = torch.Generator().manual_seed(5)
    inner = torch.randn(4, 4, 4, generator=g, dtype=torch.float64)
    sdf = torch.nn.functional.pad(inner, (1,) * 6, value=1.0)
    surface = dmtet(sdf)
    points = grid_points(6).double().reshape(-1, 1, 1, 3)
    a, b, c = (surface.vertices[surface.faces] - points).unbind(2)  # each (P, F, 3)
    la, lb, lc = a.norm(dim=-1), b.norm(dim=-1), c.norm(dim=-1)
    # Solid angle of a triangle (Van Oosterom and Strackee, 1983).
    above = (a * torch.linalg.cross(b, c)).sum(-1)
    below = la * lb * lc + (a * b).sum(-1) * lc + (b * c).sum(-1) * la + (c * a).sum(-1) * lb
    winding = 2 * torch.atan2(above, below).sum(-1) / (4 * torch.pi)
    torch.testing.assert_close(winding, (sdf.reshape(-1) < 0).double(), atol=1e-9, rtol=0)


def test_two_touching_cubes_are_separated() -> None:
    """Full layers lie on both sides of a checkered face. Without the cut, four quads would share an edge."""
    layers = torch.tensor([[[1, 1], [1, 1]], [[1, 0], [0, 1]], [[1, 1], [1, 1]]])
    sdf = torch.nn.functional.pad(1.0 - 2.0 * layers, (2, 2, 2, 2, 2, 1), value=1.0)
    for middles in (False, True):
        surface = flexicubes(sdf, middles=middles)
        assert_closed_manifold(surface.vertices, surface.faces)


@pytest.mark.parametrize("middles", [False, True])
def test_gradients_of_flexicubes(middles: bool) -> None:
    g = torch.Generator().manual_seed(1)
    sdf = torch.randn(3, 3, 3, generator=g, dtype=torch.float64)
    offsets = torch.randn(3, 3, 3, 3, generator=g, dtype=torch.float64)
    weights = torch.randn(2, 2, 2, WEIGHTS, generator=g, dtype=torch.float64)
    inputs = [tensor.requires_grad_() for tensor in (sdf, offsets, weights)]

    def outputs(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        surface = flexicubes(*tensors, middles=middles)
        return surface.vertices, deviation(surface)

    assert torch.autograd.gradcheck(outputs, inputs)


def test_gradients_of_dmtet() -> None:
    g = torch.Generator().manual_seed(1)
    sdf = ball(grid_points(4).double()) + 0.02 * torch.randn(4, 4, 4, generator=g, dtype=torch.float64)
    offsets = torch.randn(4, 4, 4, 3, generator=g, dtype=torch.float64)
    inputs = [tensor.requires_grad_() for tensor in (sdf, offsets)]
    assert torch.autograd.gradcheck(lambda *tensors: dmtet(*tensors).vertices, inputs)


@pytest.mark.parametrize("method", METHODS)
def test_growing_the_distance_moves_vertices_inwards(method: Method) -> None:
    """Vertices of a ball move as far as the distances change: the gradients of the radius sum to -1."""
    sdf = ball(grid_points(24)).requires_grad_()
    method(sdf).vertices.norm(dim=-1).mean().backward()
    assert sdf.grad is not None
    assert float(sdf.grad.sum()) == pytest.approx(-1, abs=0.05)


def fitted_box(method: Callable[..., Surface | DualSurface], weights: Tensor | None, steps: int = 100) -> Mesh:
    """Fit a surface by pulling its points to the nearest points of the box, with the same steps for every method."""
    sdf = box(grid_points(13)).requires_grad_()
    offsets = torch.zeros(13, 13, 13, 3, requires_grad=True)
    leaves = [sdf, offsets] if weights is None else [sdf, offsets, weights]
    optimizer = torch.optim.Adam([{"params": [sdf], "lr": 0.001}, {"params": leaves[1:], "lr": 0.02}])
    generator = torch.Generator().manual_seed(0)
    surface = method(*leaves)
    for _ in range(steps):
        surface = method(*leaves)
        corners = surface.vertices[surface.faces]  # (F, 3, 3)
        area = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=-1).detach()
        share = -torch.rand(len(corners), 3, generator=generator).log()
        points = (corners * (share / share.sum(-1, keepdim=True))[..., None]).sum(1)
        loss = (area * box(points).square()).sum() / area.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return mesh_of(*surface[:2])


def lost(mesh: Mesh) -> float:
    """Return the mean distance in metres from the box's edges to the mesh."""
    t = torch.linspace(-1, 1, 41)
    half = torch.tensor([0.31, 0.23, 0.27])
    edges = []
    for axis in range(3):
        for u in (-1.0, 1.0):
            for v in (-1.0, 1.0):
                signs = torch.stack([t, torch.full_like(t, u), torch.full_like(t, v)], -1)
                edges.append(signs.roll(axis, -1) * half)
    points = torch.cat(edges).numpy()
    samples, _ = trimesh.sample.sample_surface(trimesh.Trimesh(mesh.vertices, mesh.faces), 500_000, seed=0)
    return float(KDTree(samples).query(points)[0].mean())


def test_flexicubes_keep_the_edges_of_a_box_better_than_tetrahedra() -> None:
    tetrahedra = lost(fitted_box(dmtet, None))
    weights = torch.zeros(12, 12, 12, WEIGHTS, requires_grad=True)
    cubes = lost(fitted_box(lambda *leaves: flexicubes(*leaves, middles=True), weights))
    assert cubes < 0.5 * tetrahedra
    assert cubes < 0.02 * 2 * BOUND / 12


def test_deviation_is_zero_on_a_plane_and_counts_every_sheet_alike() -> None:
    points = grid_points(6)
    plane = flexicubes(points[..., 0] - 0.05)
    assert float(deviation(plane)) == pytest.approx(0, abs=1e-6)
    surface = flexicubes(torus(grid_points(12)))
    distances = (surface.vertices[surface.sheets] - surface.crossings).norm(dim=-1)
    deviations = []
    for sheet in range(int(surface.sheets.max()) + 1):
        own = distances[surface.sheets == sheet]
        deviations.append((own - own.mean()).abs().mean())
    assert float(deviation(surface)) == pytest.approx(float(torch.stack(deviations).mean()), rel=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_the_error_for_an_empty_surface_names_the_cure(method: Method) -> None:
    with pytest.raises(EmptySurfaceError, match=r"is outside, .* start from a shape"):
        method(torch.ones(5, 5, 5))
    with pytest.raises(EmptySurfaceError, match="is inside"):
        method(-torch.ones(5, 5, 5))
    with pytest.raises(EmptySurfaceError):
        method(torch.full((5, 5, 5), torch.nan))


def test_nan_samples_count_as_outside() -> None:
    sdf = ball(grid_points(12))
    sdf[6, 6, 6] = torch.nan
    for surface in (dmtet(sdf), flexicubes(sdf)):
        assert len(open_edges(surface.faces)) == 0


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be a cube .* got \(4, 4, 5\)"):
        dmtet(torch.ones(4, 4, 5))
    with pytest.raises(ValueError, match=r"offsets must be \(4, 4, 4, 3\)"):
        flexicubes(torch.ones(4, 4, 4), torch.ones(3, 3, 3, 3))
    with pytest.raises(ValueError, match=r"weights must be \(3, 3, 3, 21\)"):
        flexicubes(torch.ones(4, 4, 4), None, torch.ones(4, 4, 4, 21))
