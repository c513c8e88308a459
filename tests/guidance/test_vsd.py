"""VSD, ESD and PG-SB against closed forms on the exact Gaussian prior, with phi known or learned."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.config import ConfigError, build
from sds3d.guidance.schedules import UniformSchedule
from sds3d.guidance.sds import SDS, SDSConfig
from sds3d.guidance.variational import VariationalConfig
from sds3d.guidance.vsd import VSD, VSDConfig
from sds3d.priors.base import Prediction, expand
from sds3d.priors.gaussian import Gaussian, GaussianPrior
from sds3d.prompts.conditioning import Conditioning
from tests.guidance.exact import DTYPES, seeded
from tests.guidance.queries import queries_of
from tests.guidance.scores import Known, normal, of_points, resumes_bit_identically
from tests.guidance.views import views_of

M, M_NULL, STD, STD_NULL = 0.8, 0.3, 0.5, 0.9
FROZEN = VariationalConfig(updates=0)


def prior_of(dtype: torch.dtype = torch.float32, std_null: float = STD_NULL, n_views: int = 1) -> GaussianPrior:
    return GaussianPrior(
        {"y": Gaussian(M, STD), "": Gaussian(M_NULL, std_null), "bad": Gaussian(-0.4, STD)}, (3, 4, 4),
        n_views=n_views, rho=0.5 * (n_views > 1), dtype=dtype,
    )  # fmt: skip


def close(a: Tensor | None, b: Tensor | None, tolerance: float) -> None:
    assert a is not None
    assert b is not None
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


@DTYPES
@pytest.mark.parametrize("n_views", [1, 4])
def test_with_a_phi_of_single_points_it_is_sds(dtype, tolerance, n_views):
    prior = prior_of(dtype, n_views=n_views)
    x, views = torch.rand(8, 3, 4, 4, generator=seeded(3)).to(dtype), views_of(prior, 8)
    rule = VSD(VSDConfig(variational=FROZEN), prior, of_points(prior, x))
    ours, theirs = rule(x, views, 0.0, seeded()), SDS(SDSConfig(scale=7.5), prior)(x, views, 0.0, seeded())
    # (x_t - alpha x) / sigma multiplies the rounding error of x_t by 1 / sigma, at most 32 here.
    close(ours.gradient, theirs.gradient, tolerance)
    assert torch.equal(ours.t, theirs.t)


@DTYPES
@pytest.mark.parametrize("n_views", [1, 4])
def test_the_gradient_is_zero_if_phi_equals_the_prior(dtype, tolerance, n_views):
    prior = prior_of(dtype, n_views=n_views)
    rule = VSD(VSDConfig(scale=1.0, variational=FROZEN), prior)  # phi starts as a copy of the prior
    guided = rule(torch.rand(8, 3, 4, 4).to(dtype), views_of(prior, 8), 0.0, seeded())
    close(guided.gradient, torch.zeros(8, 3, 4, 4, dtype=dtype), tolerance)


class Mixture(GaussianPrior):
    """Each value of x comes from N(-1, 0.3^2) or N(0.8, 0.5^2), with equal probability, whatever the text."""

    parts = ((-1.0, 0.3), (0.8, 0.5))

    def log_density(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return log p_t of each value."""
        alpha, sigma = (expand(scale, x_t).to(x_t) for scale in (self.alpha(t), self.sigma(t)))
        spreads = [(mean, (alpha**2 * std**2 + sigma**2).sqrt()) for mean, std in self.parts]
        logs = [torch.distributions.Normal(alpha * mean, spread).log_prob(x_t) for mean, spread in spreads]
        return torch.stack(logs).logsumexp(dim=0)

    def predict(self, x_t: Tensor, t: Tensor, cond: Conditioning, cameras: Cameras | None) -> Prediction:
        """Return the mean of both components' predictions, weighted by their posterior probabilities given x_t."""
        alpha, sigma = (expand(scale, x_t).to(x_t) for scale in (self.alpha(t), self.sigma(t)))
        eps, share = [], []
        for mean, std in self.parts:
            variance, off = alpha**2 * std**2 + sigma**2, x_t - alpha * mean
            eps.append(sigma * off / variance)
            share.append((-(off**2) / (2 * variance)).exp() / variance.sqrt())
        mixed = (share[0] * eps[0] + share[1] * eps[1]) / (share[0] + share[1])
        return Prediction(mixed, (x_t - sigma * mixed) / alpha)


