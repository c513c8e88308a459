"""The slope of the hash encoding: kernels against plain torch, plain torch against differences of the encoding."""

import pytest
import torch
from torch import Tensor

from sds3d.rendering.gpu import Backend
from sds3d.representations.fields import RadianceField
from sds3d.representations.fields_hash import HashField, hash_encode_reference, hash_slope

CELLS = torch.tensor([3, 7, 10, 61])  # 4^3 and 8^3 corners fit into 2^10 entries; 11^3 and 62^3 do not


def inputs(n: int = 300, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return points (P, 3), some outside of the unit cube, a table, weights (P, 2 L), and a gradient (P, 3)."""
    generator = torch.Generator().manual_seed(seed)
    points = 1.2 * torch.rand(n, 3, generator=generator) - 0.1
    table = torch.randn(4, 1 << 10, 2, generator=generator)
    return points, table, torch.randn(n, 8, generator=generator), torch.randn(n, 3, generator=generator)


def results(backend: Backend, points: Tensor, table: Tensor, given: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
    """Return the slope, and the gradients of table and weights."""
    table, given = table.clone().requires_grad_(), given.clone().requires_grad_()
    slope = hash_slope(points, table, CELLS, given, backend=backend)
    return slope.detach(), *torch.autograd.grad(slope, (table, given), gradient)


def test_the_slope_is_the_limit_of_differences():
    points, table, given, _ = (tensor.double() for tensor in inputs())
    step = 1e-7
    slope = hash_slope(points, table, CELLS, given, backend="torch")
    for axis in range(3):
        away = step * torch.eye(3, dtype=torch.float64)[axis]
        before, after = (hash_encode_reference(points + sign * away, table, CELLS) for sign in (-1, 1))
        expected = ((after - before) * given).sum(-1) / (2 * step)
        torch.testing.assert_close(slope[:, axis], expected, atol=1e-4, rtol=1e-5)
    outside = (points < 0) | (points > 1)
    assert outside.any()
    assert not slope[outside].any()


def test_its_gradients_agree_with_finite_differences():
    points, table, given, _ = (tensor.double() for tensor in inputs(4))
    table = table[:2, :8]
    cells = torch.tensor([1, 5])

    def slope(table: Tensor, given: Tensor) -> Tensor:
        return hash_slope(points, table, cells, given[:, :4], backend="torch")

    assert torch.autograd.gradcheck(slope, (table.requires_grad_(), given.requires_grad_()))


@pytest.mark.parametrize("backend", ["numba", "warp"])
@pytest.mark.parametrize("n", [1, 3000])
def test_kernels_agree_with_plain_torch(backend: Backend, n: int):
    if backend == "warp":
        pytest.importorskip("warp")
    given = inputs(n)
    actual, expected = results(backend, *given), results("torch", *(tensor.double() for tensor in given))
    for ours, exact in zip(actual, expected, strict=True):
        scale = exact.abs().max().item()
        torch.testing.assert_close(ours.double(), exact, atol=3e-6 * scale, rtol=0)


@pytest.mark.parametrize("backend", ["numba", "warp"])
def test_points_on_the_border_have_the_slope_inside(backend: Backend):
    if backend == "warp":
        pytest.importorskip("warp")
    _, table, given, _ = inputs(4)
    points = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.5, 1.0, 0.0], [0.3, 0.0, 1.0]])
    slope = hash_slope(points, table, CELLS, given, backend=backend)
    exact = hash_slope(points.double(), table.double(), CELLS, given.double(), backend="torch")
    torch.testing.assert_close(slope.double(), exact, atol=1e-3, rtol=1e-5)
    assert (slope != 0).all()


def test_the_density_s_slope_is_that_of_torch_with_and_without_all_levels():
    field = HashField(torch.Generator().manual_seed(0), levels=6, entries=1 << 10, separate=True)
    torch.nn.init.normal_(field.table, std=0.3, generator=torch.Generator().manual_seed(1))
    points = torch.rand(200, 3, generator=torch.Generator().manual_seed(2)) - 0.5
    for levels in (6, 3):
        field.in_use = levels
        ours, exact = field.slope(points), RadianceField.slope(field, points)
        torch.testing.assert_close(ours, exact, atol=2e-3, rtol=1e-4)
        gradients = [
            torch.autograd.grad(slope.square().sum(), list(field.parameters()), allow_unused=True)
            for slope in (ours, exact)
        ]
        for mine, theirs in zip(*gradients, strict=True):
            assert (mine is None) == (theirs is None)
            if mine is not None and theirs is not None:
                torch.testing.assert_close(mine, theirs, atol=1e-4 * theirs.abs().max().item(), rtol=0)
