"""The coupled rule, reconstructed from its paper, on a joint Gaussian of four views with known covariance."""

import pytest
import torch
from torch import Tensor

from sds3d.guidance.coupled import Coupled, CoupledConfig
from sds3d.guidance.schedules import UniformSchedule
from sds3d.guidance.variational import VariationalConfig
from sds3d.guidance.vsd import VSD, VSDConfig
from sds3d.priors.base import Prediction
from sds3d.priors.gaussian import Gaussian, GaussianPrior
from tests.guidance.exact import DTYPES, seeded
from tests.guidance.queries import queries_of
from tests.guidance.scores import Known, normal, resumes_bit_identically
from tests.guidance.views import views_of

M, STD, RHO, T = 0.8, 0.5, 0.6, 0.3
FROZEN = VariationalConfig(updates=0)
SINGLE = UniformSchedule(min=T, max=T)


def prior_of(dtype: torch.dtype = torch.float32, n_views: int = 4) -> GaussianPrior:
    return GaussianPrior(
        {"y": Gaussian(M, STD), "": Gaussian(0.3, STD)}, (3, 4, 4), n_views=n_views, rho=RHO * (n_views > 1),
        dtype=dtype,
    )  # fmt: skip


def law(prior: GaussianPrior, image: float, coupling: float) -> tuple[float, float]:
    """Return the two eigenvalues of the covariance of four views at which the rule's gradient is zero.

    The first belongs to the mean over the views, the second to the differences between views. The noised variance
    a_q follows from a weighted mean of precisions, 1 / a_q = (image / d + coupling / a) / (image + coupling), where d
    is the noised variance of single views and a that of the eigenvalue.
    """
    t = torch.tensor(T)  # float32, as in the rule
    alpha, sigma = prior.alpha(t).item(), prior.sigma(t).item()

    def variance(eigenvalue: float) -> float:
        alone, together = (alpha**2 * value + sigma**2 for value in (STD**2, eigenvalue))
        return ((image + coupling) / (image / alone + coupling / together) - sigma**2) / alpha**2

    return variance(STD**2 * (1 + 3 * RHO)), variance(STD**2 * (1 - RHO))


def joint(prior: GaussianPrior, common: float, between: float, mean: float = M) -> Known:
    """Return the exact score of four views.

    common, between: eigenvalues of their covariance, for the mean over the views and for differences between views.
    """

    def known(x_t: Tensor, t: Tensor, cond, cameras) -> Prediction:
        views = x_t.reshape(-1, 4, *x_t.shape[1:])
        middle = views.mean(dim=1, keepdim=True)
        times = t[::4]
        shared = normal(prior, mean, common**0.5, middle[:, 0], times)
        rest = normal(prior, 0.0, between**0.5, (views - middle).flatten(0, 1), t)
        eps = shared.eps[:, None] + rest.eps.reshape(views.shape)
        return Prediction(eps.reshape(x_t.shape), x_t)

    return Known(known)


@DTYPES
@pytest.mark.parametrize(("image", "coupling"), [(0.0, 1.0), (1.0, 0.0), (1.0, 0.5), (1.0, 2.0)])
def test_fixed_point_averages_the_precisions(dtype, tolerance, image, coupling):
    prior, x = prior_of(dtype), torch.rand(8, 3, 4, 4, generator=seeded(3)).to(dtype)
    config = CoupledConfig(scale=1.0, image=image, coupling=coupling, schedule=SINGLE, variational=FROZEN)
    phi = joint(prior, *law(prior, image, coupling))
    gradient = Coupled(config, prior, phi)(x, views_of(prior, 8), 0.0, seeded()).gradient
    torch.testing.assert_close(gradient, torch.zeros_like(x), atol=tolerance, rtol=0)


