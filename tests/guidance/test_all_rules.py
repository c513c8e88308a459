"""Properties of every rule, whatever its equation. The rules are discovered, not listed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.guidance.base import Guidance, RuleConfig, guided_prediction
from sds3d.guidance.rules import rule_configs
from sds3d.guidance.variational import TrainedScore, VariationalConfig
from sds3d.plugins import name_of
from sds3d.priors.base import Prediction, expand
from sds3d.priors.gaussian import Gaussian, GaussianPrior, GaussianScore
from sds3d.prompts import debiasing
from sds3d.prompts.conditioning import Conditioning, Structure
from sds3d.prompts.perp_neg import PerpNegConfig
from sds3d.prompts.prompt import encode_texts, prompt_texts
from tests.guidance.exact import NoSignal, exact_prior, renders, seeded
from tests.guidance.queries import PROMPTS, CountingPrior, views_by_text
from tests.guidance.scores import KnownTrainable, normal
from tests.guidance.views import views_of

RULES = rule_configs()
WITH_PHI = [rule for rule in RULES if "variational" in rule.model_fields]


def test_rules_are_found():
    assert len(RULES) >= 20
    assert len(WITH_PHI) >= 7


@pytest.mark.parametrize("rule", WITH_PHI, ids=name_of)
def test_phi_is_trained_on_the_renders_and_queried_with_the_plain_prompt(rule: type[RuleConfig]):
    """phi trains on the renders x, at its own timesteps, and with the plain prompt instead of the view's text.

    x is so large that noise hardly matters: x_t is alpha x, and no clean estimate of the prior comes near it.
    """
    prior, x, calls = CountingPrior(), torch.full((4, 3, 4, 4), 1e6), []

    def record(x_t: Tensor, t: Tensor, cond: Conditioning, cameras: Cameras | None) -> Prediction:
        calls.append((x_t.detach(), t, cond.hidden, cameras))
        return normal(prior, 0.1, 0.4, x_t, t)

    config = rule()
    variational: VariationalConfig = config.variational  # all rules of WITH_PHI have it
    variational = variational.model_copy(update={"camera_dropout": 0.0, "updates": 1})
    views, guidance = views_by_text(prior, config), config.make(prior)
    setattr(guidance, "phi", TrainedScore(variational, prior, KnownTrainable(record)))  # noqa: B010
    guided = guidance(x, views, 0.0, seeded()).learned()
    predicted, *further, learned = calls  # a rule that moves x_t queries phi again
    assert all(torch.equal(call[1], guided.t) for call in (predicted, *further))
    assert not torch.equal(learned[1], guided.t)
    for _, _, text, cameras in calls:
        assert torch.equal(text, prior.encode_text(["y"] * 4).hidden)
        assert torch.equal(cameras.azimuth, views.cameras.azimuth)
    for x_t, t, _, _ in (predicted, learned):
        torch.testing.assert_close(x_t, expand(prior.alpha(t), x) * x, atol=10.0, rtol=1e-6)


@pytest.mark.parametrize("rule", RULES, ids=name_of)
def test_the_number_of_views_may_change_and_a_resumed_rule_goes_on_alike(rule: type[RuleConfig]):
    prior, config, x = CountingPrior(), rule(), renders(dtype=torch.float32)
    wide = views_by_text(prior, config)
    narrow = replace(wide, cameras=wide.cameras[:2], rgb=wide.rgb[:2], alpha=wide.alpha[:2], depth=wide.depth[:2])

    def steps(guidance: Guidance, numbers: range, generator: torch.Generator) -> list[Tensor]:
        results = []
        for i in numbers:
            shown, views = (x, wide) if i < 2 or i == 5 else (x[:2], narrow)
            guided = guidance(shown, views, i / 6, generator).learned()
            results += [part for part in (guided.gradient, guided.image_target) if part is not None]
            assert all(len(part) == len(shown) for part in results[-1:])
        return results

    generator = seeded()
    straight = steps(config.make(prior), range(6), generator)
    for stop in (2, 3):
        first, again = config.make(prior), seeded()
        before = steps(first, range(stop), again)
        second = config.make(prior)
        second.load_state_dict({name: value.clone() for name, value in first.state_dict().items()})
        rest = steps(second, range(stop, 6), again)
        assert all(torch.equal(a, b) for a, b in zip(straight, [*before, *rest], strict=True))


@pytest.mark.parametrize("rule", RULES, ids=name_of)
def test_gradients_are_finite_without_signal(rule: type[RuleConfig]):
    prior, config = exact_prior(kind=NoSignal, bad=(-0.4, 0.7), mug=(0.5, 0.7)), rule()
    guided = config.make(prior)(renders(), views_by_text(prior, config), 0.5, seeded())
    given = [part for part in (guided.gradient, guided.image_target) if part is not None]
    assert given
    assert all(part.isfinite().all() for part in given)


class Noting(GaussianPrior):
    """Notes for each of four views the means of the texts that it, or a copy of it, is asked under."""

    def __init__(self, means: dict[str, float]) -> None:
        super().__init__({text: Gaussian(mean, 0.5) for text, mean in means.items()}, (3, 4, 4))
        self.asked: set[tuple[int, float]] = set()

    def predict(self, x_t: Tensor, t: Tensor, cond: Conditioning, cameras: Cameras | None) -> Prediction:
        self.asked |= {(row % 4, round(mean, 3)) for row, mean in enumerate(cond.hidden[:, 0, 0].tolist())}
        return super().predict(x_t, t, cond, cameras)

    def trainable_score(self, generator: torch.Generator, rank: int = 4) -> GaussianScore:
        return GaussianScore(self)


@pytest.mark.parametrize("rule", RULES, ids=name_of)
def test_debiased_texts_reach_every_rule(rule: type[RuleConfig], monkeypatch: pytest.MonkeyPatch):
    """A word that makes the back less probable is left out of the back's text alone."""

    def probabilities(prompts: Sequence[str]) -> Tensor:
        rows = [[0.6, 0.2, 0.1, 0.1] if "smiling" in prompt else [0.2, 0.2, 0.4, 0.1] for prompt in prompts]
        return torch.tensor(rows)

    monkeypatch.setattr(debiasing, "MaskedLanguageModel", lambda *_, **__: probabilities)
    means = {"smiling y": 0.1, "smiling y, front view": 0.2, "smiling y, side view": 0.3, "y, back view": 0.4}
    prior = Noting(means | {"smiling y, overhead view": 0.5, "y": 0.8, "": 0.0, "bad": 0.6, "mug": 0.7})
    config = rule()
    texts = config.texts("smiling y", PROMPTS.model_copy(update={"view_dependent": True, "debias": "a model"}))
    views = replace(views_of(prior, 4, "smiling y"), prompt=encode_texts(prior, texts))
    config.make(prior)(torch.rand(4, 3, 4, 4, generator=seeded()), views, 0.0, seeded())
    assert {(0, 0.2), (1, 0.3), (2, 0.4), (3, 0.3)} <= prior.asked


