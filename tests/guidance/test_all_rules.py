"""What holds for every rule, whatever its equation. Rules are found; none is named here."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.guidance.base import RuleConfig
from sds3d.guidance.rules import rule_configs
from sds3d.guidance.variational import TrainedScore, VariationalConfig
from sds3d.plugins import name_of
from sds3d.priors.base import Prediction, expand
from sds3d.prompts.conditioning import Conditioning
from tests.guidance.asking import Overheard, views_by_words
from tests.guidance.exact import NoSignal, exact_prior, renders
from tests.guidance.scores import Listening, normal, seeded

RULES = rule_configs()
WITH_PHI = [rule for rule in RULES if "variational" in rule.model_fields]


def test_rules_are_found():
    assert len(RULES) >= 20
    assert len(WITH_PHI) >= 7


@pytest.mark.parametrize("rule", WITH_PHI, ids=name_of)
def test_phi_learns_from_the_renders_and_is_asked_of_them_by_the_plain_prompt(rule: type[RuleConfig]):
    """x is so large that x_t = alpha x but for the noise, and no clean estimate of the prior is near it."""
    prior, x, heard = Overheard(), torch.full((4, 3, 4, 4), 1e6), []

    def listen(x_t: Tensor, t: Tensor, cond: Conditioning, cameras: Cameras | None) -> Prediction:
        heard.append((x_t.detach(), t, cond.hidden, cameras))
        return normal(prior, 0.1, 0.4, x_t, t)

    config = rule()
    variational: VariationalConfig = config.variational  # only these rules have one
    variational = variational.model_copy(update={"camera_dropout": 0.0, "updates": 1})
    views, guidance = views_by_words(prior, config), config.make(prior)
    setattr(guidance, "phi", TrainedScore(variational, prior, Listening(listen)))  # noqa: B010
    guided = guidance(x, views, 0.0, seeded()).learned()
    asked, learned = heard
    assert torch.equal(asked[1], guided.t)
    assert not torch.equal(learned[1], guided.t)
    for x_t, t, told, cameras in (asked, learned):
        assert torch.equal(told, prior.encode_text(["y"] * 4).hidden)
        assert torch.equal(cameras.azimuth, views.cameras.azimuth)
        torch.testing.assert_close(x_t, expand(prior.alpha(t), x) * x, atol=10.0, rtol=1e-6)


@pytest.mark.parametrize("rule", RULES, ids=name_of)
def test_gradients_are_finite_where_no_signal_is_left(rule: type[RuleConfig]):
    prior, config = exact_prior(kind=NoSignal, bad=(-0.4, 0.7), mug=(0.5, 0.7)), rule()
    guided = config.make(prior)(renders(), views_by_words(prior, config), 0.5, seeded())
    given = [part for part in (guided.gradient, guided.image_target) if part is not None]
    assert given
    assert all(part.isfinite().all() for part in given)
