"""Consistent flow distillation against DDIM, Euler sampling, the exact flow, SDS and the exact SDE.

If the scene is a picture and each step is as long as the decrease of lambda = sigma / alpha, the rule is a sampler.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from sds3d.cameras import Cameras, orbit, turntable
from sds3d.guidance.base import Views, guided_prediction
from sds3d.guidance.cfd import CFD, CFDConfig, churned
from sds3d.guidance.schedules import PiecewiseSchedule, UniformSchedule
from sds3d.guidance.sds import SDS, SDSConfig
from sds3d.priors.base import Prediction, Prior, add_noise, expand
from sds3d.priors.gaussian import Gaussian, GaussianPrior
from sds3d.prompts.conditioning import Conditioning
from sds3d.ramps import Ramp
from tests.guidance.queries import queries_of
from tests.guidance.test_surface_noise import sphere
from tests.guidance.views import views_of

M, STD = 0.8, 0.5
DOUBLE = torch.float64
LINE = PiecewiseSchedule(knots=((0.0, 0.98, 0.98), (1.0, 0.02, 0.02)))


class Flow(GaussianPrior):
    """A rectified flow of the exact Gaussian, by its velocity: alpha = 1 - t, sigma = t (arXiv:2209.03003)."""

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t.double()  # in float32, alpha + sigma would not be 1

    def sigma(self, t: Tensor) -> Tensor:
        return t.double()

    def velocity(self, x_t: Tensor, t: Tensor) -> Tensor:
        """E[eps - x | x_t]."""
        s = expand(t.double(), x_t)
        variance = (1 - s) ** 2 * STD**2 + s**2
        x0 = M + (1 - s) * STD**2 / variance * (x_t - (1 - s) * M)
        return (x_t - x0) / s

    def predict(self, x_t: Tensor, t: Tensor, cond: Conditioning, cameras: Cameras | None) -> Prediction:
        s, v = expand(t.double(), x_t), self.velocity(x_t, t)
        return Prediction(x_t + (1 - s) * v, x_t - s * v)


def prior_of(dtype: torch.dtype = DOUBLE, kind: type[GaussianPrior] = GaussianPrior, **options) -> GaussianPrior:
    return kind({"y": Gaussian(M, STD), "": Gaussian(0.3, 0.9)}, (3, 8, 8), dtype=dtype, **options)


def levels(prior: Prior, t: Tensor) -> tuple[Tensor, Tensor]:
    return prior.alpha(t).to(DOUBLE), prior.sigma(t).to(DOUBLE)


def timesteps(schedule: PiecewiseSchedule, steps: int) -> list[Tensor]:
    """Return the timesteps of all steps, (1,) each, bit for bit those of the rule."""
    return [schedule.sample(i / (steps - 1), 1, 1, torch.Generator()) for i in range(steps)]


def descend(rule: CFD, views: Views, steps: int, generator: torch.Generator) -> tuple[Tensor, list[Tensor], Tensor]:
    """Descend from x = 0 with step sizes lambda_t - lambda_s. Return the final x, x_t of each step, and the noise."""
    assert isinstance(rule.prior, GaussianPrior)
    batch = len(views.cameras)
    x, noised = torch.zeros(batch, *rule.prior.shape, dtype=DOUBLE), []
    following = [*timesteps(LINE, steps)[1:], torch.zeros(1)]
    eps = torch.empty(0)
    for i in range(steps):
        guided = rule(x, views, i / (steps - 1), generator).learned()
        assert guided.gradient is not None
        assert rule.noise is not None
        eps = rule.noise(views)[0].to(DOUBLE)
        noised.append(add_noise(rule.prior, x, eps, guided.t))
        alpha, sigma = levels(rule.prior, guided.t[:1])
        then, next_sigma = levels(rule.prior, following[i])
        x = x - (sigma / alpha - next_sigma / then) * guided.gradient
    return x, noised, eps


def test_fixed_noise_is_ddim():
    prior, views, steps = prior_of(), views_of(prior_of(), 4), 100
    rule = CFD(CFDConfig(scale=3.0, schedule=LINE), prior)
    _, noised, eps = descend(rule, views, steps, torch.Generator().manual_seed(0))
    ts = timesteps(LINE, steps)
    x_t = levels(prior, ts[0])[1] * eps
    for now, then, ours in zip(ts[:-1], ts[1:], noised, strict=False):
        torch.testing.assert_close(ours, x_t, atol=1e-10, rtol=0)
        predicted = guided_prediction(prior, x_t, now.expand(4), views, 3.0).eps
        (alpha, sigma), (next_alpha, next_sigma) = levels(prior, now), levels(prior, then)
        x_t = next_alpha * (x_t - sigma * predicted) / alpha + next_sigma * predicted  # DDIM, eta = 0


def test_a_flow_prior_is_sampled_by_euler_steps():
    prior, steps = prior_of(kind=Flow), 100
    assert isinstance(prior, Flow)
    views = views_of(prior, 4)
    _, noised, eps = descend(
        CFD(CFDConfig(scale=1.0, schedule=LINE), prior), views, steps, torch.Generator().manual_seed(0)
    )
    ts = timesteps(LINE, steps)
    x_t = ts[0].to(DOUBLE) * eps
    for now, then, ours in zip(ts[:-1], ts[1:], noised, strict=False):
        torch.testing.assert_close(ours, x_t, atol=1e-10, rtol=0)
        x_t = x_t + (then.to(DOUBLE) - now.to(DOUBLE)) * prior.velocity(x_t, now)


def test_the_end_is_the_exact_flow_and_keeps_diversity():
    """The flow's closed form: x_0 = m + s (sigma_T eps - alpha_T m) / sqrt(D_T)."""
    prior = prior_of()
    rule = CFD(CFDConfig(scale=1.0, schedule=LINE), prior)
    x, _, eps = descend(rule, views_of(prior, 8), 200, torch.Generator().manual_seed(0))
    alpha, sigma = levels(prior, torch.tensor([0.98]))
    expected = M + STD * (sigma * eps - alpha * M) / (alpha**2 * STD**2 + sigma**2).sqrt()
    torch.testing.assert_close(x, expected, atol=0.03, rtol=0)  # the error is of first order in the step
    assert x.std().item() == pytest.approx(STD, abs=0.03)  # over 1536 values; SDS would end at the mean, with no spread


