"""Settings of what a model is told besides a text: files of IP-Adapters and ControlNets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from sds3d.config import Config

Kind = Literal["depth", "normal", "canny"]


@dataclass(frozen=True)
class AdapterFiles:
    """An IP-Adapter's file, and its image encoder.

    place: a .safetensors file, or a folder with one such file. encoder: a folder of CLIPVisionModelWithProjection;
    empty: `image_encoder` beside the file, else that of the model. scale: factor on what the adapter adds.
    """

    place: str
    encoder: str = ""
    scale: float = 1.0


class ControlNetConfig(Config):
    """A ControlNet: its files, and what it is told of the render."""

    model: str
    """A folder with config.json and safetensors of a ControlNetModel, made for the same base model as the prior."""
    kind: Kind
    """The picture that it takes: depth, normal (of ControlNet 1.1: blue to the viewer, red left, green up), or canny,
    the edges of the shape's depth and normals."""
    scale: float = Field(default=1.0, ge=0.0)
    """Factor on what it adds to the U-Net."""
