import pytest
import torch

from sds3d.guidance.schedules import UniformSchedule
from sds3d.guidance.sds import SDS, SDSConfig
from sds3d.guidance.sjc import SJC, SJCConfig
from tests.guidance.exact import TOLERANCE, exact_prior, level, renders, seeded
from tests.guidance.queries import queries_of
from tests.guidance.views import views_of

SCHEDULE = UniformSchedule(min=0.1, max=0.97)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("n_views", [1, 4])
def test_the_variance_reduced_variant_is_sds(dtype, n_views):
    prior = exact_prior(dtype, n_views)
    x, views = renders(8, dtype), views_of(prior, 8)
    sjc = SJC(SJCConfig(scale=3.0, schedule=SCHEDULE), prior)(x, views, 0.0, seeded())
    sds = SDS(SDSConfig(scale=3.0, weighting="uniform", schedule=SCHEDULE), prior)(x, views, 0.0, seeded())
    torch.testing.assert_close(sjc.gradient, sds.gradient, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    torch.testing.assert_close(sjc.x0, sds.x0, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_variants_differ_by_the_noise(dtype):
    prior = exact_prior(dtype)
    x, views = renders(4, dtype), views_of(prior, 4)
    reduced, plain = (
        SJC(SJCConfig(scale=3.0, variance_reduced=reduced, schedule=SCHEDULE), prior)(x, views, 0.0, seeded())
        for reduced in (True, False)
    )
    generator = seeded()
    SCHEDULE.sample(0.0, 4, 1, generator)
    eps = torch.randn(x.shape, generator=generator).to(x)
    torch.testing.assert_close(plain.gradient - reduced.gradient, eps, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_unguided_score_of_a_gaussian(dtype):
    # The mean of eps_hat over the noise is k (x - m), k = lambda / (s^2 + lambda^2). Mirroring renders and Gaussian
    # under the same noise averages the noise out exactly.
    gradients = []
    for sign in (1.0, -1.0):
        prior = exact_prior(dtype, y=(sign * 0.8, 0.5), null=(0.0, 0.5))
        rule = SJC(SJCConfig(scale=1.0, variance_reduced=False, schedule=SCHEDULE), prior)
        gradients.append(rule(sign * renders(4, dtype), views_of(prior, 4), 0.0, seeded()))
    lam = level(prior, gradients[0].t)
    expected = lam / (0.25 + lam**2) * (renders(4, dtype) - 0.8)
    half = (gradients[0].gradient - gradients[1].gradient) / 2
    torch.testing.assert_close(half, expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("weighting", ["sds", "lambda"])
def test_weights(weighting):
    prior, x = exact_prior(), renders()
    plain = SJC(SJCConfig(scale=3.0), prior)(x, views_of(prior, 4), 0.0, seeded())
    weighted = SJC(SJCConfig(scale=3.0, weighting=weighting), prior)(x, views_of(prior, 4), 0.0, seeded())
    lam = level(prior, plain.t)
    factor = lam if weighting == "lambda" else lam**2 / (1 + lam**2)
    torch.testing.assert_close(weighted.gradient, factor * plain.gradient, atol=1e-9, rtol=1e-9)


def test_queries_of_the_prior_per_view():
    assert queries_of(SJCConfig()) == {"view": 1, "bad": 1}
