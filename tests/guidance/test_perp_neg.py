import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sds3d.cameras import Cameras, orbit, turntable
from sds3d.guidance.base import combine, draw_noise, predict_each
from sds3d.guidance.perp_neg import perp_neg_prediction, perp_neg_texts
from sds3d.guidance.schedules import UniformSchedule
from sds3d.guidance.sds import SDS, SDSConfig
from sds3d.priors.base import Prediction, add_noise, expand
from sds3d.priors.gaussian import Gaussian
from sds3d.prompts.conditioning import Conditioning
from sds3d.prompts.prompt import VIEWS, PromptConfig, encode_prompt
from tests.guidance.exact import TOLERANCE, ExactPrior, exact_prior, renders, seeded
from tests.guidance.queries import CountingPrior, views_by_text
from tests.guidance.views import views_of


def prior_with_views(dtype: torch.dtype = torch.float64, n_views: int = 1, spread: float = 1.0) -> ExactPrior:
    """Return a prior with its own random mean for each view's text."""
    means = torch.randn(6, 3, 4, 4, generator=seeded(5), dtype=dtype)
    prompts = {f"y, {view} view": Gaussian(spread * means[i], 0.5) for i, view in enumerate(VIEWS)}
    prompts |= {"y": Gaussian(means[4], 0.5), "": Gaussian(means[5], 0.5)}
    return ExactPrior(prompts, (3, 4, 4), n_views=n_views, rho=0.5 * (n_views > 1), dtype=dtype)


def decay(r: float, a: float, b: float, c: float) -> float:
    return -(a * math.exp(-b * r) + c)


def rows(condition: Conditioning, prior: ExactPrior) -> Tensor:
    """Return the means of a conditioning, (B, E)."""
    return condition.hidden[..., 0]


@pytest.mark.parametrize("azimuth", [0.0, 30.0, 89.0, 90.0, 100.0, 179.0, 180.0, 200.0, 271.0, 330.0])
def test_texts_and_weights(azimuth):
    prior = prior_with_views()
    prompt = encode_prompt(prior, "y", PromptConfig())
    front, side, back, _ = (prior.encode_text([f"y, {view} view"]).hidden[0, :, 0] for view in VIEWS)
    texts = perp_neg_texts(prompt, orbit([azimuth]))
    turn = min(azimuth % 360, 360 - azimuth % 360)  # from the front
    if turn < 90:
        r = 1 - turn / 90
        positive, negatives = r * front + (1 - r) * side, (front, side)
        weights = [decay(r, 4, 0.5, -2.426), decay(1 - r, 4, 0.5, -2.426)]
    else:
        r = 2 - turn / 90
        positive, negatives = r * side + (1 - r) * back, (side, front)
        weights = [decay(r, 1, 0.5, -0.606), decay(r, 1, 0.5, 0.967)]
    torch.testing.assert_close(rows(texts.positive, prior)[0], positive, atol=1e-6, rtol=0)
    for given_text, expected in zip(texts.negatives, negatives, strict=True):
        assert torch.equal(rows(given_text, prior)[0], expected)
    torch.testing.assert_close(texts.weights, torch.tensor([weights]), atol=1e-5, rtol=0)
    assert texts.weights.max() < 1e-3  # negatives repel, within the rounding of the paper's constants


def test_exact_views_do_not_repel_their_own_word():
    prompt = encode_prompt(prior_with_views(), "y", PromptConfig())
    weights = perp_neg_texts(prompt, orbit([0.0, 90.0])).weights
    assert weights[0, 0].abs() < 1e-3  # the front from the front
    assert weights[1, 0].abs() < 1e-3  # the side from the side


def test_overhead_views_have_no_negatives():
    prior = prior_with_views()
    texts = perp_neg_texts(encode_prompt(prior, "y", PromptConfig()), orbit([10.0, 100.0], elevation=80.0))
    assert torch.equal(texts.weights, torch.zeros(2, 2))
    overhead = prior.encode_text(["y, overhead view"]).hidden[0, :, 0]
    torch.testing.assert_close(rows(texts.positive, prior), overhead.expand(2, -1))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("n_views", [1, 4])
def test_by_its_formula(dtype, n_views):
    prior, scale = prior_with_views(dtype, n_views), 7.5
    views, x_t = views_of(prior, 4, cameras=orbit([20.0, 110.0, 200.0, 290.0])), renders(4, dtype)
    t = torch.full((4,), 0.4) if n_views > 1 else torch.tensor([0.2, 0.4, 0.6, 0.8])
    got = perp_neg_prediction(prior, x_t, t, views, scale)
    texts = perp_neg_texts(views.prompt, views.cameras)
    conditions = [texts.positive, views.negative, *texts.negatives]
    positive, null, *others = (prior.predict(x_t, t, c, views.cameras).eps for c in conditions)
    for b in range(4):
        d_pos = (positive - null)[b]
        guided = d_pos.clone()
        for other, w in zip(others, texts.weights[b], strict=True):
            d = (other - null)[b]
            guided += w * (d - (d * d_pos).sum() / d_pos.square().sum() * d_pos)
        tolerance = TOLERANCE[dtype]
        torch.testing.assert_close(got.eps[b], null[b] + scale * guided, atol=tolerance, rtol=tolerance)
    alpha, sigma = expand(prior.alpha(t), x_t), expand(prior.sigma(t), x_t)
    torch.testing.assert_close(alpha * got.x0 + sigma * got.eps, x_t, atol=TOLERANCE[dtype], rtol=0)


