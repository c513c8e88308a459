"""The picture beside a prompt, for priors that take pictures: an IP-Adapter's, or that of a variation model."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from sds3d.config import ConfigError
from sds3d.formats.masks import PictureError, open_picture
from sds3d.priors.base import Prior
from sds3d.prompts.prompt import PromptConfig

KEY = "prompts.image"


def read_prompt_picture(config: PromptConfig) -> Tensor | None:
    """Return the picture of a prompt, see `read_picture_file`."""
    return read_picture_file(config.image, KEY)


def read_picture_file(file: str, key: str) -> Tensor | None:
    """Return a picture (1, H, W, 3), sRGB in [0, 1], white where it is transparent; None for "".

    key: the setting that names it. Raises ConfigError if the file cannot be read.
    """
    if not file:
        return None
    try:
        rgb, alpha = open_picture(Path(file).expanduser())
    except PictureError as error:
        raise ConfigError(f"{key}: {error}") from None
    picture = torch.as_tensor(rgb, dtype=torch.float32)
    if alpha is not None:
        picture = 1 + torch.as_tensor(alpha, dtype=torch.float32)[..., None] * (picture - 1)
    return picture[None]


def embedded(prior: Prior, picture: Tensor | None) -> Tensor | None:
    """Return `Conditioning.pictures` of a picture (1, H, W, 3) for a prior; None if it takes none, or for None."""
    if picture is None or not prior.takes_pictures:
        return None
    return prior.encode_picture(picture.to(prior.device))