@pytest.mark.parametrize(("n_views", "batch"), [(1, 1), (4, 4)])
def test_with_new_noise_in_each_step_it_is_annealed_sds(n_views, batch):
    prior = prior_of(n_views=n_views, rho=0.5 if n_views > 1 else 0.0)
    views = no_surface(views_of(prior, batch))  # noise is drawn per pixel, as in SDS
    ours = CFD(CFDConfig(scale=3.0, gamma=Ramp(1.0), schedule=LINE), prior)
    sds = SDS(SDSConfig(scale=3.0, weighting="uniform", schedule=LINE), prior)
    x = torch.zeros(batch, 3, 8, 8, dtype=DOUBLE)
    ours(x, views, 0.0, torch.Generator())  # the first call only draws the reference noise
    for i in range(1, 4):
        first, second = (rule(x, views, i / 4, torch.Generator().manual_seed(i)).learned() for rule in (ours, sds))
        assert first.gradient is not None
        assert torch.equal(first.t, second.t)
        torch.testing.assert_close(first.gradient, second.gradient, atol=1e-10, rtol=0)
        x = x - 0.3 * first.gradient


def no_surface(views: Views) -> Views:
    return replace(views, alpha=torch.zeros_like(views.alpha))


def predicted_std(gamma: float, steps: int, churn: bool) -> float:
    """Return the final standard deviation of x, from the covariance of (x, eps), as every step is linear."""
    lambdas = [torch.tan(torch.pi / 2 * t.to(DOUBLE)).item() for t in timesteps(LINE, steps)] + [0.0]
    covariance = torch.diag(torch.tensor([0.0, 1.0], dtype=DOUBLE))
    for i in range(steps):
        if i > 0:
            mix = torch.diag(torch.tensor([1.0, (1 - gamma) ** 0.5], dtype=DOUBLE))
            covariance = mix @ covariance @ mix + torch.diag(torch.tensor([0.0, gamma], dtype=DOUBLE))
        level = lambdas[i] / (1 - gamma) ** 0.5 if churn else lambdas[i]
        step, slope = level - lambdas[i + 1], level / (STD**2 + level**2)
        update = torch.tensor([[1 - step * slope, step * (1 - level * slope)], [0.0, 1.0]], dtype=DOUBLE)
        covariance = update @ covariance @ update.T
    return covariance[0, 0].sqrt().item()


