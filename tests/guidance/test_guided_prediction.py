import pytest
import torch
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.guidance.base import draw_noise, guided_prediction, predict_each, rescale_factor, weight
from sds3d.priors.base import Prediction, expand
from sds3d.priors.gaussian import Gaussian, GaussianPrior
from sds3d.prompts.conditioning import Conditioning
from tests.guidance.exact import FlowPrior, exact_prior
from tests.guidance.views import views_of


class PosedGaussian(GaussianPrior):
    """Means that move by cos(azimuth) when a camera is given. The prediction moves with them."""

    def predict(self, x_t: Tensor, t: Tensor, cond: Conditioning, cameras: Cameras | None) -> Prediction:
        if cameras is None:
            return super().predict(x_t, t, cond, cameras)
        shift = expand(torch.deg2rad(cameras.azimuth).cos(), x_t).to(x_t)
        centred = super().predict(x_t - expand(self.alpha(t), x_t) * shift, t, cond, cameras)
        return Prediction(centred.eps, centred.x0 + shift)


def prior(n_views: int = 1, dtype: torch.dtype = torch.float64) -> GaussianPrior:
    prompts = {"y": Gaussian(0.7, 0.5), "": Gaussian(-0.2, 0.9)}
    return GaussianPrior(prompts, (3, 4, 4), n_views=n_views, rho=0.4, dtype=dtype)


