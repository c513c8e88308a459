"""Further samples along rays: against numpy's inverse of the cumulative weights, closed forms and a finer march."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sds3d.cameras import orbit
from sds3d.rendering.packed import Occupancy, Samples, composite, march, occupancy_of, render_field
from sds3d.rendering.resampling import SIDES, Fine, Kernel, resample, smoothed
from sds3d.rendering.volume import BOUND

COUNT = 7


def rays(size: int = 6) -> tuple[Tensor, Tensor]:
    origins, directions = orbit([20.0], 15.0, size=size).rays()
    return origins.reshape(-1, 3), directions.reshape(-1, 3)


def jitters(n: int) -> Tensor:
    return torch.rand(n, generator=torch.Generator().manual_seed(0))


def ball_occupancy(n: int = 10) -> Occupancy:
    """Return two separate balls, so that rays have gaps and some rays have no samples at all."""
    axis = torch.linspace(-BOUND, BOUND, n)
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)
    near = torch.minimum((points - 0.3).norm(dim=-1), (points + 0.3).norm(dim=-1))
    return occupancy_of(5 * (0.25 - near).clamp(min=0), 0.1)


def shell(points: Tensor) -> tuple[Tensor, Tensor]:
    """A shell of 8 mm and an opacity of about 2/3, with colours."""
    density = 60 * torch.exp(-(((points.norm(dim=-1) - 0.31) / 0.008) ** 2))
    return density, (points + 0.5).clamp(0, 1)


def drawn_by_numpy(samples: Samples, weights: Tensor, shift: float) -> np.ndarray:
    """Return the places of COUNT further samples of a single ray without gaps, from the inverse cumulative weights."""
    dt = float(samples.dt[0])
    edges = np.append(samples.t.numpy() - dt / 2, samples.t[-1].item() + dt / 2)
    cumulated = np.append(0, np.cumsum(weights.double().numpy()))
    return np.interp((np.arange(COUNT) + shift) / COUNT, cumulated / cumulated[-1], edges)


@pytest.mark.parametrize("kernel", SIDES)
def test_a_ray_has_its_first_samples_and_those_of_the_inverse_cumulative_weights(kernel: Kernel):
    origins, directions = (part[14:15] for part in rays())
    samples = march(origins, directions, None, samples=12)
    weights = torch.rand(len(samples.t), generator=torch.Generator().manual_seed(1)) ** 3
    shift = torch.tensor([0.3])
    made = Fine(COUNT, kernel)(samples, weights, origins, directions, shift)
    padded = np.pad(weights.numpy() + 1e-5, 1, mode="edge")
    kept = {"none": [0, 1, 0], "boxcar": [1 / 3] * 3, "trapezoidal": [1 / 8, 3 / 4, 1 / 8]}[kernel]
    blurred = torch.from_numpy(np.convolve(padded, kept, mode="valid"))
    expected = np.sort(np.append(samples.t.numpy(), drawn_by_numpy(samples, blurred, 0.3)))
    np.testing.assert_allclose(made.t.numpy(), expected, atol=1e-5)
    torch.testing.assert_close(made.points, origins + made.t[:, None] * directions, atol=1e-5, rtol=0)


def test_lengths_still_add_up_in_each_cell_of_rays_with_gaps():
    origins, directions = rays()
    samples = march(origins, directions, ball_occupancy(), samples=16, jitter=jitters(len(origins)))
    weights = torch.rand(len(samples.t), generator=torch.Generator().manual_seed(2))
    made = resample(samples, weights, origins, directions, COUNT, jitters(len(origins)))
    hit = samples.offsets.diff() > 0
    assert 0 < int(hit.sum()) < len(hit)
    assert made.offsets.diff().tolist() == (samples.offsets.diff() + COUNT * hit).tolist()
    assert bool((made.dt >= 0).all())
    inner = made.ray[1:] == made.ray[:-1]
    assert bool((made.t.diff()[inner] >= 0).all())
    nearest = torch.searchsorted(made.ray * 100 + made.t, samples.ray * 100 + samples.t - samples.dt / 2)
    owner = torch.zeros(len(made.t), dtype=torch.int64).index_fill(0, nearest, 1).cumsum(0) - 1
    sums = torch.zeros(len(samples.t)).index_add(0, owner, made.dt)
    torch.testing.assert_close(sums, samples.dt, atol=1e-5, rtol=1e-4)
    again = resample(samples, weights, origins, directions, COUNT, jitters(len(origins)))
    assert torch.equal(again.t, made.t)


def test_even_density_absorbs_what_beers_law_says():
    origins, directions = rays()

    def even(points: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full_like(points[:, 0], 1.5), points

    seen = render_field(even, origins, directions, samples=9, refine=Fine(COUNT, "boxcar"))
    ends = march(origins, directions, None, samples=9)
    length = torch.zeros(len(origins)).index_add(0, ends.ray, ends.dt)
    torch.testing.assert_close(seen.alpha, 1 - torch.exp(-1.5 * length), atol=1e-5, rtol=1e-5)


def test_smoothing_passes_weights_on_to_neighbours_alone():
    t = torch.tensor([0.1, 0.2, 0.3, 0.6, 0.7, 0.1])  # a gap behind the third, then another ray
    ray = torch.tensor([0, 0, 0, 0, 0, 1])
    samples = Samples(ray, t, torch.full((6,), 0.1), torch.zeros(6, 3), torch.tensor([0, 5, 6]))
    weights = torch.tensor([0.0, 0.9, 0.0, 0.0, 0.6, 0.5])
    made = smoothed(weights, samples, SIDES["boxcar"])
    torch.testing.assert_close(made, torch.tensor([0.3, 0.3, 0.3, 0.2, 0.4, 0.5]))


def test_thin_shells_are_seen_as_by_a_much_finer_march_and_smoothing_helps():
    """The first samples miss much of a shell thinner than their cells: HiFA's reason for smoothing."""
    origins, directions = rays(12)
    exact = render_field(shell, origins, directions, samples=4096)

    def error(refine: Fine | None) -> float:
        seen = render_field(shell, origins, directions, samples=48, jitter=jitters(len(origins)), refine=refine)
        return float((seen.alpha - exact.alpha).square().mean().sqrt())

    sharp, smooth = error(Fine(64)), error(Fine(64, "boxcar"))
    assert sharp < 0.6 * error(None)
    assert smooth < 0.4 * sharp


def test_kernels_sum_samples_of_uneven_lengths_like_the_reference():
    origins, directions = rays()
    samples = march(origins, directions, None, samples=12, jitter=jitters(len(origins)))
    density, _ = shell(samples.points)
    made = Fine(COUNT)(samples, density, origins, directions, None)
    density, features = shell(made.points)
    outcomes = [composite(density, features, made, len(origins), backend=backend) for backend in ("torch", "numba")]
    torch.testing.assert_close(*outcomes, atol=1e-5, rtol=1e-4)


def test_the_gradient_is_that_of_finite_differences():
    origins, directions = (part[14:16].double() for part in rays())
    log_scale = torch.zeros((), dtype=torch.float64, requires_grad=True)
    samples = march(origins, directions, None, samples=8, backend="torch")
    made = resample(samples, shell(samples.points)[0] + 1e-5, origins, directions, COUNT)

    def alpha(value: Tensor) -> Tensor:
        density, features = shell(made.points)
        return composite(value.exp() * density, features, made, 2, backend="torch").alpha

    assert torch.autograd.gradcheck(alpha, (log_scale,))
    assert math.isfinite(float(alpha(log_scale).sum().detach()))
