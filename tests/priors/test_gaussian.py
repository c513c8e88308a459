import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import MultivariateNormal

from sds3d.cameras import turntable
from sds3d.priors.gaussian import Gaussian, GaussianPrior
from sds3d.prompts.conditioning import Conditioning


@pytest.mark.parametrize("schedule", ["cosine", "scaled_linear"])
def test_schedules_preserve_variance_and_grow_noisier(schedule):
    prior = GaussianPrior({}, schedule=schedule)
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    torch.testing.assert_close(prior.alpha(t) ** 2 + prior.sigma(t) ** 2, torch.ones_like(t))
    assert (prior.sigma(t).diff() > 0).all()
    assert prior.alpha(t[0]) == 1


def test_scaled_linear_follows_the_discrete_schedule():
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    discrete = torch.cumprod(1 - betas, dim=0).sqrt()
    t = (torch.arange(1000, dtype=torch.float64) + 1) / 1000
    continuous = GaussianPrior({}, schedule="scaled_linear").alpha(t)
    assert (continuous - discrete).abs().max() < 3e-3


@settings(max_examples=30, deadline=None)
@given(rho=st.floats(-0.3, 0.95), stds=st.lists(st.floats(0.1, 2), min_size=4, max_size=4), t=st.floats(0.05, 0.95))
def test_noise_is_the_score_of_the_noised_distribution(rho, stds, t):
    """eps = -sigma grad log p(x_t), and x0 by Tweedie's formula, for four views with different means and spreads."""
    prompts = {str(i): Gaussian(0.3 * i, std) for i, std in enumerate(stds)}
    prior = GaussianPrior(prompts, (1, 1, 1), n_views=4, rho=rho, dtype=torch.float64)
    steps = torch.full((4,), t, dtype=torch.float64)
    alpha, sigma = prior.alpha(steps), prior.sigma(steps)
    s = torch.tensor(stds, dtype=torch.float64)
    covariance = s[:, None] * s * (rho + (1 - rho) * torch.eye(4, dtype=torch.float64))
    mean = 0.3 * torch.arange(4, dtype=torch.float64)
    x_t = torch.tensor([0.4, -1.0, 2.0, 0.1], dtype=torch.float64, requires_grad=True)
    noised = alpha[0] ** 2 * covariance + sigma[0] ** 2 * torch.eye(4, dtype=torch.float64)
    (score,) = torch.autograd.grad(MultivariateNormal(alpha * mean, noised).log_prob(x_t), x_t)
    prediction = prior.predict(x_t.detach().reshape(4, 1, 1, 1), steps, prior.encode_text(list(prompts)), turntable(4))
    torch.testing.assert_close(prediction.eps.flatten(), -sigma * score, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(prediction.x0.flatten(), (x_t + sigma**2 * score) / alpha, rtol=1e-7, atol=1e-9)


def test_single_view_formula_with_a_mean_picture():
    picture = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    prior = GaussianPrior({"y": Gaussian(picture, 0.4)}, dtype=torch.float64)
    t = torch.tensor([0.3, 0.8], dtype=torch.float64)
    x_t = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    alpha, sigma = prior.alpha(t).reshape(2, 1, 1, 1), prior.sigma(t).reshape(2, 1, 1, 1)
    prediction = prior.predict(x_t, t, prior.encode_text(["y", "y"]), turntable(2))
    expected = sigma * (x_t - alpha * picture) / (alpha**2 * 0.16 + sigma**2)
    torch.testing.assert_close(prediction.eps, expected)
    torch.testing.assert_close(alpha * prediction.x0 + sigma * prediction.eps, x_t)


def test_views_may_differ_in_their_timestep():
    prior = GaussianPrior({"y": Gaussian(0.2, 0.5)}, n_views=2, rho=0.7, dtype=torch.float64)
    t = torch.tensor([0.2, 0.9], dtype=torch.float64)
    x_t = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    prediction = prior.predict(x_t, t, prior.encode_text(["y", "y"]), turntable(2))
    alpha, sigma = prior.alpha(t).reshape(2, 1, 1, 1), prior.sigma(t).reshape(2, 1, 1, 1)
    torch.testing.assert_close(alpha * prediction.x0 + sigma * prediction.eps, x_t)


@pytest.mark.parametrize(("n_views", "rho"), [(1, 0.0), (4, 0.0), (4, 0.6), (4, -0.2)])
def test_sampling_gives_the_views_their_covariance(n_views, rho):
    """Deterministic sampling maps noise linearly, so mapping a basis gives the covariance of the samples."""
    std, steps = 0.5, 500
    prior = GaussianPrior({"y": Gaussian(0.0, std)}, (1, n_views, 1), n_views=n_views, rho=rho, dtype=torch.float64)
    cond = prior.encode_text(["y"] * n_views)
    times = torch.linspace(1 - 1e-9, 0, steps + 1, dtype=torch.float64)
    x = torch.eye(n_views, dtype=torch.float64).reshape(n_views, 1, n_views, 1)  # position j has basis vector j
    for now, after in itertools.pairwise(times):
        prediction = prior.predict(x, now.expand(n_views), cond, turntable(n_views))
        x = prior.alpha(after) * prediction.x0 + prior.sigma(after) * prediction.eps
    basis = x.reshape(n_views, n_views)
    expected = std**2 * (rho + (1 - rho) * torch.eye(n_views, dtype=torch.float64))
    torch.testing.assert_close(basis @ basis.T, expected, atol=2e-3, rtol=0)


def test_pictures_pass_through_unchanged():
    prior = GaussianPrior({})
    rgb = torch.rand(2, 8, 8, 3, requires_grad=True)
    x = prior.encode_image(rgb)
    assert x.shape == (2, 3, 8, 8)
    assert torch.equal(prior.decode(x), rgb)
    assert not prior.decode(x).requires_grad
    x.sum().backward()
    assert rgb.grad is not None
    assert prior.decode(x.detach() + 5).max() == 1


def test_conditioning_carries_the_distribution():
    prior = GaussianPrior({"a": Gaussian(0.1, 0.2), "": Gaussian(0.5, 1.5)}, (3, 2, 2))
    cond = Conditioning.cat([prior.encode_text(["a"]), prior.encode_text([""])])
    assert cond.hidden.shape == (2, 12, 2)
    torch.testing.assert_close(cond.hidden[:, 0], torch.tensor([[0.1, 0.2], [0.5, 1.5]]))


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="no Gaussian for the prompt 'b'"):
        GaussianPrior({"a": Gaussian(0, 1)}).encode_text(["b"])
    with pytest.raises(ValueError, match="std must be above 0"):
        Gaussian(0, 0)
    for rho in (-1 / 3, 1.0, math.nan):
        with pytest.raises(ValueError, match="rho must be in"):
            GaussianPrior({}, n_views=4, rho=rho)


def test_without_cameras_views_are_independent():
    joint = GaussianPrior({"y": Gaussian(0.2, 0.5)}, n_views=4, rho=0.7)
    alone = GaussianPrior({"y": Gaussian(0.2, 0.5)})
    x_t, t = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1)), torch.full((3,), 0.4)
    cond = alone.encode_text(["y"] * 3)
    assert torch.equal(joint.predict(x_t, t, cond, None).eps, alone.predict(x_t, t, cond, turntable(3)).eps)
    assert torch.equal(joint.encode_text(["y, side view"]).hidden, cond.hidden[:1])
