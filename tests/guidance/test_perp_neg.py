import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sds3d.cameras import Cameras, orbit, turntable
from sds3d.config import ConfigError, build
from sds3d.guidance.asd import ASD, ASDConfig
from sds3d.guidance.base import RuleConfig, Views, combine, draw_noise, guided_prediction, predict_each, predict_texts
from sds3d.guidance.rules import rule_configs
from sds3d.guidance.schedules import UniformSchedule
from sds3d.guidance.sds import SDS, SDSConfig
from sds3d.plugins import name_of
from sds3d.priors.base import Prediction, add_noise, expand
from sds3d.priors.gaussian import Gaussian
from sds3d.prompts.conditioning import Conditioning
from sds3d.prompts.perp_neg import PerpNegConfig, negative_weights
from sds3d.prompts.prompt import VIEWS, PromptConfig, encode_prompt, encode_texts
from tests.guidance.exact import TOLERANCE, ExactPrior, exact_prior, renders, seeded
from tests.guidance.queries import CountingPrior
from tests.guidance.views import views_of


def prior_with_views(dtype: torch.dtype = torch.float64, n_views: int = 1, spread: float = 1.0) -> ExactPrior:
    """Return a prior with its own random mean for each view's text."""
    means = torch.randn(6, 3, 4, 4, generator=seeded(5), dtype=dtype)
    prompts = {f"y, {view} view": Gaussian(spread * means[i], 0.5) for i, view in enumerate(VIEWS)}
    prompts |= {"y": Gaussian(means[4], 0.5), "": Gaussian(means[5], 0.5)}
    return ExactPrior(prompts, (3, 4, 4), n_views=n_views, rho=0.5 * (n_views > 1), dtype=dtype)


PERP_NEG = PromptConfig(view_dependent=True, perp_neg=PerpNegConfig(strength=1.0))
BLENDED = PromptConfig(view_dependent=True, interpolate=True)
AROUND = orbit([20.0, 110.0, 200.0, 290.0])


def views_with(prior: Any, config: PromptConfig = PERP_NEG, batch: int = 4, cameras: Cameras = AROUND) -> Views:
    """Return views whose texts follow `config`."""
    return replace(views_of(prior, batch, cameras=cameras), prompt=encode_prompt(prior, "y", config))


def decay(r: float, a: float, b: float, c: float) -> float:
    return -(a * math.exp(-b * r) + c)


def rows(condition: Conditioning, prior: ExactPrior) -> Tensor:
    """Return the means of a conditioning, (B, E)."""
    return condition.hidden[..., 0]


@pytest.mark.parametrize("azimuth", [0.0, 30.0, 89.0, 90.0, 100.0, 179.0, 180.0, 200.0, 271.0, 330.0])
def test_texts_and_weights(azimuth):
    prior = prior_with_views()
    prompt = encode_prompt(prior, "y", PERP_NEG)
    front, side, back, _ = (prior.encode_text([f"y, {view} view"]).hidden[0, :, 0] for view in VIEWS)
    positive_text, texts = prompt.positive(orbit([azimuth])), prompt.neighbours(orbit([azimuth]))
    turn = min(azimuth % 360, 360 - azimuth % 360)  # from the front
    if turn < 90:
        r = 1 - turn / 90
        positive, negatives = r * front + (1 - r) * side, (front, side)
        weights = [decay(r, 4, 0.5, -2.426), decay(1 - r, 4, 0.5, -2.426)]
    else:
        r = 2 - turn / 90
        positive, negatives = r * side + (1 - r) * back, (side, front)
        weights = [decay(r, 1, 0.5, -0.606), decay(r, 1, 0.5, 0.967)]
    torch.testing.assert_close(rows(positive_text, prior)[0], positive, atol=1e-6, rtol=0)
    for given_text, expected in zip(texts.texts, negatives, strict=True):
        assert torch.equal(rows(given_text, prior)[0], expected)
    torch.testing.assert_close(texts.weights, torch.tensor([weights]), atol=1e-5, rtol=0)
    assert texts.weights.max() < 1e-3  # negatives repel, within the rounding of the paper's constants


def test_exact_views_do_not_repel_their_own_word():
    weights = encode_prompt(prior_with_views(), "y", PERP_NEG).neighbours(orbit([0.0, 90.0])).weights
    assert weights[0, 0].abs() < 1e-3  # the front from the front
    assert weights[1, 0].abs() < 1e-3  # the side from the side


def test_overhead_views_have_no_negatives():
    prior = prior_with_views()
    prompt, cameras = encode_prompt(prior, "y", PERP_NEG), orbit([10.0, 100.0], elevation=80.0)
    assert torch.equal(prompt.neighbours(cameras).weights, torch.zeros(2, 2))
    overhead = prior.encode_text(["y, overhead view"]).hidden[0, :, 0]
    torch.testing.assert_close(rows(prompt.positive(cameras), prior), overhead.expand(2, -1))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("n_views", [1, 4])