def test_the_gradient_is_zero_if_phi_equals_a_mixture_prior():
    """phi is -sigma d log q_t / dx of the same mixture, so the gradient is zero. With one mode alone it is not."""
    prior = Mixture({"y": Gaussian(M, STD), "": Gaussian(M_NULL, STD)}, (3, 4, 4), dtype=torch.float64)
    x, views = 2 * torch.randn(8, 3, 4, 4, generator=seeded(3), dtype=torch.float64), views_of(prior, 8)

    def slope(x_t, t, cond, cameras):
        with torch.enable_grad():
            x_t = x_t.detach().requires_grad_()
            (score,) = torch.autograd.grad(prior.log_density(x_t, t).sum(), x_t)
        return Prediction(-expand(prior.sigma(t), x_t).to(x_t) * score, x_t.detach())

    one_mode = Known(lambda x_t, t, cond, cameras: normal(prior, 0.8, 0.5, x_t, t))
    config = VSDConfig(scale=1.0, weighting="uniform", variational=FROZEN)
    ours, other = (VSD(config, prior, phi)(x, views, 0.0, seeded()).gradient for phi in (Known(slope), one_mode))
    close(ours, torch.zeros_like(x), 1e-9)
    assert other is not None
    assert other.abs().max() > 0.1


def ensemble(rule_of, prior, rate: float) -> Tensor:
    """Return where 128 renders end if phi knows their mean and spread at every step. The rate falls to a tenth."""
    count, steps = 128, 300
    x = -1 + 1.2 * torch.randn(count, 3, 4, 4, generator=seeded(8))
    views, generator = views_of(prior, count), seeded()

    def known(x_t, t, cond, cameras):
        # Without a camera phi models all renders together; with one it knows which render it is.
        return normal(prior, x.mean() if cameras is None else x, x.std() if cameras is None else 0.0, x_t, t)

    rule = rule_of(Known(known))
    for step in range(steps):
        gradient = rule(x, views, step / steps, generator).gradient
        assert gradient is not None
        x = x - rate * (1 - 0.9 * step / steps) * gradient
    return x


@pytest.mark.parametrize(("scale", "mean"), [(1.0, M), (2.0, 2 * M - M_NULL)])
def test_an_ensemble_ends_at_the_prior(scale, mean):
    prior = prior_of(std_null=STD)
    config = VSDConfig(scale=scale, entropy=1.0, variational=FROZEN)  # entropy 1: phi models all renders together
    x = ensemble(lambda phi: VSD(config, prior, phi), prior, rate=0.6)
    assert x.mean().item() == pytest.approx(mean, abs=0.02)
    assert x.std().item() == pytest.approx(STD, abs=0.02)


@pytest.mark.parametrize("entropy", [1.0, 0.9, 0.8, 0.5, 0.1])
def test_entropy_decides_how_far_views_spread(entropy):
    """At a single t, v^2 = max(0, lambda s^2 - (1 - lambda) (sigma / alpha)^2): with lambda = 0.1, views collapse."""
    prior, t = prior_of(), 0.2
    config = VSDConfig(
        scale=1.0, entropy=entropy, schedule=UniformSchedule(min=t, max=t), weighting="uniform", variational=FROZEN
    )
    x = ensemble(lambda phi: VSD(config, prior, phi), prior, rate=0.15 if entropy > 0.1 else 0.1)
    ratio = torch.tan(torch.tensor(torch.pi * t / 2)).item()
    law = max(0.0, entropy * STD**2 - (1 - entropy) * ratio**2)
    assert x.mean().item() == pytest.approx(M, abs=0.02)
    # The noise of the steps spreads collapsed views slightly.
    assert x.var().item() == pytest.approx(law, abs=0.01)


@DTYPES
def test_esd_is_guidance_of_phi_by_the_camera(dtype, tolerance):
    prior, x = prior_of(dtype), torch.rand(8, 3, 4, 4, generator=seeded(3)).to(dtype)
    views = views_of(prior, 8)

    def known(x_t, t, cond, cameras):
        return normal(prior, *((0.4, 0.7) if cameras is None else (0.1, 0.2)), x_t, t)

    def gradient(entropy: float) -> Tensor:
        config = VSDConfig(scale=3.0, entropy=entropy, variational=FROZEN)
        guided = VSD(config, prior, Known(known))(x, views, 0.0, seeded())
        assert guided.gradient is not None
        return guided.gradient

    plain, shared = gradient(0.0), gradient(1.0)
    close(gradient(0.3), 0.7 * plain + 0.3 * shared, tolerance)
    config = VSDConfig(scale=3.0, variational=FROZEN)
    close(plain, VSD(config, prior, Known(known))(x, views, 0.0, seeded()).gradient, tolerance)


