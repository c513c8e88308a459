"""Regularisers of shape: closed forms, invariances, finite differences and difficult meshes."""

import math

import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial.transform import Rotation
from torch import Tensor

from sds3d.rendering.mesh_losses import cotangent_laplacian, edge_length, laplacian, normal_consistency, pull_length

LOSSES = [edge_length, normal_consistency, laplacian, cotangent_laplacian, pull_length]


def tensors(mesh: trimesh.Trimesh) -> tuple[Tensor, Tensor]:
    return torch.tensor(mesh.vertices), torch.tensor(mesh.faces)


def tetrahedron(side: float = 1.0) -> tuple[Tensor, Tensor]:
    corners = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64)
    return corners * (side / math.sqrt(8)), torch.tensor([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]])


def plane(n: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return a flat sheet, tilted and unevenly spaced."""
    g = torch.Generator().manual_seed(seed)
    line = torch.arange(n, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line) + 0.3 * (torch.rand(n * n, 2, generator=g, dtype=torch.float64) - 0.5)
    vertices = grid @ torch.tensor([[1.0, 0.2, 0.0], [0.3, 1.0, 0.5]], dtype=torch.float64)
    a = (torch.arange(n - 1)[:, None] * n + torch.arange(n - 1)).reshape(-1, 1)
    faces = torch.cat([torch.cat([a, a + 1, a + n], 1), torch.cat([a + 1, a + n + 1, a + n], 1)])
    return vertices, faces


def blob(seed: int = 0, subdivisions: int = 1) -> tuple[Tensor, Tensor]:
    vertices, faces = tensors(trimesh.creation.icosphere(subdivisions=subdivisions))
    noise = torch.randn(vertices.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return vertices + 0.1 * noise, faces


def test_regular_tetrahedron() -> None:
    vertices, faces = tetrahedron(side=0.7)
    assert edge_length(vertices, faces).item() == pytest.approx(0.49)
    assert edge_length(vertices, faces, target=0.5).item() == pytest.approx(0.04)
    # Its faces meet at arccos(1/3), so the cosine between normals is -1/3.
    assert normal_consistency(vertices, faces).item() == pytest.approx(4 / 3)
    # A vertex is 4/3 R from the mean of the others, with the circumradius R^2 = 3/8 side^2.
    expected = 16 / 9 * 3 / 8 * 0.49
    assert laplacian(vertices, faces).item() == pytest.approx(expected)
    assert cotangent_laplacian(vertices, faces).item() == pytest.approx(expected)


def test_flat_sheet() -> None:
    vertices, faces = plane()
    vertices.requires_grad_()
    assert normal_consistency(vertices, faces).item() == pytest.approx(0, abs=1e-12)
    # Nothing pulls perpendicular to the sheet. Along it, the uniform Laplacian evens out the spacing.
    normal = torch.linalg.cross(*(vertices.detach()[faces[0, 1:]] - vertices.detach()[faces[0, 0]]))
    for loss in (laplacian, cotangent_laplacian, normal_consistency):
        (gradient,) = torch.autograd.grad(loss(vertices, faces), vertices)
        assert (gradient @ normal).abs().max() < 1e-12
    line = torch.arange(6, dtype=torch.float64)
    even = torch.nn.functional.pad(torch.cartesian_prod(line, line), (0, 1))
    steps = even.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(laplacian(steps, faces), steps)
    middle = (even[:, :2] > 1.5).all(1) & (even[:, :2] < 3.5).all(1)
    assert middle.sum() == 4
    assert gradient[middle].abs().max() < 1e-12


def test_only_the_rim_of_a_flat_sheet_counts_for_cotangents() -> None:
    """Inside the sheet, the loss does not depend on the vertices' positions in it, if the triangles are acute."""
    line = torch.arange(7, dtype=torch.float64)
    rows, columns = torch.meshgrid(line, line, indexing="ij")
    regular = torch.stack([columns + 0.5 * rows, rows * math.sqrt(0.75), torch.zeros_like(rows)], -1).reshape(-1, 3)
    faces = plane(7)[1]
    moved = regular.clone()
    moved[3 * 7 + 3, :2] += torch.tensor([0.08, -0.05])
    assert cotangent_laplacian(moved, faces).item() == pytest.approx(cotangent_laplacian(regular, faces).item())
    assert laplacian(moved, faces).item() > laplacian(regular, faces).item() + 1e-4


@pytest.mark.parametrize(
    ("solid", "reach"),
    [
        (trimesh.creation.icosahedron(), 1 - 1 / math.sqrt(5)),
        (trimesh.convex.convex_hull(np.vstack([np.eye(3), -np.eye(3)])), 1),
    ],
    ids=["icosahedron", "octahedron"],
)
def test_regular_solids(solid: trimesh.Trimesh, reach: float) -> None:
    """The neighbours' mean is on the axis: at cos(arctan 2) of an icosahedron's radius, at an octahedron's centre."""
    vertices, faces = tensors(solid)
    radius = vertices[0].norm().item()
    for loss in (laplacian, cotangent_laplacian):
        assert loss(vertices, faces).item() == pytest.approx((reach * radius) ** 2)


@pytest.mark.parametrize("radius", [0.5, 2.0])
def test_sphere(radius: float) -> None:
    vertices, faces = tensors(trimesh.creation.icosphere(subdivisions=4, radius=radius))
    square = edge_length(vertices, faces).item()
    # Neighbours at distance h are h^2 / (2 r) below a vertex.
    assert cotangent_laplacian(vertices, faces).item() == pytest.approx((square / (2 * radius)) ** 2, rel=0.05)
    # Centres of equilateral faces are h / sqrt(3) apart, and the normals turn by that over r.
    angle = math.sqrt(square / 3) / radius
    assert normal_consistency(vertices, faces).item() == pytest.approx(1 - math.cos(angle), rel=0.03)


def test_bends() -> None:
    """Two hinged triangles: 1 - cos of the bending angle, from 0 to 180 degrees."""
    faces = torch.tensor([[0, 1, 2], [1, 0, 3]])
    for degrees in (0.0, 30.0, 90.0, 150.0, 180.0):
        angle = math.radians(degrees)
        wing = [0.4, -math.cos(angle), math.sin(angle)]
        vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0.7, 2, 0], wing], dtype=torch.float64)
        assert normal_consistency(vertices, faces).item() == pytest.approx(1 - math.cos(angle), abs=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_neither_pose_nor_order_nor_winding_matters(loss) -> None:
    vertices, faces = blob()
    expected = loss(vertices, faces)
    rotation = torch.tensor(Rotation.from_rotvec([0.3, -1.2, 0.5]).as_matrix())
    torch.testing.assert_close(loss(vertices @ rotation.T + 3.0, faces), expected)
    g = torch.Generator().manual_seed(3)
    order, renamed = torch.randperm(len(faces), generator=g), torch.randperm(len(vertices), generator=g)
    shuffled = torch.empty_like(vertices)
    shuffled[renamed] = vertices
    torch.testing.assert_close(loss(shuffled, renamed[faces][order]), expected)
    turned = faces.clone()
    turned[::2] = turned[::2].flip(1)
    torch.testing.assert_close(loss(vertices, turned), expected)


@pytest.mark.parametrize(
    ("loss", "power"), [(edge_length, 2), (normal_consistency, 0), (laplacian, 2), (pull_length, 1)]
)
def test_scale(loss, power: int) -> None:
    vertices, faces = blob()
    torch.testing.assert_close(loss(3 * vertices, faces), 3.0**power * loss(vertices, faces))
    torch.testing.assert_close(cotangent_laplacian(3 * vertices, faces), 9 * cotangent_laplacian(vertices, faces))


@pytest.mark.parametrize("loss", [edge_length, normal_consistency, laplacian, pull_length])
def test_gradients_are_those_of_finite_differences(loss) -> None:
    vertices, faces = blob(subdivisions=0)
    assert torch.autograd.gradcheck(lambda v: loss(v, faces), vertices.requires_grad_())


def test_pull_length_is_that_of_the_graphs_laplacian_matrix() -> None:
    vertices, faces = blob(2)
    linked = np.zeros((len(vertices), len(vertices)))
    for a, b, c in faces.tolist():
        for i, j in ((a, b), (b, c), (c, a)):
            linked[i, j] = linked[j, i] = 1
    pulled = (np.diag(linked.sum(1)) - linked) @ vertices.numpy()
    assert pull_length(vertices, faces).item() == pytest.approx(np.linalg.norm(pulled, axis=1).mean())


def test_gradient_towards_an_edge_length() -> None:
    vertices, faces = blob(subdivisions=0)
    assert torch.autograd.gradcheck(lambda v: edge_length(v, faces, target=0.9), vertices.requires_grad_())


def test_descent_smooths_a_rough_sphere() -> None:
    vertices, faces = blob(5, subdivisions=3)
    rough = normal_consistency(vertices, faces)
    for _ in range(30):
        vertices = vertices.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(cotangent_laplacian(vertices, faces) * len(vertices), vertices)
        vertices = vertices - 0.15 * gradient
    assert normal_consistency(vertices, faces) < 0.5 * rough


@pytest.mark.parametrize("loss", LOSSES)
def test_open_broken_and_empty_meshes(loss) -> None:
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [5, 5, 5], [0, 0, 0]])
    many = {
        "one triangle": [[0, 1, 2]],
        "three faces at an edge": [[0, 1, 2], [0, 1, 3], [1, 0, 4]],
        "no area": [[0, 1, 1], [0, 0, 0], [0, 5, 1], [0, 1, 2]],
        "nothing": [],
    }
    for name, faces in many.items():
        leaf = vertices.clone().requires_grad_()
        value = loss(leaf, torch.tensor(faces, dtype=torch.int64).reshape(-1, 3))
        (gradient,) = torch.autograd.grad(value, leaf)
        assert value.isfinite(), name
        assert gradient.isfinite().all(), name
        if name == "nothing":
            assert value == 0
    with pytest.raises(ValueError, match="faces must"):
        loss(vertices, torch.tensor([[0, 1, 6]]))
    with pytest.raises(ValueError, match="vertices must be"):
        loss(vertices[:, :2], torch.tensor([[0, 1, 2]]))
