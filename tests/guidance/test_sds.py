"""SDS against closed forms on the exact Gaussian prior.

For x = theta, E[eps_S - eps] = S k (theta - m) - (S - 1) k_u (theta - m_u) with k = alpha sigma / D.
The gradient is affine in the noise. Negating theta and both means changes the sign of every term but the noise, so
half the difference of the two gradients, under one seed, is the exact expectation.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sds3d.cameras import turntable
from sds3d.guidance.base import draw_noise, guided_prediction
from sds3d.guidance.schedules import UniformSchedule
from sds3d.guidance.sds import SDS, SDSConfig
from sds3d.priors.base import add_noise
from sds3d.priors.gaussian import Gaussian, GaussianPrior
from tests.guidance.exact import DTYPES, ExactPrior, FlowPrior, NoSignal, exact_prior, renders, seeded
from tests.guidance.queries import queries_of
from tests.guidance.views import views_of

M, M_NULL, STD, STD_NULL = 0.8, 0.3, 0.5, 0.9
means = st.floats(-2, 2)
single_t = st.floats(0.05, 0.95)


def expected_gradient(
    theta: Tensor,
    config: SDSConfig,
    mean: float,
    mean_null: float,
    std: float,
    std_null: float,
    n_views: int = 1,
    kind: type[ExactPrior] = ExactPrior,
) -> Tensor:
    """Return the rule's gradient with the noise averaged out exactly."""
    gradients = []
    for sign in (1.0, -1.0):
        prior = kind(
            {"y": Gaussian(sign * mean, std), "": Gaussian(sign * mean_null, std_null)},
            (theta.shape[1], theta.shape[2], theta.shape[3]),
            n_views=n_views,
            rho=0.6 if n_views > 1 else 0.0,
            dtype=theta.dtype,
        )
        rule = SDS(config, prior)
        gradient = rule(sign * theta, views_of(prior, len(theta)), 0.0, torch.Generator().manual_seed(7)).gradient
        assert gradient is not None
        gradients.append(gradient)
    return (gradients[0] - gradients[1]) / 2


@DTYPES
@pytest.mark.parametrize("weighting", ["sds", "uniform", "fantasia3d", "alpha"])
@pytest.mark.parametrize("n_views", [1, 4])
def test_fixed_point_of_equal_variances(dtype, tolerance, weighting, n_views):
    scale = 3.0
    config = SDSConfig(scale=scale, weighting=weighting)  # each object has its own t in [0.02, 0.98]
    theta = torch.full((4, 3, 2, 2), M + (scale - 1) * (M - M_NULL), dtype=dtype)
    gradient = expected_gradient(theta, config, M, M_NULL, STD, STD, n_views)
    assert gradient.abs().max() < tolerance
    # m + S (m - m_u), the fixed point under the other convention of guidance, is not a fixed point here.
    assert expected_gradient(theta + (M - M_NULL), config, M, M_NULL, STD, STD, n_views).abs().min() > 1e-3


@settings(max_examples=50, deadline=None)
@given(scale=st.floats(0, 20), mean=means, mean_null=means, theta=means, t=single_t)
def test_expected_gradient(scale, mean, mean_null, theta, t):
    config = SDSConfig(scale=scale, weighting="uniform", schedule=UniformSchedule(min=t, max=t))
    gradient = expected_gradient(
        torch.full((2, 3, 2, 2), theta, dtype=torch.float64), config, mean, mean_null, STD, STD_NULL
    )
    k, k_null = slopes(t)
    expected = scale * k * (theta - mean) - (scale - 1) * k_null * (theta - mean_null)
    torch.testing.assert_close(gradient, torch.full_like(gradient, expected), atol=1e-9, rtol=1e-9)