def test_by_its_formula(dtype, n_views):
    prior, scale = prior_with_views(dtype, n_views), 7.5
    views, x_t = views_with(prior), renders(4, dtype)
    t = torch.full((4,), 0.4) if n_views > 1 else torch.tensor([0.2, 0.4, 0.6, 0.8])
    got = guided_prediction(prior, x_t, t, views, scale)
    texts = views.neighbours
    conditions = [views.positive, views.negative, *texts.texts]
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
    views, x_t, times = views_with(prior, batch=1, cameras=orbit([azimuth])), renders(1), torch.tensor([t])
    got = predict_texts(prior, x_t, times, views)
    direction = got.plain.eps - got.negative.eps
    added = got.positive.eps - got.plain.eps
    assert (added * direction).sum().abs() < 1e-9 * direction.square().sum() + 1e-9


def test_equal_texts_give_plain_guidance():
    # With one text for all views every negative is parallel to the positive, so nothing is perpendicular.
    prior = exact_prior()
    views, x_t, t = views_with(prior), renders(), torch.tensor([0.2, 0.4, 0.6, 0.8])
    plain = combine(*predict_each(prior, x_t, t, [views.positive, views.negative], views.cameras), 7.5)
    got = guided_prediction(prior, x_t, t, views, 7.5)
    torch.testing.assert_close(got.eps, plain.eps, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(got.x0, plain.x0, atol=1e-9, rtol=1e-9)


def test_a_zero_direction_gives_no_nan():
    prior = exact_prior(null=(0.8, 0.5))
    views, x_t, t = views_with(prior, batch=2, cameras=orbit([20.0, 110.0])), renders(2), torch.full((2,), 0.5)
    got = guided_prediction(prior, x_t, t, views, 7.5)
    torch.testing.assert_close(got.eps, got.negative.eps)


@pytest.mark.parametrize("rescale", [0.0, 0.5])
def test_sds_with_perp_neg(rescale):
    prior = prior_with_views()
    x, schedule = renders(), UniformSchedule(min=0.5, max=0.5)
    config = SDSConfig(scale=5.0, weighting="uniform", schedule=schedule, rescale=rescale)
    guided = SDS(config, prior)(x, views_with(prior, cameras=turntable(4)), 0.0, seeded())
    plain = SDS(config, prior)(x, views_of(prior, 4, cameras=turntable(4)), 0.0, seeded())
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
    views, x = views_with(prior, cameras=turntable(4)), renders()
    config = SDSConfig(scale=5.0, schedule=UniformSchedule(min=0.5, max=0.5))

    def estimate(rescale: float) -> Tensor:
        x0 = SDS(config.model_copy(update={"rescale": rescale}), prior)(x, views, 0.0, seeded()).x0
        assert x0 is not None
        return x0

    generator = seeded()
    t = config.schedule.sample(0.0, 4, n_views, generator)
    x_t = add_noise(prior, x, draw_noise(x, generator), t)
    positive = prior.predict(x_t, t, views.positive, views.cameras).x0
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
    SDS(SDSConfig(), prior)(renders(), views_with(prior), 0.0, seeded())
    assert prior.rows == (16,)


def test_the_negative_prompt_replaces_the_empty_one():
    prior, config = CountingPrior(), SDSConfig()
    prompt = encode_texts(prior, config.texts("y", PERP_NEG.model_copy(update={"negative": "bad"})))
    config.make(prior)(torch.rand(4, 3, 4, 4), replace(views_of(prior, 4), prompt=prompt), 0.0, seeded())
    assert prior.queries["bad"] == 4
    assert prior.queries[""] == 0


class Repelled(ExactPrior):
    """Answers the blended texts of `views` with the prediction that Perp-Neg gives, written out view by view."""

    views: Views

    def predict(self, x_t: Tensor, t: Tensor, cond: Conditioning, cameras: Cameras | None) -> Prediction:
        out, batch = super().predict(x_t, t, cond, cameras), len(self.views.cameras)
        positive, away = self.views.positive.hidden, self.views.neighbours
        eps, x0 = out.eps.clone(), out.x0.clone()
        for row in range(len(x_t)):
            b = row % batch
            if not torch.equal(cond.hidden[row], positive[b]):
                continue
            one = slice(row, row + 1)

            def ask(text: Conditioning, one: slice = one, b: int = b) -> Prediction:
                return super(Repelled, self).predict(x_t[one], t[one], text[b : b + 1], None)

            null = ask(self.views.negative)
            direction = out.eps[one] - null.eps
            for text, w in zip(away.texts, away.weights[b], strict=True):
                other = ask(text)
                share = ((other.eps - null.eps) * direction).sum() / direction.square().sum().clamp_min(1e-6)
                eps[one] += w * (other.eps - null.eps - share * direction)
                x0[one] += w * (other.x0 - null.x0 - share * (out.x0[one] - null.x0))
        return Prediction(eps, x0)


EVERY_TEXT = {"bad": (-0.4, 0.7), "mug": (0.5, 0.7)}
RULES = [rule for rule in rule_configs() if name_of(rule) not in ("asd", "coupled")]


@pytest.mark.parametrize("rule", RULES, ids=name_of)
def test_every_rule_that_guides_by_text_gets_perp_neg(rule: type[RuleConfig]):
    """With Perp-Neg, a rule does what it does without on a prior whose answers already contain it.

    Rescaling, which has a test of its own, compares with the plain answer.
    """
    prompts = prior_with_views().prompts | {text: Gaussian(*value) for text, value in EVERY_TEXT.items()}
    plain, repelled = (kind(prompts, (3, 4, 4), dtype=torch.float64) for kind in (ExactPrior, Repelled))
    config, x = rule(), renders()
    if "rescale" in rule.model_fields:
        config = config.model_copy(update={"rescale": 0.0})
    options = {"negative": "bad", "category": "mug"}

    def views(prior: ExactPrior, prompts: PromptConfig) -> Views:
        texts = config.texts("y", prompts.model_copy(update=options))
        return replace(views_of(prior, 4, cameras=AROUND), prompt=encode_texts(prior, texts))

    repelled.views = views(repelled, PERP_NEG)
    expected = config.make(repelled)(x, views(repelled, BLENDED), 0.5, seeded())
    got = config.make(plain)(x, views(plain, PERP_NEG), 0.5, seeded())
    without = config.make(plain)(x, views(plain, BLENDED), 0.5, seeded())
    for ours, theirs, other in (
        (got.gradient, expected.gradient, without.gradient),
        (got.image_target, expected.image_target, without.image_target),
    ):
        if ours is not None:
            torch.testing.assert_close(ours, theirs, atol=1e-8, rtol=1e-8)
            assert not torch.allclose(ours, other)


def test_asd_subtracts_the_plain_prediction():
    """The second term of ASD has one text: only the first gets Perp-Neg, as in ScaleDreamer."""
    prior, x = prior_with_views(), renders()
    config = ASDConfig(weighting="uniform", schedule=UniformSchedule(min=0.5, max=0.5), shift=0.5, scale=3.0)
    got = ASD(config, prior)(x, views := views_with(prior), 0.0, seeded())
    without = ASD(config, prior)(x, views_with(prior, BLENDED), 0.0, seeded())
    generator = seeded()
    for _ in range(2):  # of t, and of the shift
        torch.rand(4, generator=generator)
    t = torch.full((4,), 0.5)
    texts = predict_texts(prior, add_noise(prior, x, draw_noise(x, generator), t), t, views)
    added = 3.0 * (texts.positive.eps - texts.plain.eps)
    assert got.gradient is not None
    assert without.gradient is not None
    torch.testing.assert_close(got.gradient - without.gradient, added, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("azimuth", [0.0, 15.0, 60.0, 85.0, 100.0, 140.0, -170.0])
def test_the_curves_of_stable_dreamfusion(azimuth: float):
    """Weights of -2 with decays of 2 and 10, none where a view's own share is above 0.8, halved behind the side."""
    config = PerpNegConfig(
        strength=1.0, front=(2, 2, 0), side=(2, 10, 0), side_behind=(1, 10, 0), front_behind=(0, 0, 2), cut=0.8
    )
    turn = abs(azimuth)
    if turn < 90:
        r = 1 - turn / 90
        expected = [0.0 if r > 0.8 else -2 * math.exp(-2 * r), 0.0 if 1 - r > 0.8 else -2 * math.exp(-10 * (1 - r))]
    else:
        r = 2 - turn / 90
        expected = [0.0 if r > 0.8 else -math.exp(-10 * r), -2.0]
    got = negative_weights(config, torch.tensor([azimuth]))
    torch.testing.assert_close(got, torch.tensor([expected]), atol=1e-6, rtol=1e-6)


def test_strength_is_a_factor_and_off_asks_for_no_more_texts():
    azimuth = torch.tensor([30.0, 120.0])
    whole, half = (negative_weights(PerpNegConfig(strength=s), azimuth) for s in (1.0, 0.5))
    torch.testing.assert_close(0.5 * whole, half)
    prior = prior_with_views()
    assert views_with(prior, BLENDED).neighbours.texts == ()
    torch.testing.assert_close(views_with(prior, BLENDED).positive.hidden, views_with(prior).positive.hidden)


def test_perp_neg_needs_view_words():
    with pytest.raises(ConfigError, match=r"perp_neg\.strength needs view words"):
        build(PromptConfig, {"view_dependent": False, "perp_neg": {"strength": 1}})
    with pytest.raises(ConfigError, match="interpolate needs view words"):
        build(PromptConfig, {"view_dependent": False, "interpolate": True})
    told = encode_prompt(prior_with_views(n_views=4), "y", PromptConfig(perp_neg=PerpNegConfig(strength=1.0)))
    assert told.neighbours(AROUND).texts == ()  # a prior that takes cameras gets no view words
