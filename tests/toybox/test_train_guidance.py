"""The adapter for guidance in one call: it starts as the plain model, learns guidance, and halves the work."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sds3d.config import build
from sds3d.files import PriorError
from sds3d.guidance.base import combine, guided_prediction, predict_each
from sds3d.guidance.schedules import UniformSchedule
from sds3d.guidance.sds import SDS, SDSConfig
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.priors.guidance_adapter import GuidanceAdapter
from sds3d.priors.unet_latent import DiffusersPrior
from sds3d.toybox.train_config import TrainConfig
from sds3d.toybox.train_guidance import LEVELS, predicted, relative_error, train_guidance, trajectories
from tests.guidance.exact import seeded
from tests.guidance.views import views_of
from tests.priors.test_diffusers import tiny_pipeline


def silent(*_: object) -> None: ...


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pipeline")
    tiny_pipeline("v_prediction").save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def prior(folder: Path) -> DiffusersPrior:
    loaded = DiffusersConfig(model=str(folder)).load()
    assert isinstance(loaded, DiffusersPrior)
    return loaded


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = build(
        TrainConfig,
        {
            "start_from": str(folder),
            "guidance_objects": 1,
            "guidance_steps": 30,
            "guidance_batch": 2,
            "guidance_rate": 0.05,
        },
    )
    return train_guidance(tmp_path_factory.mktemp("guidance"), config, silent)


def test_points_are_those_of_guided_sampling(prior: DiffusersPrior, tmp_path: Path):
    points = trajectories(tmp_path, prior, 1, 0, silent)
    assert points.x_t.shape == (LEVELS, 1, 4, 16, 16)
    row = 5
    texts = [replace(prior.encode_text(["a"]), hidden=points.text[row : row + 1]), prior.encode_text([""])]
    with torch.no_grad():
        expected = combine(
            *predict_each(prior, points.x_t[row], points.t[row : row + 1], texts, None), points.scale[row]
        )
    torch.testing.assert_close(points.eps[row], expected.eps, atol=1e-5, rtol=1e-5)
    again = trajectories(tmp_path, prior, 1, 0, silent)  # read, not sampled
    assert all(torch.equal(a, b) for a, b in zip(vars(points).values(), vars(again).values(), strict=True))


def test_a_new_adapter_changes_nothing(prior: DiffusersPrior, tmp_path: Path):
    points = trajectories(tmp_path, prior, 1, 0, silent)
    with torch.no_grad():
        ours = predicted(prior, GuidanceAdapter.of(prior.unet), points)
        text = replace(prior.encode_text(["a"] * LEVELS), hidden=points.text)
        theirs = prior.predict(points.x_t[:, 0], points.t, text, None)
    torch.testing.assert_close(ours.eps, theirs.eps, atol=1e-6, rtol=1e-6)


def test_training_brings_the_plain_prediction_towards_the_guided_one(prior: DiffusersPrior, trained: Path):
    """On the trajectory that it saw: the guidance of an untrained network has no rule that others would follow."""
    seen = trajectories(trained.parent / "trajectories", prior, 1, 0, silent)
    with torch.no_grad():
        assert relative_error(prior, GuidanceAdapter.of(prior.unet), seen) == pytest.approx(1.0)
        assert relative_error(prior, GuidanceAdapter.load(trained), seen) < 0.3


def test_a_prior_with_its_adapter_is_asked_once_with_half_the_rows(folder: Path, trained: Path):
    def rows_of(settings: DiffusersConfig, scale: float) -> list[int]:
        prior, rows = settings.load(), []
        prior.network.register_forward_pre_hook(lambda unet, args: rows.append(len(args[0])))
        x = torch.randn(2, 4, 16, 16, generator=seeded(1))
        rule = SDS(SDSConfig(scale=scale, schedule=UniformSchedule(min=0.5, max=0.5)), prior)
        rule(x, views_of(prior, 2, "a red mug"), 0.0, seeded())
        return rows

    assert rows_of(DiffusersConfig(model=str(folder)), 4.0) == [4]
    adapter = DiffusersConfig(model=str(folder), guidance_adapter=str(trained), embedded_guidance=4.0)
    assert rows_of(adapter, 1.0) == [2]


def test_the_scale_is_an_input(folder: Path, trained: Path):
    def predicted_under(scale: float) -> Tensor:
        prior = DiffusersConfig(model=str(folder), guidance_adapter=str(trained), embedded_guidance=scale).load()
        x_t = torch.randn(1, 4, 16, 16, generator=seeded(1))
        return guided_prediction(prior, x_t, torch.tensor([0.5]), views_of(prior, 1, "a red mug"), 1.0).eps

    low, high = predicted_under(2.0), predicted_under(8.0)
    assert (low - high).abs().max() > 1e-4


def test_an_adapter_of_another_model_is_refused(folder: Path, trained: Path, tmp_path: Path):
    given = DiffusersConfig(model=str(folder))
    assert f"the weights `{given.digest()[:12]}`" in (trained / "CARD.md").read_text()
    pipeline = tiny_pipeline("v_prediction")
    torch.nn.init.ones_(pipeline.unet.conv_in.bias)  # of the same sizes, with other weights
    pipeline.save_pretrained(tmp_path / "model")
    GuidanceAdapter([8], 4, given.digest()).save(tmp_path / "other")
    for model, adapter in ((tmp_path / "model", trained), (folder, tmp_path / "other")):
        with pytest.raises(PriorError, match=rf"{adapter.name} was made for another model.*: train one for yours"):
            DiffusersConfig(model=str(model), guidance_adapter=str(adapter)).load()
    with pytest.raises(PriorError, match=r"guidance_adapter: can't read .*none"):
        DiffusersConfig(model=str(folder), guidance_adapter=str(tmp_path / "none")).load()