@settings(max_examples=30, deadline=None)
@given(azimuth=st.floats(0, 360), t=st.floats(0.05, 0.95))
def test_the_added_part_is_perpendicular(azimuth, t):
    prior = prior_with_views()
    views, x_t, times = views_of(prior, 1, cameras=orbit([azimuth])), renders(1), torch.tensor([t])
    got = perp_neg_prediction(prior, x_t, times, views, 5.0)
    direction = got.positive.eps - got.negative.eps
    added = got.eps - combine(got.positive, got.negative, 5.0).eps
    assert (added * direction).sum().abs() < 1e-9 * direction.square().sum() + 1e-9


def test_equal_texts_give_plain_guidance():
    # With one text for all views every negative is parallel to the positive, so nothing is perpendicular.
    prior = exact_prior()
    views, x_t, t = views_of(prior, 4), renders(), torch.tensor([0.2, 0.4, 0.6, 0.8])
    plain = combine(*predict_each(prior, x_t, t, [views.positive, views.negative], views.cameras), 7.5)
    got = perp_neg_prediction(prior, x_t, t, views, 7.5)
    torch.testing.assert_close(got.eps, plain.eps, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(got.x0, plain.x0, atol=1e-9, rtol=1e-9)


def test_a_zero_direction_gives_no_nan():
    prior = exact_prior(null=(0.8, 0.5))
    views, x_t, t = views_of(prior, 2), renders(2), torch.full((2,), 0.5)
    got = perp_neg_prediction(prior, x_t, t, views, 7.5)
    torch.testing.assert_close(got.eps, got.negative.eps)


@pytest.mark.parametrize("rescale", [0.0, 0.5])
def test_sds_with_perp_neg(rescale):
    prior = prior_with_views()
    views, x = views_of(prior, 4, cameras=turntable(4)), renders()
    schedule = UniformSchedule(min=0.5, max=0.5)
    config = SDSConfig(scale=5.0, weighting="uniform", schedule=schedule, perp_neg=True, rescale=rescale)
    guided = SDS(config, prior)(x, views, 0.0, seeded())
    plain = SDS(config.model_copy(update={"perp_neg": False}), prior)(x, views, 0.0, seeded())
    assert guided.gradient is not None
    assert guided.x0 is not None
    assert plain.gradient is not None
    # x0 and the gradient come from the same prediction: x - x0 = sigma / alpha (eps - noise).
    torch.testing.assert_close(x - guided.x0, guided.gradient, atol=1e-9, rtol=1e-9)  # sigma = alpha at t = 0.5
    assert (guided.gradient - plain.gradient).abs().max() > 0.1


@pytest.mark.parametrize("n_views", [1, 4])
def test_rescale_gives_the_spread_of_the_conditional_estimate(n_views):
    """x0 becomes x0 (1 + phi (f - 1)), f = std(x0_y) / std(x0) over an object's views, for phi = 1 and 1/2."""
    prior = prior_with_views(n_views=n_views)
    views, x = views_of(prior, 4, cameras=turntable(4)), renders()
    config = SDSConfig(scale=5.0, perp_neg=True, schedule=UniformSchedule(min=0.5, max=0.5))

    def estimate(rescale: float) -> Tensor:
        x0 = SDS(config.model_copy(update={"rescale": rescale}), prior)(x, views, 0.0, seeded()).x0
        assert x0 is not None
        return x0

    generator = seeded()
    t = config.schedule.sample(0.0, 4, n_views, generator)
    x_t = add_noise(prior, x, draw_noise(x, generator), t)
    positive = prior.predict(x_t, t, perp_neg_texts(views.prompt, views.cameras).positive, views.cameras).x0
    plain, full = estimate(0.0), estimate(1.0)
    spreads = [x0.reshape(4 // n_views, -1).std(dim=1) for x0 in (full, positive, plain)]
    torch.testing.assert_close(spreads[0], spreads[1], atol=1e-9, rtol=1e-9)
    assert (spreads[2] - spreads[1]).abs().min() > 0.1
    torch.testing.assert_close(estimate(0.5), (plain + full) / 2, atol=1e-9, rtol=1e-9)


class Counting(ExactPrior):
    """Records how many rows each call has."""

    rows: tuple[int, ...] = ()

    def predict(self, x_t: Tensor, t: Tensor, cond: Conditioning, cameras: Cameras | None) -> Prediction:
        self.rows = (*self.rows, len(x_t))
        return super().predict(x_t, t, cond, cameras)


def test_the_prior_is_called_once_with_four_texts_per_view():
    prior = Counting({"y": Gaussian(0.8, 0.5), "": Gaussian(0.3, 0.5)}, (3, 4, 4), dtype=torch.float64)
    SDS(SDSConfig(perp_neg=True), prior)(renders(), views_of(prior, 4), 0.0, seeded())
    assert prior.rows == (16,)


def test_the_negative_prompt_replaces_the_empty_one():
    prior, config = CountingPrior(), SDSConfig(perp_neg=True)
    config.make(prior)(torch.rand(4, 3, 4, 4), views_by_text(prior, config), 0.0, seeded())
    assert prior.queries["bad"] == 4
    assert prior.queries[""] == 0