def slopes(t: float) -> tuple[float, float]:
    """Return k = alpha sigma / D of both branches under the cosine schedule, at t rounded to float32."""
    angle = torch.tensor(t, dtype=torch.float32).double() * torch.pi / 2
    alpha, sigma = angle.cos().item(), angle.sin().item()
    k, k_null = (alpha * sigma / (alpha**2 * std**2 + sigma**2) for std in (STD, STD_NULL))
    return k, k_null


@pytest.mark.parametrize("t", [0.2, 0.5, 0.8])
def test_fixed_point_of_unequal_variances(t):
    scale = 2.5
    k, k_null = slopes(t)
    fixed_point = (scale * k * M - (scale - 1) * k_null * M_NULL) / (scale * k - (scale - 1) * k_null)
    config = SDSConfig(scale=scale, schedule=UniformSchedule(min=t, max=t))
    theta = torch.full((2, 3, 2, 2), fixed_point, dtype=torch.float64)
    assert expected_gradient(theta, config, M, M_NULL, STD, STD_NULL).abs().max() < 1e-9


@pytest.mark.parametrize("t", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("n_views", [1, 4])
def test_the_fixed_point_of_a_rectified_flow_is_the_same(t, n_views):
    """It is m + (S - 1) (m - m_u) for equal variances, with the slope k = lambda / (v + lambda^2) around it.

    lambda = t / (1 - t), and v = s^2 (1 + (n - 1) rho) for a common shift of all n views.
    """
    config = SDSConfig(scale=3.0, weighting="uniform", schedule=UniformSchedule(min=t, max=t))
    fixed_point, variance = M + 2.0 * (M - M_NULL), STD**2 * (1 + (n_views - 1) * 0.6)
    for offset in (0.0, 0.7):
        theta = torch.full((4, 3, 2, 2), fixed_point + offset, dtype=torch.float64)
        gradient = expected_gradient(theta, config, M, M_NULL, STD, STD, n_views, FlowPrior)
        exact = torch.tensor(t).double().item()  # t rounded to float32
        level = exact / (1 - exact)
        expected = torch.full_like(theta, level / (variance + level**2) * offset)
        torch.testing.assert_close(gradient, expected, atol=1e-9, rtol=1e-9)


def test_on_a_rectified_flow_it_is_the_velocity_error():
    """eps_S - eps = (1 - t) (v_S - (eps - x)), with v = E[eps - x | x_t] computed independently."""
    prior, x = exact_prior(kind=FlowPrior), renders()
    guided = SDS(SDSConfig(scale=4.0, weighting="uniform"), prior)(x, views_of(prior, 4), 0.0, seeded())
    generator = seeded()
    t = UniformSchedule().sample(0.0, 4, 1, generator).double().reshape(4, 1, 1, 1)
    eps = torch.randn(x.shape, generator=generator).to(x)
    x_t = (1 - t) * x + t * eps

    def velocity(mean: float, std: float) -> Tensor:
        slope = (t - (1 - t) * std**2) / ((1 - t) ** 2 * std**2 + t**2)  # cov(eps - x, x_t) / var(x_t)
        return -mean + slope * (x_t - (1 - t) * mean)

    positive, null = velocity(0.8, 0.5), velocity(0.3, 0.9)
    expected = (1 - t) * (null + 4.0 * (positive - null) - (eps - x))
    torch.testing.assert_close(guided.gradient, expected, atol=1e-9, rtol=1e-9)


def test_descent_ends_at_the_fixed_point():
    scale, batch = 3.0, 16
    prior = GaussianPrior({"y": Gaussian(M, STD), "": Gaussian(M_NULL, STD)}, (3, 16, 16))
    rule = SDS(SDSConfig(scale=scale, weighting="uniform"), prior)
    views, generator = views_of(prior, batch), torch.Generator().manual_seed(0)
    x, tail = torch.zeros(batch, 3, 16, 16), []
    for step in range(400):
        gradient = rule(x, views, step / 399, generator).gradient
        assert gradient is not None
        x = x - 0.1 * gradient
        tail += [x.mean()] if step >= 200 else []
    assert torch.stack(tail).mean().item() == pytest.approx(M + (scale - 1) * (M - M_NULL), abs=5e-3)


def test_the_views_of_a_joint_prior_relax_together():
    n, rho, t, offset = 4, 0.6, 0.5, 0.3
    config = SDSConfig(scale=1.0, weighting="uniform", schedule=UniformSchedule(min=t, max=t))
    common = torch.full((n, 3, 2, 2), M + offset, dtype=torch.float64)
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64).reshape(n, 1, 1, 1)
    between = torch.full((n, 3, 2, 2), M, dtype=torch.float64) + offset * signs
    alpha = sigma = 0.5**0.5
    # Eigenvalues of the view covariance: s^2 (1 + (n - 1) rho) for a common shift, s^2 (1 - rho) for a contrast.
    for theta, variance in ((common, STD**2 * (1 + (n - 1) * rho)), (between, STD**2 * (1 - rho))):
        gradient = expected_gradient(theta, config, M, M_NULL, STD, STD, n_views=n)
        k = alpha * sigma / (alpha**2 * variance + sigma**2)
        torch.testing.assert_close(gradient, k * (theta - M), atol=1e-9, rtol=1e-9)