@DTYPES
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_pg_sb_with_a_fixed_scale_guides_both_networks(dtype, tolerance, scale):
    prior, x = prior_of(dtype), torch.rand(8, 3, 4, 4, generator=seeded(3)).to(dtype)
    views = views_of(prior, 8, negative="bad")  # for the prior; phi is guided away from the empty text

    def known(x_t, t, cond, cameras):
        return normal(prior, cond.hidden[..., 0].reshape(x_t.shape) + 0.2, 0.4, x_t, t)

    config = VSDConfig(random_scale=(scale, scale), variational=FROZEN)
    ours = VSD(config, prior, Known(known))(x, views, 0.0, seeded()).gradient

    def guided_phi(x_t, t, cond, cameras):
        with_text, null = (normal(prior, mean + 0.2, 0.4, x_t, t) for mean in (M, M_NULL))
        return type(null)(null.eps + scale * (with_text.eps - null.eps), null.x0)

    # The other rule draws no scale. Its noise is the same, because noise is drawn before the scale.
    both = VSD(VSDConfig(scale=scale, variational=FROZEN), prior, Known(guided_phi))(x, views, 0.0, seeded())
    close(ours, both.gradient, tolerance)
    if scale == 1:
        plain = VSD(VSDConfig(scale=1.0, variational=FROZEN), prior, Known(known))(x, views, 0.0, seeded())
        close(ours, plain.gradient, tolerance)


def test_pg_sb_draws_a_scale_within_its_bounds():
    prior, x = prior_of(std_null=STD), torch.zeros(1, 3, 4, 4)
    views, generator, noised = views_of(prior, 1), seeded(), []

    def known(x_t, t, cond, cameras):
        noised.append((x_t[:1], t[:1]))
        return normal(prior, 0.0, 1.0, x_t, t)

    rule = VSD(VSDConfig(random_scale=(0.5, 4.0), variational=FROZEN), prior, Known(known))
    scales = []
    for _ in range(300):
        x0 = rule(x, views, 0.0, generator).x0
        positive, null = (prior.predict(*noised[-1], text, None).x0 for text in (views.positive, views.negative))
        assert x0 is not None
        scales.append(((x0 - null) / (positive - null)).mean())
    found = torch.stack(scales)
    assert found.min() > 0.5 - 1e-3
    assert found.max() < 4 + 1e-3
    assert found.mean().item() == pytest.approx(2.25, abs=0.2)
    assert found.std().item() == pytest.approx(3.5 / 12**0.5, abs=0.1)


def test_one_network_leads_single_points_to_the_mean():
    prior = prior_of(std_null=STD)
    x, views, generator = torch.zeros(4, 3, 4, 4), views_of(prior, 4), seeded()
    rule = VSD(VSDConfig(scale=1.0, variational=VariationalConfig(lr=0.04)), prior)
    losses, tail = [], []
    for step in range(300):
        guided = rule(x, views, step / 299, generator).learned()
        assert guided.gradient is not None
        x = x - 0.2 * guided.gradient
        losses.append(guided.metrics["variational_loss"])
        tail += [x.mean()] if step >= 150 else []
    assert torch.stack(tail).mean().item() == pytest.approx(M, abs=0.1)
    assert sum(losses[-50:]) < 0.8 * sum(losses[:50])


@pytest.mark.parametrize("settings", [{}, {"entropy": 0.5}, {"random_scale": (0.5, 4.0)}], ids=["vsd", "esd", "snoopi"])
def test_resuming_changes_nothing(settings):
    prior = prior_of()
    config = VSDConfig(variational=VariationalConfig(lr=0.01, text_dropout=0.1), **settings)
    assert resumes_bit_identically(lambda: VSD(config, prior), views_of(prior, 4), torch.rand(4, 3, 4, 4))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"random_scale": (4.0, 0.5)}, r"random_scale is \(4, 0\.5\): give the lower bound first"),
        ({"random_scale": (0.5, 4.0), "entropy": 0.5}, "random_scale and entropy belong to different rules"),
    ],
)
def test_incompatible_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        build(VSDConfig, settings)


def test_queries_of_the_prior_per_view():
    assert queries_of(VSDConfig()) == {"view": 1, "bad": 1}


def test_defaults_of_phi_are_the_published_ones():
    assert VSDConfig().variational.lr == 1e-4  # threestudio's configs/prolificdreamer.yaml
    assert VSDConfig().variational.rank == 4  # diffusers' LoRAAttnProcessor


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"random_scale": (0.5, 4.0)}, "text_dropout"),
        ({"entropy": 0.5, "variational": {"camera_dropout": 0.0}}, "camera_dropout"),
    ],
)
def test_phi_must_be_trained_for_every_way_it_is_queried(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(ValidationError, match=f"queries phi without.*{match}"):
        VSDConfig(**settings)
    frozen = {**settings.get("variational", {}), "updates": 0}
    VSDConfig(**{**settings, "variational": frozen})  # allowed: phi is not trained here
