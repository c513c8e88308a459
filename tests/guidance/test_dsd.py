"""DSD, reconstructed from its paper, compared with the rules that it contains as special cases."""

import pytest
import torch

from sds3d.guidance.dsd import DSD, DSDConfig
from sds3d.guidance.sds import SDS, SDSConfig
from sds3d.guidance.variational import VariationalConfig
from sds3d.guidance.vsd import VSD, VSDConfig
from sds3d.priors.gaussian import Gaussian, GaussianPrior
from tests.guidance.exact import DTYPES, seeded
from tests.guidance.queries import queries_of
from tests.guidance.scores import Known, normal, of_points, resumes_bit_identically
from tests.guidance.views import views_of

FROZEN = VariationalConfig(updates=0)


def prior_of(dtype: torch.dtype = torch.float32) -> GaussianPrior:
    return GaussianPrior({"y": Gaussian(0.8, 0.5), "": Gaussian(0.3, 0.9)}, (3, 4, 4), dtype=dtype)


def renders(dtype: torch.dtype) -> torch.Tensor:
    return torch.rand(8, 3, 4, 4, generator=seeded(3)).to(dtype)


@DTYPES
@pytest.mark.parametrize("scale", [1.0, 7.5])
def test_with_the_weights_of_classifier_free_guidance_it_is_vsd(dtype, tolerance, scale):
    prior, x = prior_of(dtype), renders(dtype)
    views, phi = views_of(prior, 8), Known(lambda x_t, t, cond, cameras: normal(prior, 0.1, 0.4, x_t, t))
    ours = DSD(DSDConfig(classifier=scale - 1, variational=FROZEN), prior, phi)(x, views, 0.0, seeded())
    theirs = VSD(VSDConfig(scale=scale, variational=FROZEN), prior, phi)(x, views, 0.0, seeded())
    torch.testing.assert_close(ours.gradient, theirs.gradient, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(ours.x0, theirs.x0, atol=tolerance, rtol=tolerance)


@DTYPES
def test_without_the_domain_part_only_the_classifier_remains(dtype, tolerance):
    prior, x = prior_of(dtype), renders(dtype)
    views, phi = views_of(prior, 8), of_points(prior, x)
    ours = DSD(DSDConfig(classifier=1.0, domain=0.0, variational=FROZEN), prior, phi)(x, views, 0.0, seeded())
    # SDS is linear in its scale, so the difference of two scales is the classifier's part.
    two, one = (SDS(SDSConfig(scale=scale), prior)(x, views, 0.0, seeded()).gradient for scale in (2.0, 1.0))
    assert two is not None
    assert one is not None
    torch.testing.assert_close(ours.gradient, two - one, atol=tolerance, rtol=tolerance)


def test_resuming_changes_nothing():
    prior = prior_of()
    config = DSDConfig(variational=VariationalConfig(lr=0.01))
    assert resumes_bit_identically(lambda: DSD(config, prior), views_of(prior, 4), torch.rand(4, 3, 4, 4))


def test_queries_of_the_prior_per_view():
    assert queries_of(DSDConfig()) == {"view": 1, "bad": 1}