class ToldPrior(GaussianPrior):
    """Takes pictures and structure, and records what it is told, by the rules themselves and by trainable copies."""

    def __init__(self, told: list[Conditioning]) -> None:
        super().__init__(CountingPrior().prompts, (3, 4, 4))
        self.takes_pictures = self.takes_structure = True
        self.told = told

    def predict(self, x_t: Tensor, t: Tensor, cond: Conditioning, cameras: Cameras | None) -> Prediction:
        self.told.append(cond)
        return super().predict(x_t, t, cond, cameras)

    def trainable_score(self, generator: torch.Generator, rank: int = 4) -> GaussianScore:
        return GaussianScore(ToldPrior(self.told))


@pytest.mark.parametrize("rule", RULES, ids=name_of)
def test_every_query_tells_the_structure_of_its_views_and_the_picture_of_the_prompt(rule: type[RuleConfig]):
    """Rows come in the order of the views, whatever their text; only the prompt's rows have its picture."""
    told: list[Conditioning] = []
    prior, config, pictures = ToldPrior(told), rule(), torch.rand(1, 2, 5, generator=seeded())
    depth, normal, alpha = (torch.rand(4, 6, 6, *end, generator=seeded(2)) for end in ((), (3,), ()))
    prompt = encode_texts(prior, config.texts("y", PROMPTS), pictures)
    views = replace(views_of(prior, 4), prompt=prompt, structure=Structure(depth, normal, alpha))
    guidance = config.make(prior)
    for progress in (0.0, 0.5):
        guidance(renders(dtype=torch.float32), views, progress, seeded()).learned()
    assert told
    without = [means(prior, text) for text in ("", "bad")]
    for cond in told:
        assert cond.structure is not None
        assert torch.equal(cond.structure.depth, depth.repeat(len(cond) // 4, 1, 1))
        assert torch.equal(cond.structure.normal, normal.repeat(len(cond) // 4, 1, 1, 1))
        for row, text in enumerate(cond.hidden[:, 0, 0]):
            shown = torch.zeros(2, 5) if cond.pictures is None else cond.pictures[row]
            if any(torch.isclose(text, mean) for mean in without):
                assert torch.equal(shown, torch.zeros(2, 5))
            elif any(torch.isclose(text, means(prior, side)) for side in ("y", "y, front view", "y, back view")):
                assert torch.equal(shown, pictures[0]) or rule.__name__ == "BridgeConfig"


def means(prior: GaussianPrior, text: str) -> Tensor:
    return prior.encode_text([text]).hidden[0, 0, 0]


def test_the_words_of_neighbouring_views_come_with_picture_and_structure():
    """With Perp-Neg, each view is also asked about under the words of two other views."""
    told: list[Conditioning] = []
    prior, pictures = ToldPrior(told), torch.rand(1, 2, 5, generator=seeded())
    config = PROMPTS.model_copy(update={"view_dependent": True, "perp_neg": PerpNegConfig(strength=1.0)})
    depth, normal, alpha = (torch.rand(4, 6, 6, *end, generator=seeded(2)) for end in ((), (3,), ()))
    prompt = encode_texts(prior, prompt_texts("y", config), pictures)
    views = replace(views_of(prior, 4), prompt=prompt, structure=Structure(depth, normal, alpha))
    guided_prediction(prior, renders(dtype=torch.float32), torch.full((4,), 0.5), views, 5.0)
    (cond,) = told
    assert len(cond) == 16
    assert cond.structure is not None
    assert torch.equal(cond.structure.depth, depth.repeat(4, 1, 1))
    shown = cond.tensors()["pictures"].unflatten(0, (4, 4))  # positive, negative, and the two neighbours
    expected = pictures.expand(4, 2, 5)
    assert [torch.allclose(part, expected) for part in shown] == [True, False, True, True]
    assert torch.equal(shown[1], torch.zeros(4, 2, 5))