@pytest.mark.parametrize(("image", "coupling"), [(0.0, 1.0), (1.0, 0.0), (1.0, 1.0)])
def test_only_coupling_makes_views_agree(image, coupling):
    prior, steps = prior_of(), 250
    x = 1.2 * torch.randn(256, 3, 4, 4, generator=seeded(8))
    views, generator = views_of(prior, 256), seeded()
    config = CoupledConfig(
        scale=1.0, image=image, coupling=coupling, schedule=SINGLE, weighting="uniform", variational=FROZEN
    )

    def moments() -> tuple[float, float]:
        """Return both eigenvalues of the current covariance of the views."""
        objects = x.reshape(-1, 4, 48)
        middle = objects.mean(dim=1)
        return 4 * middle.var().item(), 4 / 3 * (objects - middle[:, None]).square().mean().item()

    for step in range(steps):
        common, between = moments()
        rule = Coupled(config, prior, joint(prior, common, between, x.mean().item()))
        gradient = rule(x, views, 0.0, generator).gradient
        assert gradient is not None
        x = x - 0.3 * (1 - 0.9 * step / steps) * gradient
    common, between = moments()
    expected = law(prior, image, coupling)
    assert x.mean().item() == pytest.approx(M, abs=0.03)
    assert common == pytest.approx(expected[0], rel=0.1)
    assert between == pytest.approx(expected[1], rel=0.1)
    correlation = (common - between) / (common + 3 * between)
    assert correlation == pytest.approx((expected[0] - expected[1]) / (expected[0] + 3 * expected[1]), abs=0.03)
    if image == 0:
        assert correlation == pytest.approx(RHO, abs=0.03)
    if coupling == 0:
        assert correlation == pytest.approx(0, abs=0.03)


@DTYPES
def test_with_a_single_view_prior_it_is_vsd_with_both_weights(dtype, tolerance):
    prior, x = prior_of(dtype, n_views=1), torch.rand(4, 3, 4, 4, generator=seeded(3)).to(dtype)
    views, phi = views_of(prior, 4), Known(lambda x_t, t, cond, cameras: normal(prior, 0.1, 0.4, x_t, t))
    ours = Coupled(CoupledConfig(image=1.0, coupling=0.5, variational=FROZEN), prior, phi)(x, views, 0.0, seeded())
    vsd = VSD(VSDConfig(variational=FROZEN), prior, phi)(x, views, 0.0, seeded()).gradient
    assert vsd is not None
    torch.testing.assert_close(ours.gradient, 1.5 * vsd, atol=tolerance, rtol=tolerance)


def test_single_views_use_view_dependent_texts():
    prior = GaussianPrior(
        {"y": Gaussian(M, STD), "y, front view": Gaussian(0.2, STD), "": Gaussian(0.3, STD)}, (3, 4, 4), n_views=4
    )
    views, x = views_of(prior, 4), torch.zeros(4, 3, 4, 4)
    config = CoupledConfig(scale=1.0, coupling=0.0, variational=FROZEN)
    gradient = Coupled(config, prior, joint(prior, STD**2, STD**2))(x, views, 0.0, seeded()).gradient
    assert gradient is not None
    assert gradient[0].abs().min() > 1e-3  # the camera at azimuth 0
    assert gradient[1:].abs().max() < 1e-5


def test_the_views_of_an_object_share_the_timestep():
    prior = prior_of()
    guided = Coupled(CoupledConfig(), prior)(torch.rand(8, 3, 4, 4), views_of(prior, 8), 0.0, seeded())
    assert guided.t[:4].unique().numel() == guided.t[4:].unique().numel() == 1


def test_resuming_changes_nothing():
    prior = prior_of()
    config = CoupledConfig(variational=VariationalConfig(lr=0.01))
    assert resumes_bit_identically(lambda: Coupled(config, prior), views_of(prior, 4), torch.rand(4, 3, 4, 4))


def test_queries_of_the_prior_per_view():
    assert queries_of(CoupledConfig()) == {"view": 2, "bad": 2}
