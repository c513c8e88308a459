import pytest
import torch

from sds3d.guidance.multiview import MultiView, MultiViewConfig
from sds3d.guidance.schedules import UniformSchedule
from sds3d.guidance.sds import SDS, SDSConfig
from sds3d.priors.gaussian import Gaussian, GaussianPrior
from tests.guidance.exact import ExactPrior, seeded
from tests.guidance.queries import queries_of
from tests.guidance.views import views_of


def joint_prior(dtype: torch.dtype = torch.float32) -> ExactPrior:
    ramp = torch.linspace(0.2, 0.8, 3 * 8 * 8).reshape(3, 8, 8)
    return ExactPrior({"y": Gaussian(ramp, 0.3), "": Gaussian(0.5, 0.4)}, n_views=4, rho=0.6, dtype=dtype)


@pytest.mark.parametrize("rescale", [0.0, 0.5])
def test_latent_reconstruction_is_sds_weighted_by_sigma_over_alpha(rescale):
    prior = joint_prior(torch.float64)
    views, x = views_of(prior, 8), torch.rand(8, 3, 8, 8, generator=seeded(3), dtype=torch.float64)
    schedule = UniformSchedule()
    recon = MultiView(MultiViewConfig(space="latent", rescale=rescale, schedule=schedule), prior)
    sds = SDS(SDSConfig(scale=6.0, weighting="lambda", rescale=rescale, schedule=schedule), prior)
    first, second = recon(x, views, 0.0, seeded()), sds(x, views, 0.0, seeded())
    torch.testing.assert_close(first.gradient, second.gradient, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(first.x0, second.x0)
    assert first.gradient is not None
    assert first.x0 is not None
    assert first.image_target is None
    torch.testing.assert_close(first.gradient, x - first.x0)


def test_image_target_is_the_decoded_estimate():
    prior = joint_prior()
    views, x = views_of(prior, 8), torch.rand(8, 3, 8, 8, generator=seeded(3))
    latent = MultiView(MultiViewConfig(space="latent"), prior)(x, views, 0.5, seeded())
    image = MultiView(MultiViewConfig(), prior)(x, views, 0.5, seeded())
    assert image.gradient is None
    assert image.image_target is not None
    assert latent.x0 is not None
    assert torch.equal(image.image_target, latent.x0.permute(0, 2, 3, 1).clamp(0, 1))
    assert torch.equal(image.t, latent.t)
    assert not image.image_target.requires_grad


def test_views_of_an_object_share_noise_level_and_anneal():
    prior = joint_prior()
    rule, views, x = MultiView(MultiViewConfig(), prior), views_of(prior, 8), torch.rand(8, 3, 8, 8)
    for progress, low, high in ((0.0, 0.6, 0.98), (0.85, 0.05, 0.45), (1.0, 0.05, 0.45)):
        t = rule(x, views, progress, seeded()).t
        assert low <= t.min() <= t.max() <= high
        assert t[:4].unique().numel() == t[4:].unique().numel() == 1


def test_following_the_estimate_leads_to_the_mean():
    prior = joint_prior()
    rule = MultiView(MultiViewConfig(space="latent", scale=1.0, rescale=0.0), prior)
    views, generator = views_of(prior, 4), seeded()
    x = torch.rand(4, 3, 8, 8, generator=generator)
    for step in range(200):
        gradient = rule(x, views, step / 199, generator).gradient
        assert gradient is not None
        x = x - 0.1 * gradient
    mean = prior.encode_text(["y"]).hidden[0, :, 0].reshape(3, 8, 8)
    assert (x - mean).square().mean().sqrt() < 0.1
    assert (x.mean(dim=(0, 1)) - mean.mean(dim=0)).abs().mean() < 0.05


def test_a_single_view_prior_works():
    prior = GaussianPrior({"y": Gaussian(0.5, 0.3), "": Gaussian(0.5, 0.4)})
    guided = MultiView(MultiViewConfig(), prior)(torch.rand(3, 3, 8, 8), views_of(prior, 3), 0.0, seeded())
    assert guided.t.unique().numel() == 3


def test_one_seed_one_target():
    prior = joint_prior()
    rule, views, x = MultiView(MultiViewConfig(), prior), views_of(prior, 4), torch.full((4, 3, 8, 8), 0.5)
    first, again, other = (rule(x, views, 0.0, seeded(seed)).image_target for seed in (1, 1, 2))
    assert first is not None
    assert again is not None
    assert other is not None
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert rule.state_dict() == {}


def test_queries_of_the_prior_per_view():
    assert queries_of(MultiViewConfig()) == {"view": 1, "bad": 1}
