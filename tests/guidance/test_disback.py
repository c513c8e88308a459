"""DisBack: the path of teachers on Gaussians, and DMD as its special case."""

import pytest
import torch

from sds3d.guidance.disback import DisBack, DisBackConfig, PathConfig
from sds3d.guidance.dmd import DMD, DMDConfig, FakeScoreConfig
from sds3d.guidance.schedules import UniformSchedule
from sds3d.priors.gaussian import Gaussian
from tests.guidance.exact import DTYPES, ExactPrior, exact_prior, renders, seeded
from tests.guidance.queries import queries_of
from tests.guidance.scores import Known, normal, resumes_bit_identically
from tests.guidance.views import views_of

FROZEN = FakeScoreConfig(updates=0)
SCHEDULE = UniformSchedule(min=0.2, max=0.8)


def phi_of(prior: ExactPrior) -> Known:
    return Known(lambda x_t, t, cond, cameras: normal(prior, 0.1, 0.7, x_t, t))


@DTYPES
def test_without_a_path_it_is_dmd(dtype, tolerance):
    prior, x = exact_prior(dtype), renders(dtype=dtype)
    config = DisBackConfig(scale=3.0, schedule=SCHEDULE, path=PathConfig(updates=0), variational=FROZEN)
    rule = DisBack(config, prior, phi_of(prior))
    dmd = DMD(DMDConfig(scale=3.0, schedule=SCHEDULE, variational=FROZEN), prior, phi_of(prior))
    for progress in (0.0, 0.1):
        ours, theirs = (one(x, views_of(prior, 4), progress, seeded()).learned() for one in (rule, dmd))
        torch.testing.assert_close(ours.gradient, theirs.gradient, atol=tolerance, rtol=tolerance)


@pytest.fixture(scope="module")
def recorded() -> DisBack:
    """A rule that has recorded the path from N(0.8, 0.5^2) to renders that are all -1."""
    prior = exact_prior()
    path = PathConfig(updates=50, lr=0.02, text_dropout=0.0, camera_dropout=1.0)
    config = DisBackConfig(scale=1.0, snapshots=4, until=0.4, schedule=SCHEDULE, path=path, variational=FROZEN)
    rule = DisBack(config, prior, phi_of(prior))
    x = torch.full((4, 3, 4, 4), -1.0, dtype=torch.float64)
    for step in range(5):
        guided = rule(x, views_of(prior, 4), step / 100, seeded(step))
        assert len(rule.snapshots) == min(step, 4)  # a step that fails leaves the rule as it was
        assert guided.metrics["snapshot"] == (-1 if step < 4 else 3)
        guided.learned()
    assert len(rule.snapshots) == 4
    return rule


def test_the_path_leads_from_the_prior_to_the_renders(recorded):
    means = [0.8 + snapshot["mean"].mean().item() for snapshot in recorded.snapshots]
    stds = [0.5 * snapshot["log_std"].exp().item() for snapshot in recorded.snapshots]
    assert means == sorted(means, reverse=True)
    assert means[0] < 0.8
    assert means[-1] == pytest.approx(-1.0, abs=0.1)
    assert stds[-1] < 0.5


def test_teachers_come_in_reverse_order_and_last_the_prior(recorded):
    shown = [recorded.teacher_at(progress) for progress in (0.0, 0.09, 0.11, 0.25, 0.35, 0.4, 1.0)]
    assert shown == [3, 3, 2, 1, 0, None, None]


@pytest.mark.parametrize("progress", [0.0, 0.25, 0.5])
def test_each_teacher_gives_its_own_gradient(recorded, progress):
    """A snapshot is a Gaussian with known mean and spread, so it is a prior of its own."""
    views, x, index = views_of(recorded.prior, 4), renders(), recorded.teacher_at(progress)
    ours = recorded(x, views, progress, seeded()).gradient
    prior = recorded.prior
    if index is not None:
        snapshot = recorded.snapshots[index]
        mean = (0.8 + snapshot["mean"]).reshape(3, 4, 4)
        prior = ExactPrior(
            {"y": Gaussian(mean, 0.5 * snapshot["log_std"].exp().item()), "": prior.prompts[""]}, (3, 4, 4),
            dtype=torch.float64,
        )  # fmt: skip
    dmd = DMD(DMDConfig(scale=1.0, schedule=SCHEDULE, variational=FROZEN), prior, phi_of(prior))
    theirs = dmd(x, views_of(prior, 4), progress, seeded()).gradient
    torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("before", [0, 1, 3])
def test_resuming_changes_nothing(before):
    prior = exact_prior(torch.float32)
    path, phi = PathConfig(updates=2, lr=0.01), FakeScoreConfig(lr=0.01, updates=1)
    config = DisBackConfig(snapshots=2, until=0.4, path=path, variational=phi)
    x = renders(dtype=torch.float32)
    assert resumes_bit_identically(lambda: DisBack(config, prior), views_of(prior, 4), x, before)


def test_queries_of_the_prior_per_view():
    assert queries_of(DisBackConfig()) == {"view": 1, "bad": 1}
