"""Rewards: how well the renders suit a text and a picture by CLIP, as losses beside any rule (as in VP3D,
arXiv:2403.17001, whose reward models are others).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from sds3d.config import Config, FileName
from sds3d.priors.clip import Clip, load_clip
from sds3d.ramps import Ramp
from sds3d.run.prompt_picture import read_picture_file

Weight = Annotated[Ramp, Field(ge=0)]


class RewardConfig(Config):
    """CLIP's judgement of the renders: 1 minus the cosine of their embeddings to those of a text and of a picture,
    averaged over the views.
    """

    model: str = Field(min_length=1)
    """A folder of transformers' CLIPModel with its tokenizer, in safetensors."""
    text: str = ""
    """The text that the renders shall suit. Empty: the prompt."""
    text_weight: Weight = Ramp(100.0)
    """Weight of the text."""
    image: FileName = ""
    """A PNG, JPEG or WebP picture that the renders shall resemble. Empty: none."""
    image_weight: Weight = Ramp(100.0)
    """Weight of the picture."""
    every: int = Field(default=1, ge=1)
    """Steps from one judgement to the next."""


@dataclass(frozen=True)
class Reward:
    """A loaded reward. picture: (1, D), the picture's unit vector, or None."""

    config: RewardConfig
    clip: Clip
    picture: Tensor | None

    def losses(self, rgb: Tensor, step: int, progress: float) -> dict[str, Tensor]:
        """Return the weighted losses of renders (B, H, W, 3) in [0, 1] by name. step: from 0. progress: 0 to 1."""
        config = self.config
        wanted = {"text": (config.text_weight.at(progress), self.clip.texts)}
        if self.picture is not None:
            wanted["image"] = config.image_weight.at(progress), self.picture
        wanted = {name: pair for name, pair in wanted.items() if pair[0] > 0}
        if step % config.every or not wanted:
            return {}
        seen = self.clip.features(rgb)  # (B, D)
        return {f"reward_{name}": weight * (1 - seen @ like[0]).mean() for name, (weight, like) in wanted.items()}


def load_rewards(configs: Sequence[RewardConfig], prompt: str, device: torch.device) -> tuple[Reward, ...]:
    """Load all rewards. Raises PriorError for a folder, and ConfigError for a picture, that cannot be used."""
    rewards = []
    for index, config in enumerate(configs):
        clip = load_clip(config.model, [config.text or prompt], device)
        picture = read_picture_file(config.image, f"rewards.{index}.image")
        with torch.no_grad():
            seen = None if picture is None else clip.features(picture.to(device))
        rewards.append(Reward(config, clip, seen))
    return tuple(rewards)