def test_weighting_scales_each_sample():
    prior = GaussianPrior({"y": Gaussian(M, STD), "": Gaussian(M_NULL, STD)}, (3, 4, 4))
    x = torch.linspace(0, 1, 8 * 48).reshape(8, 3, 4, 4)

    def guide(weighting):
        generator = torch.Generator().manual_seed(1)
        return SDS(SDSConfig(weighting=weighting), prior)(x, views_of(prior, 8), 0.0, generator)

    plain, weighted = guide("uniform"), guide("sds")
    assert plain.t.unique().numel() == 8
    factor = (torch.sin(torch.pi * plain.t / 2) ** 2).reshape(8, 1, 1, 1)
    torch.testing.assert_close(weighted.gradient, factor * plain.gradient)


@pytest.mark.parametrize("n_views", [1, 4])
@pytest.mark.parametrize("rescale", [0.0, 0.5])
def test_objects_of_a_batch_are_independent(n_views, rescale):
    prior = GaussianPrior(
        {"y": Gaussian(M, STD), "": Gaussian(M_NULL, STD_NULL)}, (3, 4, 4), n_views=n_views, rho=0.5 * (n_views > 1)
    )
    rule = SDS(SDSConfig(scale=6.0, rescale=rescale), prior)
    x = torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    changed = x.clone()
    changed[4:] += 1.0
    first = rule(x, views_of(prior, 8), 0.0, torch.Generator().manual_seed(1)).gradient
    second = rule(changed, views_of(prior, 8), 0.0, torch.Generator().manual_seed(1)).gradient
    assert first is not None
    assert second is not None
    torch.testing.assert_close(first[:4], second[:4], atol=0, rtol=0)
    assert (first[4:] - second[4:]).flatten(1).abs().amax(dim=1).min() > 1e-3


