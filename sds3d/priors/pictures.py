"""Pictures as conditions: CLIP's image encoder, IP-Adapters (Ye et al. 2023, arXiv:2308.06721), and image variations.

An IP-Adapter gives the cross-attention of a U-Net further keys and values, made of a picture. A variation model reads a
picture in place of the text. A row of zeros in `Conditioning.pictures` is no picture, as in diffusers' pipelines.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sds3d.files import PriorError, first_line
from sds3d.priors.loading import ModelFiles
from sds3d.priors.telling import AdapterFiles

ENCODER = "image_encoder"
LAYOUTS = "an IP-Adapter for Stable Diffusion 1.5 or XL (plain, light, plus or full-face)"


@dataclass(frozen=True)
class PictureEncoder:
    """Embeds pictures by CLIP's image encoder, which is loaded for each call and freed after it.

    load: loads the network. processor: resizes and normalises pictures as the network was trained. tokens: whether
    embeddings are all tokens before the last layer (B, T, D), as plus adapters take them, or one projected (B, 1, D).
    """

    load: Callable[[], Any]
    processor: Any
    tokens: bool = False

    @torch.no_grad()
    def __call__(self, rgb: Tensor) -> Tensor:
        """Map pictures (B, H, W, 3) in [0, 1] to embeddings (B, T, D) in float32, from their central squares."""
        pictures = list((255 * rgb.clamp(0, 1)).round().byte().cpu().numpy())
        encoder = self.load()
        pixels = self.processor(images=pictures, return_tensors="pt").pixel_values
        return self._embedded(encoder, pixels)

    @torch.no_grad()
    def null(self) -> Tensor:
        """Return the embedding (1, T, D) that stands for no picture: zeros, or the tokens of a grey picture."""
        encoder = self.load()
        if not self.tokens:
            return torch.zeros(1, 1, encoder.config.projection_dim, device=encoder.device)
        size = encoder.config.image_size
        return self._embedded(encoder, torch.zeros(1, 3, size, size))

    def _embedded(self, encoder: Any, pixels: Tensor) -> Tensor:
        out = encoder(pixels.to(encoder.device, encoder.dtype), output_hidden_states=self.tokens)
        return (out.hidden_states[-2] if self.tokens else out.image_embeds[:, None]).float()


@dataclass(frozen=True)
class Adapter:
    """An IP-Adapter in a U-Net. null: (1, T, D), what its U-Net is told where there is no picture."""

    encoder: PictureEncoder
    null: Tensor

    def embeds(self, pictures: Tensor | None, count: int, dtype: torch.dtype) -> list[Tensor]:
        """Return what the U-Net takes as `image_embeds`, for `Conditioning.pictures` (B, T, D) or None."""
        null = self.null.to(dtype)
        if pictures is None:
            told = null.expand(count, -1, -1)
        else:
            told = torch.where((pictures == 0).flatten(1).all(dim=1)[:, None, None], null, pictures)
        return [told[:, None] if self.encoder.tokens else told]


def load_adapter(wanted: AdapterFiles, files: ModelFiles, unet: Any) -> Adapter:
    """Add an IP-Adapter to a U-Net in place.

    Raises PriorError if the file cannot be used, was made for another U-Net, or if there is no image encoder.
    """
    file = adapter_file(wanted.place)
    state = _weights(file)
    tokens = "proj.weight" not in state["image_proj"]
    config = _encoder_config(wanted, file, files)
    encoder = picture_encoder(config, tokens)
    _check_widths(file, state, unet, config)
    try:
        unet._load_ip_adapter_weights([state])
    except Exception as error:
        raise _unusable(file, f"{first_line(error)} (was it made for this model? it must be {LAYOUTS})") from error
    for processor in unet.attn_processors.values():
        if hasattr(processor, "to_k_ip"):
            processor.scale = [wanted.scale]
    return Adapter(encoder, encoder.null().to(files.device))


def adapter_file(place: str) -> Path:
    """Return the .safetensors file of an IP-Adapter. Raises PriorError."""
    path = Path(place).expanduser()
    found = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if len(found) > 1:
        raise PriorError(
            f"prior.ip_adapter: {place!r} has {len(found)} files; name one, for example {found[0].name!r} in it"
        )
    if not found or found[0].suffix != ".safetensors" or not found[0].is_file():
        raise PriorError(f"prior.ip_adapter: no .safetensors file at {place!r} (pickled weights are not read)")
    return found[0]


def picture_encoder(files: ModelFiles, tokens: bool = False) -> PictureEncoder:
    """Return the encoder in the folder of `files`, whose part is `image_encoder` or the name of the folder."""
    from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

    part = ENCODER if files.has(ENCODER) else files.folder.name
    files = files if files.has(ENCODER) else replace(files, folder=files.folder.parent)
    size = files.config(part)["image_size"]
    if files.has("feature_extractor"):
        processor: Any = files.plain(CLIPImageProcessor, "feature_extractor")
    else:
        processor = CLIPImageProcessor(size=size, crop_size=size)

    def load() -> Any:
        return files.network(CLIPVisionModelWithProjection, part).eval().requires_grad_(False).to(files.device)

    return PictureEncoder(load, processor, tokens)


def _encoder_config(wanted: AdapterFiles, file: Path, files: ModelFiles) -> ModelFiles:
    """Return the files of the image encoder: as wanted, beside the adapter, or in the model's folder."""
    beside = file.parent / ENCODER
    if wanted.encoder:
        folder = Path(wanted.encoder).expanduser()
    elif beside.is_dir():
        folder = beside
    elif files.has(ENCODER):
        return files
    else:
        raise PriorError(
            f"prior.ip_adapter: there is no image encoder at {beside} nor in the model's folder: set "
            "prior.image_encoder to the folder of the one that the adapter was trained with"
        )
    if not (folder / "config.json").is_file():
        raise PriorError(f"prior.image_encoder: {str(folder)!r} has no config.json, so it is no image encoder")
    return replace(files, name=str(folder), folder=folder, checkpoint=None, lora=None)


