"""DMD and its decoupled variant: the normaliser and special cases."""

import pytest
import torch
from torch import Tensor

from sds3d.guidance.base import combine, draw_noise
from sds3d.guidance.dmd import DMD, DMDConfig, FakeScoreConfig, normalised
from sds3d.guidance.schedules import UniformSchedule
from sds3d.guidance.variational import VariationalConfig
from sds3d.guidance.vsd import VSD, VSDConfig
from sds3d.priors.base import Prediction, add_noise
from sds3d.priors.gaussian import Gaussian, GaussianPrior
from tests.guidance.exact import DTYPES, ExactPrior, seeded
from tests.guidance.queries import queries_of
from tests.guidance.scores import Known, KnownTrainable, normal, resumes_bit_identically
from tests.guidance.views import views_of

FROZEN = FakeScoreConfig(updates=0)
SINGLE = UniformSchedule(min=0.4, max=0.4)


def prior_of(dtype: torch.dtype = torch.float32, n_views: int = 1) -> ExactPrior:
    return ExactPrior(
        {"y": Gaussian(0.8, 0.5), "": Gaussian(0.3, 0.9)}, (3, 4, 4), n_views=n_views, rho=0.5 * (n_views > 1),
        dtype=dtype,
    )  # fmt: skip


def phi_of(prior: GaussianPrior) -> Known:
    return Known(lambda x_t, t, cond, cameras: normal(prior, 0.1, 0.4, x_t, t))


def renders(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(8, 3, 4, 4, generator=seeded(3)).to(dtype)


@DTYPES
@pytest.mark.parametrize("n_views", [1, 4])
def test_it_is_normalised_vsd_of_clean_estimates(dtype, tolerance, n_views):
    prior, x = prior_of(dtype, n_views), renders(dtype)
    views, phi = views_of(prior, 8), phi_of(prior)
    ours = DMD(DMDConfig(scale=3.0, schedule=SINGLE, variational=FROZEN), prior, phi)(x, views, 0.0, seeded())
    config = VSDConfig(scale=3.0, weighting="uniform", schedule=SINGLE, variational=VariationalConfig(updates=0))
    theirs = VSD(config, prior, phi)(x, views, 0.0, seeded())
    assert theirs.gradient is not None
    assert theirs.x0 is not None
    ratio = (prior.sigma(ours.t) / prior.alpha(ours.t)).reshape(8, 1, 1, 1).to(dtype)
    expected = ratio * theirs.gradient / (x - theirs.x0).abs().mean(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(ours.gradient, expected, atol=tolerance, rtol=tolerance)


@DTYPES
@pytest.mark.parametrize("factor", [0.01, 3.0, 1000.0])
def test_the_scale_of_the_space_does_not_matter(dtype, tolerance, factor):
    x, positive, null, fake = (torch.rand(4, 3, 4, 4, generator=seeded(i)).to(dtype) for i in range(4))

    def gradient(scale: float) -> Tensor:
        real = combine(Prediction(x, scale * positive), Prediction(x, scale * null), 3.0)
        return normalised(scale * fake - real.x0, scale * x, real)

    torch.testing.assert_close(gradient(factor), gradient(1.0), atol=tolerance, rtol=tolerance)


@DTYPES
@pytest.mark.parametrize("n_views", [1, 4])
def test_decoupled_at_one_timestep_it_is_dmd(dtype, tolerance, n_views):
    prior, x = prior_of(dtype, n_views), renders(dtype)
    views, phi = views_of(prior, 8), phi_of(prior)
    config = DMDConfig(scale=4.0, schedule=SINGLE, variational=FROZEN)
    plain = DMD(config, prior, phi)(x, views, 0.0, seeded())
    decoupled = DMD(config.model_copy(update={"guidance_schedule": SINGLE}), prior, phi)(x, views, 0.0, seeded())
    torch.testing.assert_close(decoupled.gradient, plain.gradient, atol=tolerance, rtol=tolerance)


def test_decoupled_guidance_uses_its_own_timesteps():
    prior, x = prior_of(n_views=4), renders()
    views = views_of(prior, 8)
    clean = UniformSchedule(min=0.05, max=0.3)
    config = DMDConfig(scale=4.0, guidance_schedule=clean, variational=FROZEN)
    # phi is the prior itself, so the matching part is zero.
    guided = DMD(config, prior)(x, views, 0.0, seeded())
    assert 0.05 <= guided.t.min() <= guided.t.max() <= 0.3
    assert guided.t[:4].unique().numel() == 1
    assert guided.x0 is not None
    assert guided.gradient is not None
    alone = DMD(config.model_copy(update={"scale": 1.0}), prior)(x, views, 0.0, seeded()).gradient
    torch.testing.assert_close(alone, torch.zeros_like(x), atol=1e-5, rtol=0)
    assert guided.gradient.abs().max() > 0.01


@DTYPES
def test_decoupled_by_its_formula(dtype, tolerance):
    """(x0_phi - x0_y) at t and (x0_y - x0_S) at the time of guidance, under one noise, each over mean |x - x0_S|."""
    prior, x, scale = prior_of(dtype), renders(dtype), 4.0
    clean = UniformSchedule(min=0.05, max=0.3)
    config = DMDConfig(scale=scale, guidance_schedule=clean, variational=FROZEN)
    guided = DMD(config, prior, phi_of(prior))(x, views_of(prior, 8), 0.0, seeded())
    generator = seeded()
    t, eps = config.schedule.sample(0.0, 8, 1, generator), draw_noise(x, generator)
    cleaner = clean.sample(0.0, 8, 1, generator)
    assert torch.equal(guided.t, cleaner)

    def estimates(t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return x_t, x0_y, x0_S and the mean distance |x - x0_S|."""
        x_t = add_noise(prior, x, eps, t)
        positive, null = normal(prior, 0.8, 0.5, x_t, t).x0, normal(prior, 0.3, 0.9, x_t, t).x0
        real = null + scale * (positive - null)
        return x_t, positive, real, (x - real).abs().mean(dim=(1, 2, 3), keepdim=True)

    x_t, positive, _, distance = estimates(t)
    matching = (normal(prior, 0.1, 0.4, x_t, t).x0 - positive) / distance
    _, positive, real, distance = estimates(cleaner)
    expected = matching + (positive - real) / distance
    torch.testing.assert_close(guided.gradient, expected, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(guided.x0, real, atol=tolerance, rtol=tolerance)


def test_phi_is_updated_several_times_a_step():
    prior, calls = prior_of(), []

    def count(x_t, t, cond, cameras):
        calls.append(torch.is_grad_enabled())
        return normal(prior, 0.1, 0.4, x_t, t)

    DMD(DMDConfig(), prior, KnownTrainable(count))(renders(), views_of(prior, 8), 0.0, seeded()).learned()
    assert calls == [False] + [True] * 5


@pytest.mark.parametrize("guidance_schedule", [None, SINGLE], ids=["dmd", "decoupled"])
def test_resuming_changes_nothing(guidance_schedule):
    prior = prior_of()
    config = DMDConfig(guidance_schedule=guidance_schedule, variational=FakeScoreConfig(lr=0.01, updates=2))
    assert resumes_bit_identically(lambda: DMD(config, prior), views_of(prior, 4), torch.rand(4, 3, 4, 4))


def test_queries_of_the_prior_per_view():
    assert queries_of(DMDConfig()) == {"view": 1, "bad": 1}
