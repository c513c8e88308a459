"""The camera of a picture by the prior alone: it denoises the picture best when it is told the right camera.

That is a classification by a diffusion model (Li et al. 2023, arXiv:2303.16203), with cameras as the classes. No shape
is needed, and a rough one cannot mislead it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.priors.base import add_noise
from sds3d.priors.unet_latent import DiffusersPrior
from sds3d.rendering.resizing import resize
from sds3d.run.reference_pictures import COLOR, MASK

LEVELS = (0.9, 0.8, 0.7)
"""Timesteps at which the picture is denoised. With less noise, the picture itself tells the model the pose."""
DRAWS = 1
"""Draws of the noise at each level, the same for all cameras."""
_GREY = 0.75  # background, in the middle of those of the embedded prior's training
_AT_ONCE = 32  # cameras


@dataclass(frozen=True)
class Asked:
    """A prior that is asked for the cameras of pictures of `prompt`. fovy: of its renders, in degrees; distance: their
    distance in metres.
    """

    prior: DiffusersPrior
    prompt: str
    distance: float
    fovy: float

    def loss(self, layers: Tensor) -> Callable[[Tensor], Tensor]:
        """Return a loss for `search`: the error of the predicted picture, averaged over levels and draws.

        layers: (1, S, S, C) of the picture, see `View`.
        """
        prior, device = self.prior, self.prior.device
        size = prior.image_size
        rgb = resize(layers[..., COLOR] + _GREY * (1 - layers[..., MASK]), size)
        x = prior.encode_image(rgb.to(device))
        text = prior.encode_text([self.prompt])
        generator = torch.Generator().manual_seed(0)
        draws = [(t, torch.randn(x.shape, generator=generator).to(device)) for t in LEVELS for _ in range(DRAWS)]

        def errors(angles: Tensor) -> Tensor:
            count = len(angles)
            distance, fovy = (torch.full((count,), value, device=device) for value in (self.distance, self.fovy))
            cameras = Cameras(angles[:, 0], angles[:, 1].clamp(-89, 89), distance, fovy, size, size)
            clean, cond, total = x.expand(count, -1, -1, -1), text.repeat(count), torch.zeros(count, device=device)
            for level, eps in draws:
                t = torch.full((count,), level, device=device)
                predicted = prior.predict_apart(add_noise(prior, clean, eps.expand_as(clean), t), t, cond, cameras)
                total += (predicted.x0 - clean).square().mean(dim=(1, 2, 3))
            return total / len(draws)

        return lambda angles: torch.cat([errors(some) for some in angles.split(_AT_ONCE)])