@pytest.mark.parametrize(("churn", "std"), [(False, 0.336), (True, 0.492)])
def test_the_sde_needs_churn_to_keep_its_spread(churn, std):
    """The target's standard deviation is 0.5. Without churn, more noise is removed than was added."""
    gamma, steps = 0.05, 200
    assert predicted_std(gamma, steps, churn) == pytest.approx(std, abs=1e-3)
    prior = GaussianPrior({"y": Gaussian(M, STD), "": Gaussian(0.3, 0.9)}, (3, 32, 32), dtype=DOUBLE)
    config = CFDConfig(scale=1.0, gamma=Ramp(gamma), churn=churn, oversampling=1, schedule=LINE)
    views = no_surface(views_of(prior, 2))
    x, _, _ = descend(CFD(config, prior), views, steps, torch.Generator().manual_seed(0))
    # 6144 values: standard errors 0.006 of the mean, 0.0045 of the standard deviation.
    assert x.std().item() == pytest.approx(std, abs=0.015)
    assert x.mean().item() == pytest.approx(M, abs=0.02)


@pytest.mark.parametrize("gamma", [1e-4, 0.01, 0.5, 0.999])
def test_churned_levels(gamma):
    prior, t = prior_of(), torch.tensor([0.02, 0.3, 0.6])
    noisier = churned(prior, t, gamma)
    before, after = (prior.sigma(at.double()) / prior.alpha(at.double()) for at in (t, noisier))
    torch.testing.assert_close(after, before / (1 - gamma) ** 0.5, rtol=2e-5, atol=0)
    assert churned(prior, torch.tensor([1.0]), gamma) == 1  # t = 1 is the noisiest level


def test_views_of_the_same_surface_get_the_same_gradient():
    """With the same x everywhere, views differ only in their noise, and views of the same camera share it."""
    prior = prior_of(torch.float32)
    views = replace(sphere(orbit([10.0, 190.0, 10.0], size=8)), prompt=views_of(prior, 3).prompt)
    rule, generator = CFD(CFDConfig(schedule=UniformSchedule()), prior), torch.Generator().manual_seed(0)
    guided = rule(torch.zeros(3, 3, 8, 8), views, 0.0, generator)
    assert guided.gradient is not None
    assert rule.noise is not None
    locked = rule.noise(views)[1]
    assert isinstance(guided.metrics["locked"], float)  # a tensor would be on the CPU, the other metrics on the device
    assert guided.metrics["locked"] == pytest.approx(locked.float().mean().item())
    assert guided.t.unique().numel() == 1  # one level for all views, even if the schedule is random
    assert locked[0].any()
    assert torch.equal(guided.gradient[0][:, locked[0]], guided.gradient[2][:, locked[2]])
    assert (guided.gradient[0] - guided.gradient[1])[:, locked[0] & locked[1]].abs().min() > 0


