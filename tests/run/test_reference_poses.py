"""The camera of a picture is told by a prior that denoises it best with the right one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from sds3d.cameras import CameraConfig, Cameras, orbit
from sds3d.config import build
from sds3d.priors.base import Prediction
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.prompts.conditioning import Conditioning
from sds3d.run.reference_cameras import SIZE, product, search
from sds3d.run.reference_config import ReferenceConfig
from sds3d.run.reference_pictures import read_view
from sds3d.run.reference_poses import Asked
from sds3d.run.references import References
from tests.run.test_reference_cameras import apart, picture_of, scene_of, toy

CPU = torch.device("cpu")


class Knowing:
    """A prior that denoises perfectly where it is told azimuth 100 and elevation 25, and worse the farther away."""

    device, image_size = CPU, 8

    def encode_image(self, rgb: Tensor) -> Tensor:
        return rgb.permute(0, 3, 1, 2)

    def encode_text(self, prompts: list[str]) -> Conditioning:
        return Conditioning(torch.zeros(len(prompts), 1, 1))

    def alpha(self, t: Tensor) -> Tensor:
        return (1 - t**2).sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def predict_apart(self, x_t: Tensor, t: Tensor, cond: Conditioning, cameras: Cameras) -> Prediction:
        assert len(cond) == len(x_t) == len(cameras)
        eye = torch.nn.functional.normalize(cameras.c2w()[:, :3, 3], dim=1)
        true = torch.nn.functional.normalize(orbit([100.0], 25.0).c2w()[:, :3, 3], dim=1)
        return Prediction(x_t, 0.5 + (eye - true).norm(dim=1)[:, None, None, None].expand_as(x_t))


def test_the_camera_of_the_least_error_is_found() -> None:
    asked = Asked(cast(Any, Knowing()), "a red mug", 2.1, 30.0)
    layers = torch.full((1, 8, 8, 5), 0.5)
    layers[..., 3:] = 1.0
    azimuth, elevation = search(asked.loss(layers), CPU).tolist()
    assert (azimuth, elevation) == (pytest.approx(100, abs=1), pytest.approx(25, abs=1))
    near = search(asked.loss(layers), CPU, near=torch.tensor([108.0, 15.0])).tolist()
    assert near == [pytest.approx(100, abs=2.5), pytest.approx(25, abs=2.5)]


def test_of_several_losses_the_relative_differences_count() -> None:
    """The minimum of a product is where the gradients of the logarithms cancel."""

    def around(azimuth: float, unit: float) -> Any:
        return lambda angles: unit * (1 + ((angles[:, 0] - azimuth) / 20).square() + (angles[:, 1] / 20).square())

    found = [search(product(around(90.0, a), around(110.0, b)), CPU) for a, b in ((1.0, 1.0), (1e-6, 1e3))]
    assert torch.equal(found[0], found[1])
    assert found[0][0].item() == pytest.approx(100, abs=1)


@pytest.mark.slow
def test_the_embedded_prior_knows_where_a_picture_was_taken_from(tmp_path: Path) -> None:
    mesh = toy("cat", 0)
    image = picture_of(mesh, orbit([215.0], 28.0, size=96), tmp_path / "a.png")
    view = read_view(build(ReferenceConfig, {"image": image}), "", 2.1, 30.0)
    found = References([build(ReferenceConfig, {"image": image})], [view])
    found.ask(DiffusersConfig().load(), "a red cat", CameraConfig())
    found.find(scene_of(toy("cat", 1)))
    camera = found.cameras(SIZE)
    assert apart(float(camera.azimuth), 215) < 6
    assert abs(float(camera.elevation) - 28) < 6
