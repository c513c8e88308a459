"""Weights of all divergences by finite differences, the rule with known networks, and its discriminator's training."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sds3d.cameras import CameraConfig, sample_cameras
from sds3d.guidance.base import draw_noise
from sds3d.guidance.cache import ViewCache
from sds3d.guidance.discriminator import DiscriminatorConfig
from sds3d.guidance.fdivergence import (
    WEIGHTS,
    Divergence,
    FDivergence,
    FDivergenceConfig,
)
from sds3d.guidance.schedules import UniformSchedule
from sds3d.guidance.variational import VariationalConfig
from sds3d.guidance.vsd import VSD, VSDConfig
from sds3d.priors.base import add_noise
from sds3d.priors.gaussian import Gaussian, GaussianPrior
from sds3d.prompts.conditioning import Structure
from tests.guidance.exact import DTYPES, seeded
from tests.guidance.queries import queries_of
from tests.guidance.scores import Known, normal, resumes_bit_identically
from tests.guidance.views import views_of

FROZEN = VariationalConfig(updates=0)
GENERATORS: dict[Divergence, Callable[[Tensor], Tensor]] = {
    "reverse_kl": lambda r: -r.log(),
    "forward_kl": lambda r: r * r.log(),
    "jeffreys": lambda r: (r - 1) * r.log(),
    "jensen_shannon": lambda r: r * r.log() - (r + 1) * ((r + 1) / 2).log(),
    "hellinger": lambda r: 1 - r.sqrt(),
    "chi_square": lambda r: (r - 1) ** 2,
}


def prior_of(dtype: torch.dtype = torch.float32, size: int = 4) -> GaussianPrior:
    return GaussianPrior({"y": Gaussian(0.8, 0.5), "": Gaussian(0.3, 0.9)}, (3, size, size), dtype=dtype)


def density(x: Tensor, mean: float, std: float) -> Tensor:
    return torch.exp(-0.5 * ((x - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))


@pytest.mark.parametrize("divergence", WEIGHTS)
def test_weights_give_the_slope_of_their_divergence(divergence):
    """d D_f / d mu = -E_q h(r) (s_p - s_q), for q = N(mu, 1.3^2) and p = N(0.7, 1)."""
    x, h = torch.linspace(-12, 12, 20001, dtype=torch.float64), 1e-4
    p = density(x, 0.7, 1.0)

    def value(mu: float) -> float:
        q = density(x, mu, 1.3)
        return torch.trapezoid(q * GENERATORS[divergence](p / q), x).item()

    numeric = (value(h) - value(-h)) / (2 * h)
    q = density(x, 0.0, 1.3)
    scores = -(x - 0.7) + x / 1.3**2  # s_p - s_q
    slope = -torch.trapezoid(q * WEIGHTS[divergence](p / q) * scores, x).item()
    assert slope == pytest.approx(numeric, abs=1e-6)


@pytest.mark.parametrize("divergence", WEIGHTS)
def test_weights_are_r_squared_times_the_second_derivative(divergence):
    r = torch.logspace(-2, 2, 50, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(GENERATORS[divergence](r).sum(), r, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), r)
    torch.testing.assert_close(WEIGHTS[divergence](r.detach()), r.detach() ** 2 * second, rtol=1e-9, atol=1e-9)


def phi_of(prior: GaussianPrior) -> Known:
    return Known(lambda x_t, t, cond, cameras: normal(prior, 0.1, 0.4, x_t, t))


@DTYPES
@pytest.mark.parametrize("divergence", WEIGHTS)
def test_the_gradient_is_weighted_vsd(dtype, tolerance, divergence):
    prior, x = prior_of(dtype), torch.rand(8, 3, 4, 4, generator=seeded(3)).to(dtype)
    views, log_ratio = views_of(prior, 8), torch.linspace(-2, 2, 8, dtype=dtype)
    config = FDivergenceConfig(divergence=divergence, start=0.0, variational=FROZEN)
    rule = FDivergence(config, prior, phi_of(prior), lambda x_t, t, cameras: log_ratio)
    ours = rule(x, views, 0.0, seeded()).gradient
    vsd = VSD(VSDConfig(variational=FROZEN), prior, phi_of(prior))(x, views, 0.0, seeded()).gradient
    h = WEIGHTS[divergence](log_ratio.exp())
    assert vsd is not None
    torch.testing.assert_close(ours, (h / h.mean()).reshape(8, 1, 1, 1) * vsd, atol=tolerance, rtol=tolerance)
    if divergence == "reverse_kl":
        torch.testing.assert_close(ours, vsd, atol=tolerance, rtol=tolerance)


def test_ratios_are_clamped_and_unused_before_start():
    prior, x = prior_of(torch.float64), torch.rand(4, 3, 4, 4, generator=seeded(3), dtype=torch.float64)
    views, far = views_of(prior, 4), torch.tensor([-80.0, 80.0, 0.0, 200.0])
    rule = FDivergence(FDivergenceConfig(start=0.5, variational=FROZEN), prior, phi_of(prior), lambda *_: far)
    early, late = rule(x, views, 0.4, seeded()).gradient, rule(x, views, 0.6, seeded()).gradient
    vsd = VSD(VSDConfig(variational=FROZEN), prior, phi_of(prior))(x, views, 0.0, seeded()).gradient
    assert vsd is not None
    torch.testing.assert_close(early, vsd)
    h = torch.tensor([1e-3, 1e3, 1.0, 1e3], dtype=torch.float64)  # for forward KL, h is the ratio itself
    torch.testing.assert_close(late, (h / h.mean()).reshape(4, 1, 1, 1) * vsd, atol=0, rtol=1e-6)


def test_the_ratio_is_that_of_noised_renders():
    prior, x = prior_of(torch.float64), torch.rand(8, 3, 4, 4, generator=seeded(3), dtype=torch.float64)
    views, config = views_of(prior, 8), FDivergenceConfig(start=0.0, variational=FROZEN)
    rule = FDivergence(config, prior, phi_of(prior), lambda x_t, t, cameras: x_t.mean(dim=(1, 2, 3)) + t)
    ours = rule(x, views, 0.0, seeded()).gradient
    vsd = VSD(VSDConfig(variational=FROZEN), prior, phi_of(prior))(x, views, 0.0, seeded()).gradient
    generator = seeded()
    t = config.schedule.sample(0.0, 8, 1, generator)
    h = (add_noise(prior, x, draw_noise(x, generator), t).mean(dim=(1, 2, 3)) + t).exp()  # for forward KL
    assert vsd is not None
    torch.testing.assert_close(ours, (h / h.mean()).reshape(8, 1, 1, 1) * vsd, atol=1e-9, rtol=1e-9)


def test_the_discriminator_learns_the_ratio():
    """With pictures of one pixel, log(p_t / q_t) is a known parabola of its three values."""
    prior, t = prior_of(size=1), 0.4
    schedule = UniformSchedule(min=t, max=t)
    mean, std = 0.3, 0.8  # of the renders
    config = FDivergenceConfig(
        scale=1.0, schedule=schedule, variational=FROZEN, refresh_every=2, cache=20,
        discriminator=DiscriminatorConfig(lr=0.01, updates=2),
    )  # fmt: skip
    rule, generator = FDivergence(config, prior, phi_of(prior)), seeded()
    views, losses = views_of(prior, 128), []
    for _ in range(100):
        x = mean + std * torch.randn(128, 3, 1, 1, generator=generator)
        losses.append(rule(x, views, 0.0, generator).learned().metrics["discriminator_loss"])
    assert losses[0] == pytest.approx(2 * math.log(2), abs=0.01)
    assert sum(losses[-20:]) / 20 < 1.3
    x_t = add_noise(prior, x, draw_noise(x, generator), torch.full((128,), t))
    angle = math.pi * t / 2
    alpha, sigma = math.cos(angle), math.sin(angle)

    def log_density(mean: float, std: float) -> Tensor:
        variance = alpha**2 * std**2 + sigma**2
        return (-0.5 * (x_t - alpha * mean) ** 2 / variance - 0.5 * math.log(variance)).sum(dim=(1, 2, 3))

    exact = log_density(0.8, 0.5) - log_density(mean, std)
    learned = rule.density.log_ratio(x_t, torch.full((128,), t), views.cameras).detach()
    assert torch.corrcoef(torch.stack([exact, learned]))[0, 1] > 0.85
    assert (exact - learned).abs().mean() < 0.5 * (exact - exact.mean()).abs().mean()


@pytest.mark.parametrize(("scale", "mean"), [(1.0, 0.8), (3.0, 0.4 + 3.0 * (0.8 - 0.4))])
def test_pictures_come_from_the_prior_itself(scale, mean):
    """Guided by S away from a text of the same spread, pictures have the mean m_bad + S (m - m_bad)."""
    prompts = {"y": Gaussian(0.8, 0.5), "bad": Gaussian(0.4, 0.5), "": Gaussian(0.3, 0.9)}
    prior, x = GaussianPrior(prompts, (3, 8, 8)), torch.zeros(16, 3, 8, 8)
    config = FDivergenceConfig(scale=scale, refresh_every=2, cache=3, sampling_steps=80, variational=FROZEN)
    rule, generator = FDivergence(config, prior), seeded()
    for expected in (1, 1, 2, 2, 3, 3, 3):
        rule(x, views_of(prior, 16, negative="bad"), 0.0, generator).learned()
        assert len(rule.density.cache.batches) == expected
    pictures = torch.cat([picture for picture, *_ in rule.density.cache.batches])
    assert pictures.mean().item() == pytest.approx(mean, abs=0.03)
    assert pictures.std().item() == pytest.approx(0.5, abs=0.03)


def test_a_cache_keeps_the_newest_and_is_restored_whole():
    cache = ViewCache(2)
    for value in range(3):
        jitter = CameraConfig(size=8, target_jitter=0.2 * (value == 2))
        maps = [torch.full((4, 6, 6, *end), float(value)) for end in ((), (3,), (), (9,))]
        structure = Structure(*maps) if value == 2 else None
        cache.add(torch.full((4, 3, 4, 4), float(value)), sample_cameras(jitter, seeded(value)), structure)
    assert [cameras.pose is None for _, cameras, _ in cache.batches] == [True, False]
    assert [batch.mean().item() for batch, *_ in cache.batches] == [1.0, 2.0]
    again = ViewCache(2)
    again.load_state_dict(cache.state_dict(), torch.device("cpu"))
    assert len(again.batches) == 2
    for (x, cameras, told), (old, seen, kept) in zip(again.batches, cache.batches, strict=True):
        assert torch.equal(x, old)
        assert torch.equal(cameras.azimuth, seen.azimuth)
        assert torch.equal(cameras.c2w(), seen.c2w())
        assert (cameras.height, cameras.width) == (seen.height, seen.width)
        assert (told is None) == (kept is None)
        if told is not None and kept is not None:
            assert all(torch.equal(value, kept.tensors()[name]) for name, value in told.tensors().items())
    assert {cache.draw(seeded(i))[0].mean().item() for i in range(20)} == {1.0, 2.0}


def test_resuming_changes_nothing():
    prior = prior_of()
    config = FDivergenceConfig(start=0.0, refresh_every=2, cache=2, sampling_steps=3)
    assert resumes_bit_identically(lambda: FDivergence(config, prior), views_of(prior, 4), torch.rand(4, 3, 4, 4))


def test_queries_of_the_prior_per_view():
    assert queries_of(FDivergenceConfig()) == {"view": 1 + 10, "bad": 1 + 10}  # ten of them draw pictures
