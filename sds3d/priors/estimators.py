"""Depth, normals and materials of a picture by Marigold (Ke et al. 2023, arXiv:2312.02145; arXiv:2505.09358).

These are diffusion models in diffusers' layout, run by diffusers' pipelines. Their results have this project's
conventions, which are those of `reference.depth` and `reference.normal`. `load_estimator` also loads the networks of
`sds3d.priors.disparity` and `sds3d.priors.normals`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor

from sds3d.priors.disparity import disparity_folder, load_disparity
from sds3d.priors.loading import Dtype, ModelFiles, find, pick_dtype, without_bars
from sds3d.priors.normals import NormalsNetwork, normals_folder
from sds3d.rendering.shading import linear_to_srgb

Map = Literal["depth", "disparity", "normal", "albedo", "roughness", "metallic"]
MAPS: tuple[Map, ...] = get_args(Map)

PIPELINES = ("MarigoldDepthPipeline", "MarigoldNormalsPipeline", "MarigoldIntrinsicsPipeline")
CHANNELS: Mapping[str, Map] = {"roughness": "roughness", "metallicity": "metallic"}
"""Maps by the names of the channels of a model's targets. Shading and residual are left out."""


class MapEstimator(Protocol):
    """What reads maps from pictures."""

    @property
    def maps(self) -> tuple[Map, ...]:
        """What it estimates."""
        ...

    def __call__(
        self, rgb: Tensor, seed: int = 0, *, steps: int | None = None, ensemble: int = 1, resolution: int | None = None
    ) -> dict[Map, Tensor]:
        """Estimate the maps of pictures (B, H, W, 3), sRGB in [0, 1], without gradients; see `Estimator`."""
        ...


@dataclass(frozen=True)
class PlainEstimator:
    """A network that answers in one pass and draws no noise: all options are ignored.

    estimate: maps pictures (B, H, W, 3) to their map.
    """

    maps: tuple[Map]
    estimate: Callable[[Tensor], Tensor]

    def __call__(
        self, rgb: Tensor, seed: int = 0, *, steps: int | None = None, ensemble: int = 1, resolution: int | None = None
    ) -> dict[Map, Tensor]:
        """Estimate the map of pictures (B, H, W, 3), see `Estimator`."""
        return {self.maps[0]: self.estimate(rgb)}


@dataclass(frozen=True)
class Estimator:
    """A loaded model. pipeline: diffusers'. maps: what it estimates."""

    pipeline: Any
    maps: tuple[Map, ...]

    @torch.no_grad()
    def __call__(
        self, rgb: Tensor, seed: int = 0, *, steps: int | None = None, ensemble: int = 1, resolution: int | None = None
    ) -> dict[Map, Tensor]:
        """Estimate the maps of pictures (B, H, W, 3), sRGB in [0, 1], at their size, on their device in float32.

        depth: (B, H, W) in [0, 1], 1 nearest and 0 farthest; linear in the distance, with unknown scale and offset.
        disparity: (B, H, W) in [0, 1], likewise, but linear in the inverse of the depth along the viewing axis.
        normal: (B, H, W, 3) unit vectors in the camera's frame, +x right, +y up, +z to the viewer. albedo: (B, H, W, 3)
        sRGB in [0, 1]. roughness, metallic: (B, H, W) in [0, 1].

        seed: of the noise, which is drawn on the CPU. steps: denoising steps; ensemble: estimates that are combined;
        resolution: longest side in pixels that the model sees. None: what the model's folder says.
        """
        made = self.pipeline(
            rgb.permute(0, 3, 1, 2).to(self.pipeline.device, self.pipeline.dtype),
            num_inference_steps=steps,
            ensemble_size=ensemble,
            processing_resolution=resolution,
            generator=torch.Generator().manual_seed(seed),
            output_type="pt",
        ).prediction.float()  # (B T, C, H, W)
        made = made.to(rgb.device).permute(0, 2, 3, 1)
        match type(self.pipeline).__name__:
            case "MarigoldDepthPipeline":
                return {"depth": 1 - made[..., 0]}
            case "MarigoldNormalsPipeline":
                return {"normal": made}
            case _:
                return _materials(made.unflatten(0, (len(rgb), -1)), self.pipeline.target_properties)


def load_estimator(
    model: str, device: torch.device | str = "cpu", dtype: Dtype = "auto", *, offline: bool = True
) -> MapEstimator:
    """Load a Marigold model from a folder, or from the local cache by its id, or from a folder a network of
    `NormalsNetwork` or `DisparityNetwork`.

    offline: never use the network.

    Raises PriorError if the folder is missing, truncated, pickled or of another kind.
    """
    if (folder := normals_folder(model)) is not None:
        return PlainEstimator(("normal",), NormalsNetwork.load(folder).to(device).estimate)
    if (folder := disparity_folder(model)) is not None:
        return PlainEstimator(("disparity",), load_disparity(folder, torch.device(device)).estimate)
    import diffusers
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    device = torch.device(device)
    files = find(model, offline=offline, dtype=pick_dtype(dtype, device), device=device)
    index = files.index()
    kind = str(index.get("_class_name"))
    if kind not in PIPELINES:
        raise files.error(f"its pipeline is {kind}; supported estimators are {', '.join(PIPELINES)}")
    settings = {name: value for name, value in index.items() if name[0] != "_" and not isinstance(value, list)}
    maps = _maps_of(files, kind, settings)
    networks = [files.network(UNet2DConditionModel, "unet"), files.network(AutoencoderKL, "vae")]
    with files.explained(), without_bars():
        scheduler = files.plain(getattr(diffusers, str(index["scheduler"][1])), "scheduler")
        pipeline = getattr(diffusers, kind)(
            *(network.eval().requires_grad_(False) for network in networks),
            scheduler,
            files.text_encoder(CLIPTextModel, "text_encoder"),
            files.plain(CLIPTokenizer, "tokenizer"),
            **settings,
        ).to(device)
    pipeline.set_progress_bar_config(disable=True)
    return Estimator(pipeline, maps)


def _maps_of(files: ModelFiles, kind: str, settings: Mapping[str, Any]) -> tuple[Map, ...]:
    if kind != "MarigoldIntrinsicsPipeline":
        return ("depth",) if kind == "MarigoldDepthPipeline" else ("normal",)
    names = set(_places(settings.get("target_properties") or {}))
    if not names:
        raise files.error("its model_index.json names no targets that are known (albedo, roughness, metallicity)")
    return tuple(name for name in MAPS if name in names)


def _places(properties: Mapping[str, Any]) -> dict[Map, tuple[int, int | None]]:
    """Return target and channel of each map; None: all three channels. properties: `target_properties`."""
    places: dict[Map, tuple[int, int | None]] = {}
    for target, name in enumerate(properties.get("target_names", ())):
        if name == "albedo":
            places["albedo"] = target, None
        for channel, inner in enumerate(properties.get(name, {}).get("sub_target_names", ())):
            if inner in CHANNELS:
                places[CHANNELS[inner]] = target, channel
    return places


def _materials(made: Tensor, properties: Mapping[str, Any]) -> dict[Map, Tensor]:
    """Return the maps in the channels of targets (B, T, H, W, 3)."""
    maps: dict[Map, Tensor] = {}
    for name, (target, channel) in _places(properties).items():
        values = made[:, target]
        if channel is not None:
            values = values[..., channel]
        elif properties[name].get("prediction_space", "srgb") == "linear":
            values = linear_to_srgb(values)
        maps[name] = values
    return maps
