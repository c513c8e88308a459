"""Bootstrapped score distillation: it is VSD without tuning, and tuning on refined renders moves the copy."""

from dataclasses import replace

import pytest
import torch

from sds3d.cameras import orbit
from sds3d.guidance.base import Views
from sds3d.guidance.bootstrapped import Bootstrapped, BootstrappedConfig, FullCopyConfig, TuningConfig
from sds3d.guidance.schedules import UniformSchedule
from sds3d.guidance.variational import TrainedScore, VariationalConfig
from sds3d.guidance.vsd import VSD, VSDConfig
from sds3d.priors.gaussian import Gaussian, GaussianPrior
from sds3d.prompts.prompt import PromptConfig, encode_prompt, view_name
from tests.guidance.exact import DTYPES, seeded
from tests.guidance.queries import queries_of
from tests.guidance.scores import Known, KnownTrainable, normal, resumes_bit_identically
from tests.guidance.views import views_of

M, STD = 0.8, 0.5
FROZEN = FullCopyConfig(updates=0)
TUNING = TuningConfig(lr=0.02, updates=30, text_dropout=0.0)
VIEW_MEANS = {f"y, {view} view": 0.5 * i for i, view in enumerate(("front", "side", "back"), 1)}


def prior_by_text() -> GaussianPrior:
    """Return a prior whose texts each have their own mean and a small spread."""
    means = {"y": M, "": 0.3, "bad": -0.4} | VIEW_MEANS
    return GaussianPrior({text: Gaussian(mean, 0.1) for text, mean in means.items()}, (3, 4, 4))


def mean_of_view(azimuth: float) -> float:
    """Return the mean of the text for a view at this azimuth."""
    return VIEW_MEANS[f"y, {view_name(azimuth, 0.0)} view"]


def views_by_text(prior: GaussianPrior, azimuths: list[float]) -> Views:
    prompt = encode_prompt(prior, "y", PromptConfig(negative="bad"))
    return replace(views_of(prior, len(azimuths), cameras=orbit(azimuths)), prompt=prompt)


def prior_of(dtype: torch.dtype = torch.float32, n_views: int = 1) -> GaussianPrior:
    return GaussianPrior(
        {"y": Gaussian(M, STD), "": Gaussian(0.3, 0.9)}, (3, 4, 4), n_views=n_views, rho=0.5 * (n_views > 1),
        dtype=dtype,
    )  # fmt: skip


@DTYPES
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


