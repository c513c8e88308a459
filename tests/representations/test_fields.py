"""Radiance fields: kernels against plain torch, encodings against closed forms, initial fields, and NaN."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import RegularGridInterpolator
from torch import Tensor

from sds3d.rendering.gpu import Backend
from sds3d.rendering.volume import BOUND
from sds3d.representations.fields import Blob, GridField, RadianceField, activate, deactivate, trilinear
from sds3d.representations.fields_hash import HashField, hash_encode, level_cells
from sds3d.representations.fields_mlp import MLPField
from sds3d.representations.fields_tensor import TensorField
from sds3d.representations.fields_triplane import TriplaneField, triplane_encode
from tests.rendering.bounds import assert_within_rounding, rounding


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def unit_points(n: int, seed: int = 1) -> Tensor:
    """Return points in the unit cube, some outside, and some exactly on its border."""
    points = 1.2 * torch.rand(n, 3, generator=generator(seed)) - 0.1
    points[:: max(n // 10, 1), 0] = 1.0
    points[1 :: max(n // 10, 1), 1] = 0.0
    return points


def metres(n: int, seed: int = 2) -> Tensor:
    return BOUND * (2 * torch.rand(n, 3, generator=generator(seed)) - 1)


CELLS = torch.tensor([3, 7, 10, 61])  # 4^3 and 8^3 corners fit into 2^10 entries; 11^3 do not, though 10^3 would


def table_of(seed: int = 3, entries: int = 1 << 10) -> Tensor:
    return torch.randn(len(CELLS), entries, 2, generator=generator(seed))


def planes_of(size: int = 17, channels: int = 16) -> Tensor:
    return torch.randn(3, size, size, channels, generator=generator(4))


def encode_with_hash(backend: Backend, reference: bool, points: Tensor, values: Tensor) -> Tensor:
    return hash_encode(points, values, CELLS, backend="torch" if reference else backend)


def encode_with_planes(backend: Backend, reference: bool, points: Tensor, values: Tensor) -> Tensor:
    return triplane_encode(points, values, backend="torch" if reference else backend)


# Warp's kernels are the same on a GPU.
encodings = pytest.mark.parametrize(
    ("encode", "values"),
    [
        (partial(encode_with_hash, "numba"), table_of()),
        (partial(encode_with_planes, "numba"), planes_of()),
        (partial(encode_with_hash, "warp"), table_of()),
        (partial(encode_with_planes, "warp"), planes_of()),
    ],
    ids=["hash", "planes", "hash by Warp", "planes by Warp"],
)
fields = pytest.mark.parametrize(
    "make",
    [
        lambda **options: GridField(generator(), resolution=12, **options),
        lambda **options: HashField(generator(), levels=4, entries=1 << 10, finest=24, hidden=16, **options),
        lambda **options: TriplaneField(generator(), resolution=16, features=8, hidden=16, **options),
        lambda **options: TensorField(generator(), resolution=16, feature_components=8, hidden=16, **options),
        lambda **options: MLPField(generator(), frequencies=3, hidden=16, **options),
    ],
    ids=["grid", "hash", "triplane", "tensor", "mlp"],
)


def output_and_gradient(encode, reference: bool, points: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    leaf = values.clone().requires_grad_()
    out = encode(reference, points, leaf)
    weight = torch.randn(out.shape, generator=generator(5)).to(out)
    return out.detach(), torch.autograd.grad((weight * out).sum(), leaf)[0]


# ---- encodings ----


@encodings
@pytest.mark.parametrize("n", [1, 7, 2500])
def test_kernels_equal_the_reference(encode, values: Tensor, n: int) -> None:
    points = unit_points(n)
    ours = output_and_gradient(encode, False, points, values)
    assert_within_rounding(ours, partial(output_and_gradient, encode, True), points, values)


@encodings
def test_the_gradient_is_the_adjoint(encode, values: Tensor) -> None:
    # An encoding is linear in its table, so <w, E(v)> = <E^T(w), v>.
    points = unit_points(300)
    out, _ = output_and_gradient(encode, False, points, values)
    weight = torch.randn(out.shape, generator=generator(5)).double()
    _, gradient = output_and_gradient(encode, False, points, torch.zeros_like(values))
    # Each element is rounded up to 300 times, once per point, relative to the sum of its terms' magnitudes.
    magnitude = (weight.abs() * encode(False, points, values.abs())).sum().item()
    forward, backward = (weight * out).sum().item(), (gradient.double() * values).sum().item()
    assert forward == pytest.approx(backward, abs=rounding(300, magnitude))


@encodings
def test_threads_change_nothing(encode, values: Tensor) -> None:
    threads, results = torch.get_num_threads(), []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            results.append(output_and_gradient(encode, False, unit_points(3000), values))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_a_coarse_level_is_a_grid() -> None:
    # Corners hold x + 10 y - z, which trilinear interpolation reproduces exactly.
    corners = torch.cartesian_prod(*[torch.arange(8.0)] * 3) / 7
    linear = torch.tensor([1.0, 10.0, -1.0])
    table = torch.zeros(1, len(corners), 2)  # no entry to spare
    table[0, :, 1] = corners @ linear
    points = torch.rand(100, 3, generator=generator())
    encoded = hash_encode(points, table, torch.tensor([7]))
    # Rounding for values up to 11: a position and a weight per axis, eight corners, and their sum.
    torch.testing.assert_close(encoded[:, 1], points @ linear, atol=rounding(16, 11), rtol=0)
    assert encoded[:, 0].abs().max() == 0


@pytest.mark.parametrize("backend", ["numba", "warp", "torch"])
def test_a_fine_level_hashes_as_in_the_paper(backend: Backend) -> None:
    entries, cells = 1 << 12, 300
    table = torch.arange(2.0 * entries).reshape(1, entries, 2)
    for corner in [(0, 0, 0), (1, 2, 3), (299, 150, 7), (300, 300, 300)]:
        x, y, z = corner
        entry = (x ^ (y * 2654435761) ^ (z * 805459861)) % entries  # Python's integers do not overflow
        place = torch.tensor([corner], dtype=torch.float32) / cells
        encoded = hash_encode(place, table, torch.tensor([cells]), backend=backend)
        # The position is rounded, so a little of a neighbour is mixed in.
        assert encoded[0].tolist() == pytest.approx([2 * entry, 2 * entry + 1], abs=0.5)


def test_levels_grow_geometrically() -> None:
    assert level_cells(5, 8, 128).tolist() == [8, 16, 32, 64, 128]
    assert level_cells(1, 8, 128).tolist() == [8]
    ratios = level_cells(16, 16, 2048)[1:] / level_cells(16, 16, 2048)[:-1]
    assert ratios.min() > 1.3
    assert ratios.max() < 1.5


def test_planes_are_indexed_by_xy_xz_and_yz() -> None:
    rows, columns = torch.meshgrid(torch.linspace(0, 1, 9), torch.linspace(0, 1, 9), indexing="ij")
    planes = torch.zeros(3, 9, 9, 8)
    for plane, factors in enumerate([(1, 10), (100, 1000), (1e4, 1e5)]):
        planes[plane, ..., plane] = factors[0] * rows + factors[1] * columns
    points = torch.rand(50, 3, generator=generator())
    x, y, z = points.unbind(-1)
    encoded = triplane_encode(points, planes)
    for channel, expected in enumerate([x + 10 * y, 100 * x + 1000 * z, 1e4 * y + 1e5 * z]):
        # Rounding for four corners: a position and a weight per axis, the products and their sum.
        torch.testing.assert_close(encoded[:, channel], expected, rtol=0, atol=rounding(12, expected.max().item()))
    assert encoded[:, 3:].abs().max() == 0


@encodings
def test_outside_points_get_border_values(encode, values: Tensor) -> None:
    points = torch.tensor([[-3.0, 0.4, 0.6], [0.2, 5.0, 9.0]])
    for reference in (False, True):
        torch.testing.assert_close(encode(reference, points, values), encode(reference, points.clamp(0, 1), values))


@encodings
def test_no_points(encode, values: Tensor) -> None:
    leaf = values.clone().requires_grad_()
    encode(False, torch.zeros(0, 3), leaf).sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.abs().max() == 0


@encodings
@settings(max_examples=20, deadline=None)
@given(broken=st.sampled_from([math.nan, math.inf, -math.inf, 1e30, -1e30]), axis=st.integers(0, 2), both=st.booleans())
def test_nan_points_and_values_never_crash(encode, values: Tensor, broken: float, axis: int, both: bool) -> None:
    points = unit_points(20)
    points[3, axis] = broken
    stored = values.clone()
    if both:
        stored.view(-1)[::50] = broken
    out, gradient = output_and_gradient(encode, False, points, stored)
    assert len(out) == 20
    assert gradient.shape == values.shape


# ---- fields ----


def test_trilinear_agrees_with_scipy() -> None:
    grid = torch.rand(6, 6, 6, 2, generator=generator())
    axis = np.linspace(-BOUND, BOUND, 6)
    points = metres(40)
    expected = RegularGridInterpolator((axis, axis, axis), grid.numpy())(points.numpy())
    np.testing.assert_allclose(trilinear(grid, points), expected, atol=rounding(64), rtol=0)  # positions up to 5 cells


@fields
def test_parameters_have_the_gradients_of_finite_differences(make) -> None:
    field = make(channels=2, color=False).double()
    parameters = list(field.parameters())
    points = metres(6).double()

    def loss() -> Tensor:
        density, features = field(points)
        return (density / 20 * torch.arange(6)).sum() + features.square().sum()

    gradients = torch.autograd.grad(loss(), parameters)
    rng = generator(6)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        direction = torch.randn(parameter.shape, generator=rng).double()
        values = []
        with torch.no_grad():
            for sign in (1, -1):
                parameter.add_(direction, alpha=sign * 1e-6)
                values.append(loss())
                parameter.sub_(direction, alpha=sign * 1e-6)
        assert float((values[0] - values[1]) / 2e-6) == pytest.approx(float((gradient * direction).sum()), rel=1e-5)


@fields
def test_fields_follow_the_protocol(make) -> None:
    field: RadianceField = make(channels=3)
    density, features = field(metres(50))
    assert density.shape == (50,)
    assert features.shape == (50, 3)
    assert density.min() >= 0
    assert features.min() >= 0
    assert features.max() <= 1
    grouped = [p for group in field.parameter_groups() for p in group["params"]]
    assert isinstance(field, torch.nn.Module)
    assert {id(p) for p in grouped} == {id(p) for p in field.parameters()}
    assert all(group["lr"] > 0 and len(group["betas"]) == 2 for group in field.parameter_groups())


@fields
def test_latents_are_not_squashed(make) -> None:
    field = make(channels=4, color=False)
    with torch.no_grad():
        match field:
            case GridField():
                field.values[..., 1:] = -7.0
            case TensorField():
                field.network[-1].bias.fill_(-7.0)
            case _:
                field.decoder.out.bias[1:] = -7.0
        assert field(metres(50))[1].shape == (50, 4)
        assert field(metres(50))[1].mean() < -5


@fields
def test_fields_start_as_a_blob(make) -> None:
    field = make(blob=Blob(10.0, 0.275))
    with torch.no_grad():
        density, _ = field(torch.tensor([[0.0, 0.0, 0.0], [0.3, 0.0, 0.0], [0.0, -0.5, 0.0], [0.5, 0.5, 0.5]]))
    assert density[0] > 100
    assert 1 < density[1] < 50
    assert density[2] < 0.3
    assert density[3] < 0.1


@fields
def test_one_seed_one_field(make) -> None:
    one, same = make(), make()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))


@fields
def test_a_field_of_nan_does_not_crash(make) -> None:
    field = make()
    with torch.no_grad():
        next(field.parameters()).view(-1)[:] = math.nan
    density, features = field(metres(20))
    assert density.isnan().any()
    (density.sum() + features.sum()).backward()


def test_the_grid_interpolates_before_activation() -> None:
    field = GridField(generator(), resolution=5)
    points = metres(30)
    density, colors = field(points)
    axis = np.linspace(-BOUND, BOUND, 5)
    with torch.no_grad():
        activated, sigmoid = activate(field.values, color=True)
    for mine, values in ((density[:, None], activated[..., None]), (colors, sigmoid)):
        expected = RegularGridInterpolator((axis, axis, axis), values.numpy())(points.numpy())
        np.testing.assert_allclose(mine.detach(), expected, rtol=1e-4, atol=1e-4)


def test_deactivation_is_the_inverse() -> None:
    raw = torch.linspace(-12, 30, 200, dtype=torch.float64)
    density, _ = activate(raw[:, None].expand(-1, 4), color=True)
    torch.testing.assert_close(deactivate(density), raw, atol=1e-6, rtol=1e-6)
    assert deactivate(torch.zeros(1)).isfinite().all()


@pytest.mark.parametrize("shape", [(4, 1000, 2), (4, 1024, 4), (3, 1024, 2)])
def test_invalid_tables_are_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        hash_encode(unit_points(3), torch.zeros(shape), CELLS)


def test_invalid_planes_are_refused() -> None:
    for planes in (torch.zeros(3, 8, 8, 12), torch.zeros(2, 8, 8, 8), torch.zeros(3, 8, 9, 8)):
        with pytest.raises(ValueError, match="planes must be"):
            triplane_encode(unit_points(3), planes)
    with pytest.raises(ValueError, match="points must be"):
        triplane_encode(torch.zeros(3, 2), planes_of())
