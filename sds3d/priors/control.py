"""ControlNets (Zhang et al. 2023, arXiv:2302.05543): a U-Net that is told depth, normals or edges of the render.

The pictures of the conditions are those that the published networks were trained on: depth as disparity from black
(far) to white (near), normals in the colours of their estimator, Canny's edges in white on black.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sds3d.files import PriorError
from sds3d.priors.loading import ModelFiles
from sds3d.priors.network import frozen
from sds3d.priors.telling import ControlNetConfig, Kind
from sds3d.prompts.conditioning import Structure
from sds3d.rendering.resizing import resize_planes

LOW, HIGH = 100, 200
"""Canny's thresholds, of gradients of pictures in 0 to 255, as in the examples of the published networks."""
LENGTH = 64
"""Pixels that a weak edge may continue a strong one."""


@dataclass(frozen=True)
class Control:
    """A loaded ControlNet."""

    network: Any
    kind: Kind
    scale: float


def load_control(config: ControlNetConfig, files: ModelFiles, unet: Any) -> Control:
    """Load a ControlNet for a U-Net. Raises PriorError if the folder cannot be used or is made for another U-Net."""
    from diffusers import ControlNetModel

    folder = control_folder(config.model)
    mine = replace(files, name=config.model, folder=folder.parent, lora=None, checkpoint=None)
    given, own = mine.config(folder.name), unet.config
    if (kind := given.get("_class_name")) != "ControlNetModel":
        raise mine.error(f"it is a {kind}; supported is ControlNetModel")
    for name, told in (("cross_attention_dim", "text width"), ("in_channels", "channels")):
        if given.get(name) != own[name]:
            raise mine.error(
                f"it was made for a U-Net with {told} {given.get(name)}, and this one has {own[name]}: give one of the "
                "same base model"
            )
    if list(given["block_out_channels"]) != list(own["block_out_channels"]):
        raise mine.error("it was made for a U-Net with other blocks: give one of the same base model")
    if given.get("conditioning_channels", 3) != 3:
        raise mine.error(f"it takes {given['conditioning_channels']} channels, and supported are 3")
    network = mine.ready(mine.network(ControlNetModel, folder.name), folder.name)
    return Control(frozen(network, files.device, torch.channels_last), config.kind, config.scale)


def control_folder(place: str) -> Path:
    """Return the folder of a ControlNet. Raises PriorError if there is none."""
    folder = Path(place).expanduser().resolve()
    if not (folder / "config.json").is_file():
        raise PriorError(f"prior.controlnets: {place!r} has no config.json, so it is no ControlNet's folder")
    return folder


def residuals(
    controls: Sequence[Control], x_t: Tensor, timestep: Tensor, text: Tensor, structure: Structure, further: Any
) -> dict[str, Any]:
    """Return what the ControlNets add to a U-Net, as arguments of its call; the sum of all.

    x_t: (B, C, h, w). text: (B, L, D). further: `added_cond_kwargs` of the U-Net.
    """
    down: list[Tensor] = []
    middle: Tensor | None = None
    for control in controls:
        scales = len(control.network.config["conditioning_embedding_out_channels"]) - 1
        picture = control_picture(structure, control.kind, x_t.shape[-1] * 2**scales)
        one, last = control.network(
            x_t,
            timestep,
            encoder_hidden_states=text,
            controlnet_cond=picture.to(x_t),
            conditioning_scale=control.scale,
            added_cond_kwargs=further,
            return_dict=False,
        )
        down = [a + b for a, b in zip(down, one, strict=True)] if down else list(one)
        middle = last if middle is None else middle + last
    return {"down_block_additional_residuals": tuple(down), "mid_block_additional_residual": middle}


@torch.no_grad()
def control_picture(structure: Structure, kind: Kind, size: int) -> Tensor:
    """Return the picture of a condition, (B, 3, size, size) in [0, 1]."""
    depth, alpha = structure.depth[:, None].float(), structure.alpha[:, None].float()  # (B, 1, H, W)
    normal = structure.normal.permute(0, 3, 1, 2).float()  # (B, 3, H, W)
    depth, alpha, normal = (resize_planes(maps, size) for maps in (depth, alpha, normal))
    match kind:
        case "depth":
            return depth.clamp(0, 1).expand(-1, 3, -1, -1)
        case "normal":
            return _colors(normal, alpha)
        case "canny":
            return canny(torch.cat([_colors(normal, alpha), depth], dim=1)).expand(-1, 3, -1, -1)


def _colors(normal: Tensor, alpha: Tensor) -> Tensor:
    """Return normals as colours: red left, green up, blue to the viewer, and so is a wall behind the object."""
    length = normal.norm(dim=1, keepdim=True).clamp_min(1e-6)
    x, y, z = (alpha * normal / length).unbind(dim=1)
    return (torch.stack([-x, y, z + 1 - alpha[:, 0]], dim=1) / 2 + 0.5).clamp(0, 1)


@torch.no_grad()
def canny(pictures: Tensor, low: float = LOW, high: float = HIGH) -> Tensor:
    """Return edges (B, 1, H, W), 0 or 1, of pictures (B, C, H, W) in [0, 1] (Canny 1986), with OpenCV's conventions.

    Gradients are Sobel's of bytes, |dx| + |dy|, of the channel where they are largest. low, high: thresholds of weak
    and strong edges. A weak edge counts if a strong one is within `LENGTH` pixels along it; OpenCV follows it further.
    Nothing is read from the device.
    """
    bytes_ = functional.pad((255 * pictures.float().clamp(0, 1)).round(), (1, 1, 1, 1), mode="replicate")
    columns = bytes_[..., :-2, :] + 2 * bytes_[..., 1:-1, :] + bytes_[..., 2:, :]  # (B, C, H, W + 2), whole numbers
    rows = bytes_[..., :-2] + 2 * bytes_[..., 1:-1] + bytes_[..., 2:]  # (B, C, H + 2, W)
    gradients = torch.stack([columns[..., 2:] - columns[..., :-2], rows[..., 2:, :] - rows[..., :-2, :]], dim=2)
    largest = gradients.abs().sum(dim=2).argmax(dim=1)[:, None, None]  # (B, 1, 1, H, W), the first of equal channels
    dx, dy = gradients.gather(1, largest.expand(-1, 1, 2, -1, -1))[:, 0].unbind(dim=1)  # (B, H, W) each
    size = dx.abs() + dy.abs()
    padded = functional.pad(size, (1, 1, 1, 1))

    def beside(right: int, down: int) -> Tensor:
        height, width = size.shape[-2:]
        return padded[:, 1 + down : 1 + down + height, 1 + right : 1 + right + width]

    flat = dy.abs() < math.tan(math.pi / 8) * dx.abs()
    steep = dy.abs() > math.tan(3 * math.pi / 8) * dx.abs()
    along = flat & (size > beside(-1, 0)) & (size >= beside(1, 0))
    along |= steep & (size > beside(0, -1)) & (size >= beside(0, 1))
    falling = dx * dy >= 0
    slanted = torch.where(
        falling,
        (size > beside(-1, -1)) & (size > beside(1, 1)),
        (size > beside(1, -1)) & (size > beside(-1, 1)),
    )
    weak = (along | (~flat & ~steep & slanted)) & (size > low)
    weak = weak[:, None].float()
    edges = weak * (size > high)[:, None]
    for _ in range(LENGTH):
        edges = weak * functional.max_pool2d(edges, 3, stride=1, padding=1)
    return edges