@pytest.mark.parametrize("n_views", [1, 4])
def test_with_a_copy_tuned_elsewhere_it_is_vsd_on_that_prior(n_views):
    """A copy whose means have moved by 0.5 guides like a prior with those means."""
    texts = [
        {"y": Gaussian(M + off, STD), "": Gaussian(off, 0.9), "bad": Gaussian(off - 0.4, 0.7)} for off in (0.0, 0.5)
    ]
    prior, moved = (
        GaussianPrior(text, (3, 4, 4), n_views=n_views, rho=0.5 * (n_views > 1), dtype=torch.float64) for text in texts
    )
    x, views = torch.rand(8, 3, 4, 4, generator=seeded(3)).double(), views_of(prior, 8, negative="bad")
    phi, schedule = Known(lambda x_t, t, cond, cameras: normal(prior, 0.1, 0.4, x_t, t)), UniformSchedule()
    config = BootstrappedConfig(scale=2.0, schedule=schedule, tuning=TuningConfig(updates=0), variational=FROZEN)
    rule = Bootstrapped(config, prior, phi)
    rule.tuned.load_state_dict(rule.tuned.state_dict() | {"score/mean": torch.full((48,), 0.5)})
    ours = rule(x, views, 0.0, seeded())
    vsd = VSD(VSDConfig(scale=2.0, schedule=schedule, variational=VariationalConfig(updates=0)), moved, phi)
    theirs = vsd(x, views_of(moved, 8, negative="bad"), 0.0, seeded())
    torch.testing.assert_close(ours.gradient, theirs.gradient, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(ours.x0, theirs.x0, atol=1e-9, rtol=1e-9)


def test_refined_renders_follow_their_views_texts_and_the_negative_prompt():
    """From pure noise DDIM ends at the guided Gaussian. With equal spreads its mean is m_neg + S (m - m_neg)."""
    prior, azimuths = prior_by_text(), [0.0, 90.0, 180.0, 270.0]
    config = BootstrappedConfig(schedule=UniformSchedule(min=0.02, max=1.0), refine_scale=2.0, refine_steps=50)
    views = views_by_text(prior, azimuths)
    refined = Bootstrapped(config, prior)._refined(torch.full((4, 3, 4, 4), 3.0), views, 0.0, seeded())
    expected = torch.tensor([-0.4 + 2.0 * (mean_of_view(azimuth) + 0.4) for azimuth in azimuths])
    torch.testing.assert_close(refined.mean(dim=(1, 2, 3)), expected, atol=0.06, rtol=0)  # 4 x 0.1 / sqrt(48)


def test_the_copy_is_tuned_with_the_cameras_and_texts_of_its_pictures():
    prior, azimuths_seen = prior_by_text(), []

    def record(x_t, t, cond, cameras):
        if torch.is_grad_enabled():  # in tuning only
            azimuths_seen.append(cameras.azimuth.tolist())
            expected = torch.tensor([mean_of_view(azimuth) for azimuth in azimuths_seen[-1]])
            torch.testing.assert_close(cond.hidden[..., 0], expected[:, None].expand(-1, 48))
        return normal(prior, 0.0, 1.0, x_t, t)

    tuning = TuningConfig(updates=20, text_dropout=0.0)
    rule = Bootstrapped(BootstrappedConfig(refine_every=1, refine_steps=2, tuning=tuning), prior)
    rule.tuned = TrainedScore(tuning, prior, KnownTrainable(record))
    generator = seeded()
    for azimuths in ([0.0, 90.0], [180.0, 10.0]):
        rule(torch.rand(2, 3, 4, 4, generator=generator), views_by_text(prior, azimuths), 0.0, generator).learned()
    assert azimuths_seen[:20] == [[0.0, 90.0]] * 20
    assert {tuple(azimuths) for azimuths in azimuths_seen[20:]} == {(0.0, 90.0), (180.0, 10.0)}


def test_renders_are_refined_from_the_noisiest_timestep_with_the_untuned_prior():
    """DDIM keeps (x_t - alpha m) / sqrt(D): little noise keeps the render, and full noise removes it."""
    prior, x = prior_of(), torch.full((16, 3, 4, 4), 3.0)
    views = views_of(prior, 16)
    for most, expected in ((0.05, 3.0), (1.0, M)):
        config = BootstrappedConfig(schedule=UniformSchedule(min=0.02, max=most), refine_scale=1.0, refine_steps=50)
        rule = Bootstrapped(config, prior)
        refined = rule._refined(x, views, 0.0, seeded())
        assert refined.mean().item() == pytest.approx(expected, abs=0.15)
        if most == 1.0:
            assert refined.std().item() == pytest.approx(STD, abs=0.05)


def test_renders_are_refined_every_few_steps_and_the_newest_are_kept():
    prior = prior_of()
    config = BootstrappedConfig(
        refine_every=3, cache=2, refine_steps=2, tuning=TUNING.model_copy(update={"updates": 1})
    )
    rule, generator, views = Bootstrapped(config, prior), seeded(), views_of(prior, 4)
    for step, expected in enumerate((1, 1, 1, 2, 2, 2, 2)):
        guided = rule(torch.rand(4, 3, 4, 4), views, 0.0, generator).learned()
        assert len(rule.cache.batches) == expected
        assert ("tuning_loss" in guided.metrics) == (step % 3 == 0)


def test_tuning_moves_the_copy_towards_refined_renders_but_not_the_prior():
    prior, x = prior_of(), torch.full((16, 3, 4, 4), 2.0)
    views, t = views_of(prior, 16), torch.full((16,), 0.8)
    config = BootstrappedConfig(
        scale=1.0, schedule=UniformSchedule(min=0.02, max=0.2), refine_every=1, refine_scale=1.0, refine_steps=5,
        tuning=TUNING, variational=FROZEN,
    )  # fmt: skip
    phi = Known(lambda x_t, t, cond, cameras: normal(prior, M, STD, x_t, t))
    rule, generator = Bootstrapped(config, prior, phi), seeded()
    for _ in range(5):
        rule(x, views, 0.0, generator).learned()
    noise = torch.randn(16, 3, 4, 4, generator=generator)
    before = prior.predict(noise, t, views.positive, views.cameras).x0.mean()
    after = rule.tuned.predict(noise, t, views).x0.mean()
    refined = torch.cat([pictures for pictures, *_ in rule.cache.batches]).mean()
    assert refined > 1.5
    assert (after - refined).abs() < 0.5 * (before - refined).abs()
    # The scene follows the copy towards the refined renders. phi is the prior, so without tuning it would not move.
    gradient = rule(torch.full((16, 3, 4, 4), M), views, 0.0, generator).gradient
    assert gradient is not None
    assert gradient.mean() < -1e-3


@pytest.mark.parametrize("before", [1, 3])
def test_resuming_changes_nothing(before):
    prior = prior_of()
    config = BootstrappedConfig(
        refine_every=2, cache=2, refine_steps=3, tuning=TUNING.model_copy(update={"updates": 3})
    )
    make = lambda: Bootstrapped(config, prior)  # noqa: E731
    assert resumes_bit_identically(make, views_of(prior, 4), torch.rand(4, 3, 4, 4), before)


def test_queries_of_the_prior_per_view():
    # These are the calls that refine renders. The gradient uses the tuned copy.
    assert queries_of(BootstrappedConfig()) == {"view": 25, "bad": 25}