def _weights(file: Path) -> dict[str, dict[str, Tensor]]:
    from safetensors.torch import load_file

    try:
        flat = load_file(file)
    except Exception as error:
        raise _unusable(file, f"it is truncated or damaged ({first_line(error)})") from error
    parts: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for key, value in flat.items():
        part, _, name = key.partition(".")
        if part in parts:
            parts[part][name] = value
    if not all(parts.values()):
        raise _unusable(file, "it has no layers named image_proj and ip_adapter: give an IP-Adapter's file")
    picture = parts["image_proj"]
    if "perceiver_resampler.proj_in.weight" in picture or ("norm.weight" in picture and "proj.weight" not in picture):
        raise _unusable(file, f"it takes embeddings of faces (FaceID), which are not supported; give {LAYOUTS}")
    if not any(name in picture for name in ("proj.weight", "proj.3.weight", "latents")):
        raise _unusable(file, f"its layout is not known; give {LAYOUTS}")
    return parts


def _check_widths(file: Path, state: dict[str, dict[str, Tensor]], unet: Any, files: ModelFiles) -> None:
    key = next(iter(name for name in state["ip_adapter"] if name.endswith("to_k_ip.weight")), None)
    text = unet.config["cross_attention_dim"]
    made = None if key is None else state["ip_adapter"][key].shape[1]
    if made != text:
        raise _unusable(
            file, f"it was made for a text width of {made}, and this model's is {text}: give one of the same base model"
        )
    picture = state["image_proj"]
    projected = "proj.weight" in picture
    first = picture[next(name for name in ("proj.weight", "proj.0.weight", "proj_in.weight") if name in picture)]
    config = files.config(ENCODER if files.has(ENCODER) else ".")
    width = config["projection_dim" if projected else "hidden_size"]
    if first.shape[1] != width:
        raise _unusable(
            file,
            f"it takes {first.shape[1]} values of an image encoder, and {files.name!r} has {width}: set "
            "prior.image_encoder to the one that it was trained with",
        )


def _unusable(file: Path, reason: str) -> PriorError:
    return PriorError(f"can't load the IP-Adapter {str(file)!r}: {reason}")