@pytest.mark.parametrize("gamma", [0.0, 0.2])
@pytest.mark.parametrize("after", [0, 2])
def test_a_resumed_rule_continues_bit_identically(gamma, after):
    prior = prior_of(torch.float32, n_views=4)
    views = replace(sphere(turntable(4, size=16)), prompt=views_of(prior, 4).prompt)
    x, config = torch.full((4, 3, 8, 8), 0.2), CFDConfig(gamma=Ramp(gamma))

    def run(rule: CFD, generator: torch.Generator, steps: range) -> list[Tensor]:
        guided = [rule(x, views, i / 4, generator).gradient for i in steps]
        return [gradient for gradient in guided if gradient is not None]

    whole = run(CFD(config, prior), torch.Generator().manual_seed(0), range(4))
    generator = torch.Generator().manual_seed(0)
    stopped = CFD(config, prior)
    run(stopped, generator, range(after))
    resumed = CFD(config, prior)
    resumed.load_state_dict(stopped.state_dict())
    rest = run(resumed, generator, range(after, 4))
    assert all(torch.equal(a, b) for a, b in zip(whole[after:], rest, strict=True))
    assert not torch.equal(whole[1], run(CFD(config, prior), torch.Generator().manual_seed(1), range(2))[1])


def test_weights():
    prior = prior_of(torch.float32)
    views, x = views_of(prior, 2), torch.zeros(2, 3, 8, 8)
    plain, weighted = (
        CFD(CFDConfig(weighting=name), prior)(x, views, 0.5, torch.Generator().manual_seed(0))
        for name in ("uniform", "lambda")
    )
    assert plain.gradient is not None
    assert plain.t[0].item() == pytest.approx(0.596)
    factor = torch.tan(torch.pi / 2 * plain.t[0])
    torch.testing.assert_close(weighted.gradient, factor * plain.gradient)


def test_rescale_gives_the_spread_of_the_conditional_estimate():
    """With phi = 1, std(x0) = std(x0_y), and the gradient is (x - x0) / lambda for this x0."""
    prior = prior_of()
    views, x = views_of(prior, 1), torch.rand(1, 3, 8, 8, dtype=DOUBLE)
    rule = CFD(CFDConfig(scale=7.5, rescale=1.0, schedule=LINE), prior)
    guided = rule(x, views, 0.5, torch.Generator().manual_seed(0))
    assert guided.x0 is not None
    assert rule.noise is not None
    x_t = add_noise(prior, x, rule.noise(views)[0].to(DOUBLE), guided.t)
    positive = prior.predict(x_t, guided.t, prior.encode_text(["y"]), views.cameras).x0
    torch.testing.assert_close(guided.x0.std(), positive.std())
    alpha, sigma = levels(prior, guided.t)
    torch.testing.assert_close(guided.gradient, alpha / sigma * (x - guided.x0))


def test_churn_of_everything_is_refused():
    with pytest.raises(ValidationError, match="churn needs a gamma below 1"):
        CFDConfig(gamma=Ramp(((0.0, 0.5), (1.0, 1.0))), churn=True)


def test_queries_of_the_prior_per_view():
    assert queries_of(CFDConfig()) == {"view": 1, "bad": 1}


def test_gamma_changes_over_the_run():
    """The surface's noise after a step at half of the run is that of a rule with the number there."""
    prior, x = prior_of(torch.float32, n_views=4), torch.full((4, 3, 8, 8), 0.2)
    views = replace(sphere(turntable(4, size=16)), prompt=views_of(prior, 4).prompt)

    def texels(gamma: Ramp) -> Tensor:
        rule = CFD(CFDConfig(gamma=gamma, oversampling=1), prior)
        generator = torch.Generator().manual_seed(0)
        for progress in (0.0, 0.5):
            rule(x, views, progress, generator).learned()
        return rule.state_dict()["texels"]

    changing = texels(Ramp(((0.0, 0.9), (0.5, 0.1))))
    assert torch.equal(changing, texels(Ramp(0.1)))
    assert not torch.equal(changing, texels(Ramp(0.9)))