def test_one_seed_one_gradient():
    prior = GaussianPrior({"y": Gaussian(M, STD), "": Gaussian(M_NULL, STD)}, (3, 4, 4))
    rule, x, views = SDS(SDSConfig(), prior), torch.zeros(4, 3, 4, 4), views_of(prior, 4)
    first, again, other = (rule(x, views, 0.0, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.gradient, again.gradient)
    assert torch.equal(first.t, again.t)
    assert first.metrics == again.metrics
    assert not torch.equal(first.gradient, other.gradient)


def test_the_rule_has_no_state():
    prior = GaussianPrior({"y": Gaussian(M, STD), "": Gaussian(M_NULL, STD)})
    rule = SDS(SDSConfig(), prior)
    assert rule.state_dict() == {}
    rule.load_state_dict({})


def test_queries_of_the_prior_per_view():
    assert queries_of(SDSConfig()) == {"view": 1, "bad": 1}


def test_gradients_weighted_by_lambda_are_finite_without_signal():
    prior = exact_prior(kind=NoSignal)
    guided = SDS(SDSConfig(weighting="lambda"), prior)(renders(), views_of(prior, len(renders())), 0.5, seeded())
    assert guided.gradient is not None
    assert guided.gradient.isfinite().all()


@pytest.mark.parametrize("kind", [ExactPrior, FlowPrior])
def test_the_velocity_weight_compares_velocities(kind: type[ExactPrior]):
    """For a flow, v = eps - x; for diffusion, v = alpha eps - sigma x."""
    prior, x = exact_prior(kind=kind), renders()
    t = torch.tensor(0.4)
    config = SDSConfig(scale=3.0, weighting="velocity", schedule=UniformSchedule(min=0.4, max=0.4))
    guided = SDS(config, prior)(x, views_of(prior, 4), 0.0, generator := seeded())
    eps = draw_noise(x, drawn_after_t(generator))
    prediction = guided_prediction(prior, add_noise(prior, x, eps, t.expand(4)), t.expand(4), views_of(prior, 4), 3.0)
    alpha, sigma = (1.0, 1.0) if kind is FlowPrior else (prior.alpha(t), prior.sigma(t))
    expected = alpha * (prediction.eps - eps) - sigma * (prediction.x0 - x)
    assert guided.gradient is not None
    torch.testing.assert_close(guided.gradient, expected, atol=1e-6, rtol=1e-6)


def drawn_after_t(generator: torch.Generator) -> torch.Generator:
    """Return a generator in the state after a rule has drawn four timesteps."""
    fresh = seeded()
    torch.rand(4, generator=fresh)
    return fresh


@pytest.mark.parametrize("n_views", [1, 4])
def test_random_weights_are_sigmoids_of_each_object(n_views: int):
    prior, x = exact_prior(n_views=n_views), renders(8)
    cameras = turntable(8)
    config = SDSConfig(schedule=UniformSchedule(min=0.5, max=0.5))
    plain = SDS(config, prior)(x, views_of(prior, 8, cameras=cameras), 0.0, seeded()).gradient
    random = SDS(config.model_copy(update={"random_weight": True}), prior)
    drawn = random(x, views_of(prior, 8, cameras=cameras), 0.0, seeded()).gradient
    assert plain is not None
    assert drawn is not None
    factors = (drawn / plain).flatten(1)  # one for each object
    torch.testing.assert_close(factors, factors[:, :1].expand_as(factors))
    generator = seeded()
    torch.rand(8 // n_views, generator=generator)
    draw_noise(x, generator)
    z = torch.randn(8 // n_views, generator=generator).repeat_interleave(n_views)
    torch.testing.assert_close(factors[:, 0].float(), z.sigmoid(), atol=1e-5, rtol=1e-5)


def test_predicted_noise_is_one_step_of_inversion():
    """RFDS-Rev adds (1 - sigma) (v + x - eps) to the noise, which for a flow is the prediction under the text."""
    prior, x = exact_prior(kind=FlowPrior), renders()
    t, views = torch.full((4,), 0.3), views_of(prior, 4)
    config = SDSConfig(scale=4.0, weighting="uniform", predicted_noise=True, schedule=UniformSchedule(min=0.3, max=0.3))
    guided = SDS(config, prior)(x, views, 0.0, generator := seeded())
    eps = draw_noise(x, drawn_after_t(generator))
    asked = guided_prediction(prior, add_noise(prior, x, eps, t), t, views, 1.0)
    velocity = asked.eps - asked.x0
    eps = eps + (1 - 0.3) * (velocity + x - eps)
    expected = guided_prediction(prior, add_noise(prior, x, eps, t), t, views, 4.0).eps - eps
    assert guided.gradient is not None
    torch.testing.assert_close(guided.gradient, expected, atol=1e-6, rtol=1e-6)
