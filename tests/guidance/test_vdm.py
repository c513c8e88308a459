"""VDM, reconstructed from its paper, against the rules that it interpolates, and its network against a closed form."""

import pytest
import torch

from sds3d.guidance.schedules import UniformSchedule
from sds3d.guidance.sds import SDS, SDSConfig
from sds3d.guidance.vdm import VDM, MappingConfig, VDMConfig
from sds3d.priors.gaussian import Gaussian, GaussianPrior
from tests.guidance.exact import DTYPES, seeded
from tests.guidance.queries import queries_of
from tests.guidance.scores import resumes_bit_identically
from tests.guidance.views import views_of

M, STD = 0.8, 0.5
MIDDLE = UniformSchedule(min=0.2, max=0.9)


def prior_of(dtype: torch.dtype = torch.float32, n_views: int = 1) -> GaussianPrior:
    return GaussianPrior(
        {"y": Gaussian(M, STD), "": Gaussian(0.3, 0.9)}, (3, 4, 4), n_views=n_views, rho=0.5 * (n_views > 1),
        dtype=dtype,
    )  # fmt: skip


@DTYPES
@pytest.mark.parametrize("coefficient", [(1.0, 0.0), (1.0, 1.0), (0.3, 0.6)])
def test_with_a_mapping_that_finds_the_render_it_is_sds(dtype, tolerance, coefficient):
    prior, x = prior_of(dtype, n_views=4), torch.rand(8, 3, 4, 4, generator=seeded(3)).to(dtype)
    views, config = views_of(prior, 8), VDMConfig(scale=7.5, coefficient=coefficient, schedule=MIDDLE)
    ours = VDM(config, prior, lambda x0, t, cameras: x)(x, views, 0.0, seeded())
    theirs = SDS(SDSConfig(scale=7.5, schedule=MIDDLE), prior)(x, views, 0.0, seeded())
    torch.testing.assert_close(ours.gradient, theirs.gradient, atol=tolerance, rtol=tolerance)


@DTYPES
def test_with_the_identity_only_guidance_remains(dtype, tolerance):
    prior, x = prior_of(dtype, n_views=4), torch.rand(8, 3, 4, 4, generator=seeded(3)).to(dtype)
    views, config = views_of(prior, 8), VDMConfig(scale=7.5, coefficient=(1.0, 1.0), schedule=MIDDLE)
    ours = VDM(config, prior, lambda x0, t, cameras: x0)(x, views, 0.0, seeded())
    first, second = (
        SDS(SDSConfig(scale=scale, schedule=MIDDLE), prior)(x, views, 0.0, seeded()).gradient for scale in (7.5, 1.0)
    )
    assert first is not None
    assert second is not None
    torch.testing.assert_close(ours.gradient, first - second, atol=tolerance, rtol=tolerance)  # (S - 1) (eps_y - eps)


@DTYPES
@pytest.mark.parametrize("t", [0.25, 0.75])
def test_its_coefficient_is_interpolated_over_t(dtype, tolerance, t):
    prior, x = prior_of(dtype), torch.rand(8, 3, 4, 4, generator=seeded(3)).to(dtype)

    def gradient(coefficient: tuple[float, float]) -> torch.Tensor:
        config = VDMConfig(scale=3.0, coefficient=coefficient, schedule=UniformSchedule(min=t, max=t))
        guided = VDM(config, prior, lambda x0, t, cameras: x0)(x, views_of(prior, 8), 0.0, seeded())
        assert guided.gradient is not None
        return guided.gradient

    a = 0.875 + (0.25 - 0.875) * t
    expected = a * gradient((1.0, 1.0)) + (1 - a) * gradient((0.0, 0.0))
    torch.testing.assert_close(gradient((0.875, 0.25)), expected, atol=tolerance, rtol=tolerance)


@DTYPES
def test_with_coefficient_zero_it_is_sds(dtype, tolerance):
    prior, x = prior_of(dtype), torch.rand(8, 3, 4, 4, generator=seeded(3)).to(dtype)
    views, config = views_of(prior, 8), VDMConfig(scale=3.0, coefficient=(0.0, 0.0))
    ours = VDM(config, prior)(x, views, 0.0, seeded())
    theirs = SDS(SDSConfig(scale=3.0), prior)(x, views, 0.0, seeded())
    torch.testing.assert_close(ours.gradient, theirs.gradient, atol=tolerance, rtol=tolerance)


def test_the_mapping_learns_the_mean_of_renders_given_the_estimate():
    """x0 is affine in x_t, so the lowest loss of a mapping from x0 is the posterior variance of the render."""
    prior, t, mean, std = prior_of(), 0.5, 0.1, 0.6
    views, schedule = views_of(prior, 64), UniformSchedule(min=t, max=t)
    rule = VDM(VDMConfig(schedule=schedule, mapping=MappingConfig(lr=0.005, width=16)), prior)
    generator, losses = seeded(), []
    for _ in range(200):
        x = mean + std * torch.randn(64, 3, 4, 4, generator=generator)
        losses.append(rule(x, views, 0.0, generator).learned().metrics["mapping_loss"])
    best = 0.5 * std**2 / (0.5 * std**2 + 0.5)  # sigma^2 std^2 / D, with alpha^2 = sigma^2 = 1/2
    assert losses[0] > 1.3 * best
    assert sum(losses[-20:]) / 20 == pytest.approx(best, rel=0.08)


def test_the_mapping_depends_on_the_camera():
    prior = prior_of()
    views, rule = views_of(prior, 4), VDM(VDMConfig(mapping=MappingConfig(lr=0.01)), prior)
    x = torch.tensor([0.0, 1.0, 0.0, 1.0]).reshape(4, 1, 1, 1).expand(4, 3, 4, 4).contiguous()
    generator = seeded()
    for _ in range(150):
        rule(x, views, 0.0, generator).learned()
    same = torch.full((4, 3, 4, 4), 0.5)
    with torch.no_grad():
        mapped = rule.mapping(same, torch.full((4,), 0.9), views.cameras).mean(dim=(1, 2, 3))
    torch.testing.assert_close(mapped, x.mean(dim=(1, 2, 3)), atol=0.25, rtol=0)


def test_resuming_changes_nothing():
    prior = prior_of()
    assert resumes_bit_identically(lambda: VDM(VDMConfig(), prior), views_of(prior, 4), torch.rand(4, 3, 4, 4))


def test_queries_of_the_prior_per_view():
    assert queries_of(VDMConfig()) == {"view": 1, "bad": 1}
