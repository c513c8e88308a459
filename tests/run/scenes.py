"""A scene and a prior in closed form, for tests of the loop."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sds3d.cameras import CameraConfig, Cameras
from sds3d.geometry.mesh import Mesh
from sds3d.priors.gaussian import Gaussian, GaussianPrior
from sds3d.prompts.prompt import EncodedPrompt, PromptConfig, encode_prompt
from sds3d.representations.base import Rendering, Scene

SIZE = 16
CAMERAS = CameraConfig(views=4, size=SIZE)


class Canvas(Scene):
    """A scene that looks the same from every camera: one picture with one opacity for all pixels."""

    def __init__(self, rgb: float = 0.5, alpha: float = 1.0, lr: float = 0.05) -> None:
        self.rgb = torch.nn.Parameter(torch.full((SIZE, SIZE, 3), rgb))
        self.alpha = torch.nn.Parameter(torch.full((SIZE, SIZE, 1), alpha))
        self.lr = lr

    def render(self, cameras: Cameras, background: Tensor) -> Rendering:
        n = len(cameras)
        rgb = (self.alpha * self.rgb + (1 - self.alpha) * background).expand(n, -1, -1, -1)
        alpha = self.alpha.expand(n, -1, -1, -1)
        return Rendering(rgb, alpha, alpha, rgb)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": [self.rgb], "lr": self.lr}, {"params": [self.alpha], "lr": 0.0}]

    def regularisers(self, rendering: Rendering, progress: float) -> dict[str, Tensor]:
        return {"flat": 0.0 * rendering.rgb.sum()}

    def after_step(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        pass

    def to_mesh(self, resolution: int) -> Mesh:
        raise NotImplementedError("a flat picture has no surface")

    def state_dict(self) -> dict[str, Tensor]:
        return {"rgb": self.rgb.detach().clone(), "alpha": self.alpha.detach().clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        with torch.no_grad():
            self.rgb.copy_(state["rgb"])
            self.alpha.copy_(state["alpha"])


def gaussian_prior(mean: float = 0.7, null: float = 0.4, size: int = SIZE) -> GaussianPrior:
    prompts = {"a ball": Gaussian(mean, 0.2), "": Gaussian(null, 0.2)}
    return GaussianPrior(prompts, shape=(3, size, size))


def encoded(prior: GaussianPrior) -> EncodedPrompt:
    return encode_prompt(prior, "a ball", PromptConfig(view_dependent=False))
