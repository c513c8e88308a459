"""Bootstrapped score distillation: VSD without its tuning, and what tuning on refined renders does."""

import pytest
import torch

from sds3d.guidance.bootstrapped import Bootstrapped, BootstrappedConfig, FullCopyConfig, TuningConfig
from sds3d.guidance.schedules import UniformSchedule
from sds3d.guidance.variational import VariationalConfig
from sds3d.guidance.vsd import VSD, VSDConfig
from sds3d.priors.gaussian import Gaussian, GaussianPrior
from tests.guidance.scores import Known, normal, resumes_bit_identically, seeded
from tests.guidance.views import views_of

M, STD = 0.8, 0.5
FROZEN = FullCopyConfig(updates=0)
TUNING = TuningConfig(lr=0.02, updates=30, text_dropout=0.0)


def prior_of(dtype: torch.dtype = torch.float32, n_views: int = 1) -> GaussianPrior:
    return GaussianPrior(
        {"y": Gaussian(M, STD), "": Gaussian(0.3, 0.9)}, (3, 4, 4), n_views=n_views, rho=0.5 * (n_views > 1),
        dtype=dtype,
    )  # fmt: skip


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
@pytest.mark.parametrize("n_views", [1, 4])
def test_without_tuning_it_is_vsd(dtype, tolerance, n_views):
    prior, x = prior_of(dtype, n_views), torch.rand(8, 3, 4, 4, generator=seeded(3)).to(dtype)
    views, phi = views_of(prior, 8), Known(lambda x_t, t, cond, cameras: normal(prior, 0.1, 0.4, x_t, t))
    schedule = UniformSchedule(min=0.05, max=0.5)
    config = BootstrappedConfig(schedule=schedule, tuning=TuningConfig(updates=0), variational=FROZEN)
    ours = Bootstrapped(config, prior, phi)(x, views, 0.0, seeded())
    theirs = VSD(VSDConfig(scale=2.0, schedule=schedule, variational=VariationalConfig(updates=0)), prior, phi)(
        x, views, 0.0, seeded()
    )
    torch.testing.assert_close(ours.gradient, theirs.gradient, atol=tolerance, rtol=tolerance)


def test_renders_are_refined_from_the_noisiest_timestep_with_the_untuned_prior():
    """DDIM keeps (x_t - alpha m) / sqrt(D): little noise keeps the render, much noise leaves none of it."""
    prior, x = prior_of(), torch.full((16, 3, 4, 4), 3.0)
    views = views_of(prior, 16)
    for most, expected in ((0.05, 3.0), (1.0, M)):
        config = BootstrappedConfig(schedule=UniformSchedule(min=0.02, max=most), refine_scale=1.0, refine_steps=50)
        rule = Bootstrapped(config, prior)
        refined = rule._refined(x, views, 0.0, seeded())
        assert refined.mean().item() == pytest.approx(expected, abs=0.15)
        if most == 1.0:
            assert refined.std().item() == pytest.approx(STD, abs=0.05)


def test_renders_are_refined_in_their_turn_and_the_newest_kept():
    prior = prior_of()
    config = BootstrappedConfig(
        refine_every=3, cache=2, refine_steps=2, tuning=TUNING.model_copy(update={"updates": 1})
    )
    rule, generator, views = Bootstrapped(config, prior), seeded(), views_of(prior, 4)
    for step, expected in enumerate((1, 1, 1, 2, 2, 2, 2)):
        guided = rule(torch.rand(4, 3, 4, 4), views, 0.0, generator)
        assert len(rule.cache.batches) == expected
        assert ("tuning_loss" in guided.metrics) == (step % 3 == 0)


def test_tuning_moves_the_copy_towards_refined_renders_and_leaves_the_prior():
    prior, x = prior_of(), torch.full((16, 3, 4, 4), 2.0)
    views, t = views_of(prior, 16), torch.full((16,), 0.8)
    config = BootstrappedConfig(
        schedule=UniformSchedule(min=0.02, max=0.2), refine_every=1, refine_scale=1.0, refine_steps=5, tuning=TUNING,
        variational=FROZEN,
    )  # fmt: skip
    phi = Known(lambda x_t, t, cond, cameras: normal(prior, M, STD, x_t, t))
    rule, generator = Bootstrapped(config, prior, phi), seeded()
    for _ in range(5):
        rule(x, views, 0.0, generator)
    noise = torch.randn(16, 3, 4, 4, generator=generator)
    before = prior.predict(noise, t, views.positive, views.cameras).x0.mean()
    after = rule.tuned.predict(noise, t, views).x0.mean()
    refined = torch.cat([pictures for pictures, _ in rule.cache.batches]).mean()
    assert refined > 1.5
    assert (after - refined).abs() < 0.5 * (before - refined).abs()
    # The scene follows the copy: towards the refined renders, farther than the prior's mean.
    gradient = rule(torch.full((16, 3, 4, 4), M), views, 0.0, generator).gradient
    assert gradient is not None
    assert gradient.mean() < 0


@pytest.mark.parametrize("before", [1, 3])
def test_a_stop_changes_nothing(before):
    prior = prior_of()
    config = BootstrappedConfig(
        refine_every=2, cache=2, refine_steps=3, tuning=TUNING.model_copy(update={"updates": 3})
    )
    make = lambda: Bootstrapped(config, prior)  # noqa: E731
    assert resumes_bit_identically(make, views_of(prior, 4), torch.rand(4, 3, 4, 4), before)
