"""The inverse depth of a picture by DPT (Ranftl et al. 2021, arXiv:2103.13413) or Depth Anything (Yang et al. 2024,
arXiv:2401.10891; arXiv:2406.09414), run by transformers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sds3d.priors.loading import ModelFiles

KINDS = ("dpt", "depth_anything")
"""Model types whose answer is an inverse depth. Those of others are metres."""
PARTS = ("", "depth_estimator")
"""Where a folder has the network: in itself, or as the part of Stable Diffusion 2's model for depth."""


@dataclass(frozen=True)
class DisparityNetwork:
    """A loaded model.

    network: transformers'. size: height and width of the pictures that it sees. mean, std: (3,) of their colours.
    """

    network: Any
    size: int
    mean: Tensor
    std: Tensor

    @torch.no_grad()
    def estimate(self, rgb: Tensor) -> Tensor:
        """Return the disparity (B, H, W) of pictures (B, H, W, 3), sRGB in [0, 1], in float32.

        It is 1 at the nearest pixel of a picture and 0 at the farthest, and linear in the inverse of the depth along
        the viewing axis, with unknown scale and offset.
        """
        pixels = rgb.permute(0, 3, 1, 2).to(self.mean)
        pixels = functional.interpolate(pixels, (self.size, self.size), mode="bicubic", antialias=True).clamp(0, 1)
        pixels = (pixels - self.mean[:, None, None]) / self.std[:, None, None]
        made = self.network(pixel_values=pixels).predicted_depth.float()  # (B, h, w)
        made = functional.interpolate(made[:, None], rgb.shape[1:3], mode="bicubic", align_corners=False)[:, 0]
        low, high = made.amin(dim=(1, 2), keepdim=True), made.amax(dim=(1, 2), keepdim=True)
        return ((made - low) / (high - low).clamp_min(1e-12)).to(rgb.device)


def disparity_folder(model: str) -> Path | None:
    """Return the folder of a network of these kinds; None for other models."""
    place = Path(model).expanduser()
    for folder in (place / part for part in PARTS):
        try:
            kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
        except (OSError, ValueError, AttributeError):
            continue
        if kind in KINDS:
            return folder.resolve()
    return None


def load_disparity(folder: Path, device: torch.device) -> DisparityNetwork:
    """Load what `disparity_folder` found, in float32: 16 bits have too few steps for a depth.

    Raises PriorError if it is truncated, pickled or of another architecture.
    """
    from transformers import DepthAnythingForDepthEstimation, DPTForDepthEstimation

    files = ModelFiles(str(folder), folder.parent, torch.float32, device)
    classes = dict(zip(KINDS, (DPTForDepthEstimation, DepthAnythingForDepthEstimation), strict=True))
    network = files.network(classes[files.config(folder.name)["model_type"]], folder.name)
    looks = _looks(files, folder.name)
    size = looks.get("size", {}).get("height") or getattr(network.config, "image_size", None) or 384
    mean, std = (
        torch.tensor(looks.get(f"image_{name}", (default,) * 3), dtype=torch.float32, device=device)
        for name, default in (("mean", 0.5), ("std", 0.5))
    )
    return DisparityNetwork(network.eval().requires_grad_(False).to(device), size, mean, std)


def _looks(files: ModelFiles, part: str) -> dict[str, Any]:
    """Return how pictures are prepared: from the network's own folder or from the pipeline's feature extractor."""
    for place in (part, "feature_extractor"):
        if (files.folder / place / "preprocessor_config.json").is_file():
            looks = files.config(place, "preprocessor_config.json")
            size = looks.get("size")
            return looks | ({"size": {"height": size}} if isinstance(size, int) else {})  # files of old versions
    raise files.error(f"{part} has no preprocessor_config.json, which says how pictures are prepared")
