"""Uniform score distillation against the score of a mixture whose poses are equally likely."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sds3d.guidance.schedules import UniformSchedule
from sds3d.guidance.usd import INTERVALS, USD, USDConfig
from sds3d.guidance.variational import VariationalConfig
from sds3d.guidance.vsd import VSD, VSDConfig
from sds3d.priors.base import expand
from sds3d.priors.gaussian import Gaussian
from sds3d.prompts.prompt import PromptConfig, encode_texts, prompt_texts
from tests.guidance.exact import DTYPES, ExactPrior, renders, seeded
from tests.guidance.scores import Known, normal, resumes_bit_identically
from tests.guidance.views import views_of

FROZEN = VariationalConfig(updates=0)
SCHEDULE = UniformSchedule(min=0.42, max=0.48)  # within one interval
POSES = {"y, front view": (0.9, 0.5), "y, side view": (-0.2, 0.6), "y, back view": (-0.8, 0.4)}
BIASED = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)


def prior_of(dtype: torch.dtype = torch.float64) -> ExactPrior:
    named = {"y": (0.5, 0.7), "": (0.3, 0.9)} | POSES
    return ExactPrior({text: Gaussian(*of) for text, of in named.items()}, (3, 2, 2), dtype=dtype)


def views(prior: ExactPrior):
    texts = prompt_texts("y", PromptConfig(view_dependent=False))
    return replace(views_of(prior, 4), prompt=encode_texts(prior, texts))


def far(prior: ExactPrior) -> Known:
    """A phi so far away that VSD's gradient is the longer one."""
    return Known(lambda x_t, t, cond, cameras: normal(prior, -20.0, 0.5, x_t, t))


def log_joint(prior: ExactPrior, x_t: Tensor, t: Tensor) -> Tensor:
    """Return log p(x_t | c) of every pose, (B, poses)."""
    alpha, sigma = (expand(scale(t), x_t) for scale in (prior.alpha, prior.sigma))
    densities = []
    for mean, std in POSES.values():
        variance = alpha**2 * std**2 + sigma**2
        densities.append((-0.5 * (x_t - alpha * mean) ** 2 / variance - 0.5 * variance.log()).sum(dim=(1, 2, 3)))
    return torch.stack(densities, dim=1)


@DTYPES
def test_the_score_becomes_that_of_equally_likely_poses(dtype, tolerance):
    """For a prior with biased poses, whose posterior and whose mean posterior are known, what is added to eps is the
    difference of the scores of two mixtures, by autograd of their log densities.
    """
    prior, x, seen = prior_of(dtype), renders(dtype=dtype)[:, :, :2, :2], []

    def phi(x_t, t, cond, cameras):
        seen.append((x_t, t))
        return far(prior).predict(x_t, t, cond, cameras)

    def exact(of_poses: Tensor, eps: Tensor) -> Tensor:
        t = seen_t[0]
        x_t = expand(prior.alpha(t), x) * x + expand(prior.sigma(t), x) * eps
        return torch.softmax(log_joint(prior, x_t, t) + BIASED.log().to(dtype), dim=1)

    seen_t = [SCHEDULE.sample(0.0, 4, 1, seeded())]
    rule = USD(USDConfig(scale=1.0, schedule=SCHEDULE, variational=FROZEN), prior, Known(phi), exact)
    rule.average = BIASED.expand(INTERVALS, 3)
    gradient = rule(x, views(prior), 0.0, seeded()).gradient
    config = VSDConfig(scale=1.0, schedule=SCHEDULE, variational=FROZEN)
    vsd = VSD(config, prior, far(prior))(x, views(prior), 0.0, seeded()).gradient
    assert gradient is not None
    assert vsd is not None
    x_t, t = seen[0]
    x_t = x_t.requires_grad_()
    joint, sigma = log_joint(prior, x_t, t), expand(prior.sigma(t), x)
    uniform, biased = joint.logsumexp(dim=1), (joint + BIASED.log().to(dtype)).logsumexp(dim=1)
    (score,) = torch.autograd.grad((uniform - biased).sum(), x_t)
    torch.testing.assert_close(gradient - vsd, sigma**2 * -sigma * score, atol=tolerance, rtol=tolerance)


def test_the_second_part_is_at_most_as_long_as_vsd():
    prior, x = prior_of(), renders()[:, :, :2, :2]
    near = Known(lambda x_t, t, cond, cameras: normal(prior, 0.5, 0.7001, x_t, t))
    rule = USD(USDConfig(scale=1.0, schedule=SCHEDULE, variational=FROZEN), prior, near)
    rule.average = BIASED.expand(INTERVALS, 3)
    gradient = rule(x, views(prior), 0.0, seeded()).gradient
    vsd = VSD(VSDConfig(scale=1.0, schedule=SCHEDULE, variational=FROZEN), prior, near)
    matching = vsd(x, views(prior), 0.0, seeded()).gradient
    assert gradient is not None
    assert matching is not None
    torch.testing.assert_close((gradient - matching).norm(), matching.norm(), atol=1e-9, rtol=1e-9)


def test_with_equal_averages_it_is_vsd():
    prior, x = prior_of(), renders()[:, :, :2, :2]
    ours = USD(USDConfig(schedule=SCHEDULE, variational=FROZEN), prior, far(prior))(x, views(prior), 0.0, seeded())
    vsd = VSD(VSDConfig(schedule=SCHEDULE, variational=FROZEN), prior, far(prior))(x, views(prior), 0.0, seeded())
    torch.testing.assert_close(ours.gradient, vsd.gradient, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("pose", range(3))
def test_the_prior_tells_poses_apart(pose):
    prior = prior_of()
    x = torch.full((4, 3, 2, 2), [of[0] for of in POSES.values()][pose], dtype=torch.float64)
    schedule = UniformSchedule(min=0.15, max=0.18)
    guided = USD(USDConfig(schedule=schedule, variational=FROZEN), prior, far(prior))(x, views(prior), 0.0, seeded())
    shares = [float(guided.metrics[name]) for name in ("front", "side", "back")]
    assert shares.index(max(shares)) == pose
    assert sum(shares) == pytest.approx(1.0)


def test_averages_follow_the_shares_at_their_timesteps():
    prior, x, shares = prior_of(), renders()[:, :, :2, :2], torch.tensor([[0.5, 0.3, 0.2]]).repeat(4, 1)
    config = USDConfig(schedule=SCHEDULE, decay=0.5, variational=FROZEN)
    rule = USD(config, prior, far(prior), lambda of_poses, eps: shares)
    for step in range(2):
        guided = rule(x, views(prior), 0.0, seeded())
        torch.testing.assert_close(rule.average[4], shares[0] + (1 / 3 - shares[0]) * 0.5**step)
        guided.learned()
    assert torch.equal(rule.average[5], torch.full((3,), 1 / 3))


def test_resuming_changes_nothing():
    prior, config = prior_of(torch.float32), USDConfig(decay=0.5, variational=VariationalConfig(lr=0.01))
    x = renders(dtype=torch.float32)[:, :, :2, :2]
    assert resumes_bit_identically(lambda: USD(config, prior), views(prior), x)
