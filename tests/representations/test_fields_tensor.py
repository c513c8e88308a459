"""Components of a tensor field: closed forms, the kernel against plain torch, and wrong shapes."""

from functools import partial

import pytest
import torch
from torch import Tensor

from sds3d.rendering.gpu import Backend
from sds3d.rendering.volume import BOUND
from sds3d.representations.fields import Blob
from sds3d.representations.fields_mlp import positional_encode
from sds3d.representations.fields_tensor import TensorField, tensor_encode
from tests.rendering.bounds import assert_within_rounding


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def unit_points(n: int) -> Tensor:
    """Return points in the unit cube, some outside, and some exactly on its border."""
    points = 1.2 * torch.rand(n, 3, generator=generator(1)) - 0.1
    points[::9, 0], points[1::9, 1] = 1.0, 0.0
    return points


def tensors(size: int = 11, components: int = 16) -> tuple[Tensor, Tensor]:
    planes = torch.randn(3, size, size, components, generator=generator(2))
    return planes, torch.randn(3, size, components, generator=generator(3))


def results(backend: Backend, points: Tensor, planes: Tensor, lines: Tensor) -> list[Tensor]:
    """Return the components and the gradients of planes and lines."""
    leaves = [values.clone().requires_grad_() for values in (planes, lines)]
    out = tensor_encode(points, *leaves, backend=backend)
    weight = torch.randn(out.shape, generator=generator(4)).to(out)
    return [out.detach(), *torch.autograd.grad((weight * out).sum(), leaves)]


@pytest.mark.parametrize("n", [0, 1, 2500])
def test_the_kernel_equals_plain_torch(n: int) -> None:
    points, values = unit_points(n), tensors()
    assert_within_rounding(results("numba", points, *values), partial(results, "torch"), points, *values)


def test_threads_change_nothing() -> None:
    threads, found = torch.get_num_threads(), []
    try:
        for n in (1, 3):
            torch.set_num_threads(n)
            found.append(results("numba", unit_points(3000), *tensors()))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_components_in_closed_form(backend: Backend) -> None:
    """Planes of u + 10 v and lines of 1 + w, which interpolation reproduces exactly."""
    axis = torch.linspace(0, 1, 9)
    rows, columns = torch.meshgrid(axis, axis, indexing="ij")
    planes = (rows + 10 * columns)[None, :, :, None].expand(3, -1, -1, 8).contiguous()
    lines = (1 + axis)[None, :, None].expand(3, -1, 8).contiguous()
    points = torch.rand(50, 3, generator=generator())
    x, y, z = points.unbind(-1)
    expected = torch.stack([(x + 10 * y) * (1 + z), (x + 10 * z) * (1 + y), (y + 10 * z) * (1 + x)], dim=-1)
    found = tensor_encode(points, planes, lines, backend=backend)
    torch.testing.assert_close(found, expected[..., None].expand(-1, -1, 8), atol=2e-5, rtol=1e-5)


def test_a_density_of_rank_one_is_a_product_of_three_functions() -> None:
    """With one component, the pre-activation is f(x) g(y) h(z), here x (1 - y) z^2 at the samples of a grid."""
    field = TensorField(generator(), resolution=9, blob=Blob(0.0))
    axis = torch.linspace(0, 1, 9)
    with torch.no_grad():
        field.planes.zero_()
        field.planes[0, :, :, 3] = axis[:, None] * (1 - axis)
        field.lines[0, :, 3] = axis.square()
    unit = torch.cartesian_prod(axis, axis, axis)
    density, _ = field(BOUND * (2 * unit - 1))
    x, y, z = unit.unbind(-1)
    torch.testing.assert_close(density, 20 * torch.nn.functional.softplus(x * (1 - y) * z**2), atol=2e-4, rtol=0)


def test_the_density_has_components_of_its_own() -> None:
    field = TensorField(generator(), resolution=8, density_components=8, feature_components=16)
    points = BOUND * (2 * torch.rand(20, 3, generator=generator()) - 1)
    density, features = field(points)
    for loss, of_density in ((density.sum(), True), (features.square().sum(), False)):
        for gradient in torch.autograd.grad(loss, [field.planes, field.lines], retain_graph=True):
            mine, other = gradient[..., :8], gradient[..., 8:]
            assert bool(mine.any()) is of_density
            assert bool(other.any()) is not of_density


def test_wrong_shapes_are_refused() -> None:
    planes, lines = tensors()
    with pytest.raises(ValueError, match="planes must be"):
        tensor_encode(unit_points(3), planes[..., :12], lines[..., :12])
    with pytest.raises(ValueError, match="lines must be"):
        tensor_encode(unit_points(3), planes, lines[:, :5])


def test_positional_encoding_has_octaves_of_sines() -> None:
    points = 2 * torch.rand(40, 3, generator=generator(), dtype=torch.float64) - 1
    parts = [points]
    for octave in range(6):
        parts += [torch.sin(2**octave * torch.pi * points), torch.cos(2**octave * torch.pi * points)]
    torch.testing.assert_close(positional_encode(points, 6), torch.cat(parts, dim=-1))
