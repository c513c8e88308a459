"""CLIP (Radford et al. 2021, arXiv:2103.00020): how well a picture suits a text or another picture, differentiable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sds3d.files import PriorError
from sds3d.priors.loading import ModelFiles, pick_dtype
from sds3d.priors.texts import tokens_of


@dataclass(frozen=True)
class Clip:
    """CLIP's frozen image encoder.

    vision, projection: its networks, on the device. size: side of the pictures that it sees. mean, std: (3,) of their
    colours. texts: (n, D) unit vectors of the texts that it was loaded with.
    """

    vision: Any
    projection: Any
    size: int
    mean: Tensor
    std: Tensor
    texts: Tensor

    def features(self, rgb: Tensor) -> Tensor:
        """Map pictures (B, H, W, 3) in [0, 1] to unit vectors (B, D) in float32; differentiable. Pictures that are not
        square are squeezed."""
        pixels = rgb.permute(0, 3, 1, 2)
        if pixels.shape[-2:] != (self.size, self.size):
            pixels = functional.interpolate(pixels, (self.size, self.size), mode="bicubic", antialias=True).clamp(0, 1)
        pixels = (pixels - self.mean[:, None, None]) / self.std[:, None, None]
        pooled = self.vision(pixel_values=pixels.to(self.projection.weight.dtype)).pooler_output
        return functional.normalize(self.projection(pooled).float(), dim=-1)


def clip_folder(place: str) -> Path:
    """Return the folder of a CLIPModel. Raises PriorError if it is none."""
    folder = Path(place).expanduser().resolve()
    if not (folder / "config.json").is_file():
        raise PriorError(f"can't load the reward {place!r}: it has no config.json, so it is no CLIPModel's folder")
    return folder


def load_clip(place: str, texts: Sequence[str], device: torch.device | str) -> Clip:
    """Load a folder of CLIPModel with its tokenizer, and embed texts. The text encoder is freed.

    Raises PriorError if the folder cannot be used.
    """
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

    device = torch.device(device)
    folder = clip_folder(place)
    files = ModelFiles(place, folder.parent, pick_dtype("auto", device), device)
    if (kind := files.config(folder.name).get("model_type")) != "clip":
        raise files.error(f"its model_type is {kind}; supported is clip")
    network = files.network(CLIPModel, folder.name).eval().requires_grad_(False).to(device)
    size = network.config.vision_config.image_size
    looks: Any = CLIPImageProcessor(size=size, crop_size=size)
    if (folder / "preprocessor_config.json").is_file():
        looks = files.plain(CLIPImageProcessor, folder.name)
    tokenizer: Any = files.plain(CLIPTokenizer, folder.name)
    length = min(tokenizer.model_max_length, network.config.text_config.max_position_embeddings)
    with torch.no_grad():
        tokens = [tokens_of(tokenizer, text, length) for text in texts]
        pooled = [
            network.text_model(one.input_ids.to(device), one.attention_mask.to(device)).pooler_output for one in tokens
        ]
        rows = [functional.normalize(network.text_projection(one).float(), dim=-1) for one in pooled]
    mean, std = (torch.tensor(values, device=device) for values in (looks.image_mean, looks.image_std))
    return Clip(network.vision_model, network.visual_projection, size, mean, std, torch.cat(rows))