def noised(batch: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x_t = torch.randn(batch, 3, 4, 4, generator=generator, dtype=torch.float64)
    return x_t, torch.rand(batch, generator=generator, dtype=torch.float64) * 0.9 + 0.05


@pytest.mark.parametrize("scale", [0.0, 1.0, 7.5])
@pytest.mark.parametrize("n_views", [1, 4])
def test_guidance_is_null_plus_scale_times_difference(scale, n_views):
    teacher = prior(n_views)
    x_t, t = noised(4)
    views = views_of(teacher, 4)
    guided = guided_prediction(teacher, x_t, t, views, scale)
    positive = teacher.predict(x_t, t, views.positive, views.cameras)
    negative = teacher.predict(x_t, t, views.negative, views.cameras)
    torch.testing.assert_close(guided.eps, negative.eps + scale * (positive.eps - negative.eps))
    torch.testing.assert_close(guided.x0, negative.x0 + scale * (positive.x0 - negative.x0))
    torch.testing.assert_close(guided.positive.x0, positive.x0)
    if scale != 1:
        torch.testing.assert_close(guided.negative.eps, negative.eps)


@pytest.mark.parametrize(("scale", "texts"), [(1.0, 1), (2.0, 2)])
def test_without_guidance_the_negative_prompt_is_not_asked(scale, texts, monkeypatch):
    teacher, rows = prior(1), []
    predict = teacher.predict
    monkeypatch.setattr(teacher, "predict", lambda x_t, *told: rows.append(len(x_t)) or predict(x_t, *told))
    x_t, t = noised(4)
    guided = guided_prediction(teacher, x_t, t, views_of(teacher, 4), scale)
    assert rows == [4 * texts]
    assert torch.equal(guided.eps, guided.positive.eps) == (scale == 1)


def test_guidance_leads_away_from_the_negative_prompt():
    prompts = {"y": Gaussian(0.7, 0.5), "": Gaussian(-0.2, 0.9), "bad": Gaussian(1.5, 0.4)}
    teacher, (x_t, t) = GaussianPrior(prompts, (3, 4, 4), dtype=torch.float64), noised(4)
    guided = guided_prediction(teacher, x_t, t, views_of(teacher, 4, negative="bad"), 3.0)
    positive, bad = (teacher.predict(x_t, t, teacher.encode_text([text] * 4), None).eps for text in ("y", "bad"))
    torch.testing.assert_close(guided.eps, bad + 3.0 * (positive - bad))


@pytest.mark.parametrize("rescale", [0.0, 0.5, 1.0])
def test_eps_and_x0_stay_consistent(rescale):
    teacher = prior(4)
    x_t, t = noised(8)
    guided = guided_prediction(teacher, x_t, t, views_of(teacher, 8), 6.0, rescale=rescale)
    alpha, sigma = expand(teacher.alpha(t), x_t), expand(teacher.sigma(t), x_t)
    torch.testing.assert_close(alpha * guided.x0 + sigma * guided.eps, x_t)


def test_rescale_restores_the_spread_of_each_object():
    teacher = prior(4)
    x_t, t = noised(8)
    views = views_of(teacher, 8)
    plain = guided_prediction(teacher, x_t, t, views, 6.0)
    full = guided_prediction(teacher, x_t, t, views, 6.0, rescale=1.0)
    half = guided_prediction(teacher, x_t, t, views, 6.0, rescale=0.5)
    for views_of_object in (slice(0, 4), slice(4, 8)):
        target = plain.positive.x0[views_of_object].std()
        torch.testing.assert_close(full.x0[views_of_object].std(), target)
        assert not torch.isclose(plain.x0[views_of_object].std(), target)
    torch.testing.assert_close(half.x0, (plain.x0 + full.x0) / 2)


def test_rescale_factor_is_joint_over_the_views():
    positive, guided = noised(4)[0], noised(4, seed=1)[0]
    factor = rescale_factor(positive, guided, 2)
    assert factor[0] == factor[1] != factor[2] == factor[3]
    torch.testing.assert_close(factor[0], positive[:2].std() / guided[:2].std())


def test_negative_branch_keeps_the_camera():
    teacher = PosedGaussian({"y": Gaussian(0.7, 0.5), "": Gaussian(-0.2, 0.5)}, (3, 4, 4), dtype=torch.float64)
    views = views_of(teacher, 4)  # azimuths 0, 90, 180, 270
    _, t = noised(4)
    scale = 3.0
    # At the fixed point of equal variances the guided noise of x_t = alpha theta is zero. If the negative branch
    # lost its camera, guidance would amplify the pose: S cos instead of cos.
    pose = torch.deg2rad(views.cameras.azimuth).cos().double()
    fixed_point = (0.7 + (scale - 1) * 0.9 + pose).reshape(4, 1, 1, 1).expand(4, 3, 4, 4)
    x_t = expand(teacher.alpha(t), fixed_point) * fixed_point
    guided = guided_prediction(teacher, x_t, t, views, scale)
    torch.testing.assert_close(guided.eps, torch.zeros_like(x_t), atol=1e-9, rtol=0)


def test_arguments_must_have_equal_numbers_of_rows():
    teacher = prior()
    x_t, t = noised(4)
    views = views_of(teacher, 4)
    with pytest.raises(ValueError, match="one row for each of the 4 views"):
        predict_each(teacher, x_t, t, [views.positive, views.negative[:1]], views.cameras)
    with pytest.raises(ValueError, match="one row for each of the 4 views"):
        predict_each(teacher, x_t, t[:3], [views.positive], views.cameras)


def test_a_batch_must_contain_whole_objects():
    teacher = prior(4)
    x_t, t = noised(8)
    with pytest.raises(ValueError, match="4 views together and got 6"):
        rescale_factor(x_t[:6], x_t[:6], 4)
    assert guided_prediction(teacher, x_t, t, views_of(teacher, 8), 6.0, rescale=0.5).x0.shape == x_t.shape


def test_weights_by_their_definitions():
    teacher = prior()
    t = torch.linspace(0.05, 0.95, 10, dtype=torch.float64)
    alpha = teacher.alpha(t)
    torch.testing.assert_close(weight(teacher, t, "sds"), 1 - alpha**2)
    torch.testing.assert_close(weight(teacher, t, "fantasia3d"), alpha * (1 - alpha**2))
    torch.testing.assert_close(weight(teacher, t, "lambda"), torch.tan(torch.pi * t / 2))
    torch.testing.assert_close(weight(teacher, t, "alpha"), alpha)
    torch.testing.assert_close(weight(teacher, t, "uniform"), torch.ones_like(t))


def test_weights_of_a_rectified_flow():
    teacher, t = exact_prior(kind=FlowPrior), torch.linspace(0.05, 0.95, 10, dtype=torch.float64)
    torch.testing.assert_close(weight(teacher, t, "sds"), t**2)
    torch.testing.assert_close(weight(teacher, t, "fantasia3d"), (1 - t) * t**2)
    torch.testing.assert_close(weight(teacher, t, "lambda"), t / (1 - t))
    torch.testing.assert_close(weight(teacher, t, "alpha"), 1 - t)


def test_noise_follows_the_generator_and_the_dtype():
    x = torch.zeros(2, 3, 4, 4, dtype=torch.float64)
    first, second = (draw_noise(x, torch.Generator().manual_seed(seed)) for seed in (5, 5))
    assert torch.equal(first, second)
    assert first.dtype == torch.float64
    assert not torch.equal(first, draw_noise(x, torch.Generator().manual_seed(6)))
