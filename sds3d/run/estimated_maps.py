"""Surfaces that follow what an estimator sees in their renders: normals, as in the last stage of DreamPolish (Cheng et
al. 2024, arXiv:2411.01602), depth, as in HiFA (Zhu and Zhuang 2023, arXiv:2305.18766), or materials, in the manner of
MaterialFusion (Litman et al. 2024, arXiv:2409.15273).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.config import Config
from sds3d.files import PriorError
from sds3d.priors.estimators import Map, MapEstimator, load_estimator
from sds3d.ramps import Ramp
from sds3d.representations.base import Rendering
from sds3d.run.references import facing_losses

FOLLOWED: dict[str, tuple[Map, ...]] = {
    "normal": ("normal",),
    "depth": ("disparity", "depth"),
    "material": ("albedo", "roughness", "metallic"),
}
"""By the map that the surface follows, the estimates that serve: of depth the first that there is, of materials all."""
_NAMES = {"normal": "normals", "depth": "depth", "material": "materials"}


class EstimatorConfig(Config):
    """An estimator, whose answer to the renders the surface follows."""

    map: Literal["normal", "depth", "material"] = "normal"
    """normal: the loss is 1 minus the cosine of the angle between the estimator's normals and the surface's, summed
    over a view's opaque pixels and averaged over the views. depth: 1 - r^2, times a view's number of pixels and
    averaged over the views. r is the correlation of both inverse depths over a view's opaque pixels, so that the
    estimate's scale and offset do not matter (HiFA's code). material: 1/2 the squared differences of albedo (sRGB),
    roughness and metallic, as far as the model estimates them, summed over a view's opaque pixels and averaged over
    the views; for meshes with `appearance.material=pbr`."""
    model: str = Field(min_length=1)
    """A folder: of one of Marigold's models for normals, depth or intrinsics (materials); of DPT or Depth Anything,
    alone or as part of Stable Diffusion 2's model for depth; or of a network by sds3d toybox train-normals."""
    weight: Annotated[Ramp, Field(ge=0)] = Ramp(0.1)
    """Weight of the loss, whose unit is that of 1/2 sum |rgb - target|^2 per view. HiFA's code has 0.000625 for depth,
    falling to 0."""
    every: int = Field(default=1, ge=1)
    """Steps from one estimate to the next."""


@dataclass(frozen=True)
class Followed:
    """A loaded estimator."""

    config: EstimatorConfig
    model: MapEstimator

    def losses(self, rendering: Rendering, cameras: Cameras, step: int, progress: float) -> dict[str, Tensor]:
        """Return the weighted loss of B renders by name. step: from 0. progress: 0 to 1."""
        weight = self.config.weight.at(progress)
        if step % self.config.every or not weight:
            return {}
        seen = self.model(rendering.rgb.detach().clamp(0, 1), step)
        if self.config.map == "normal":
            opaque = (rendering.alpha.detach() > 0.5).to(seen["normal"])
            losses = facing_losses(rendering, seen["normal"], opaque, cameras)
            return {"estimated_normals": weight * losses.mean()}
        if self.config.map == "material":
            return {"estimated_material": weight * material_losses(rendering, seen).mean()}
        pixels = rendering.alpha.shape[1] * rendering.alpha.shape[2]
        return {"estimated_depth": weight * pixels * unexplained(rendering, seen, cameras).mean()}


def material_losses(rendering: Rendering, seen: Mapping[Map, Tensor]) -> Tensor:
    """Return 1/2 the squared differences of base colour and material, summed over each view's opaque pixels, (B,).

    seen: albedo (B, H, W, 3), roughness and metallic (B, H, W), as far as they are estimated. Zeros while the render
    shows no material.
    """
    opaque = rendering.alpha.detach()[..., 0] > 0.5
    total = torch.zeros_like(rendering.alpha[:, 0, 0, 0])
    for name in FOLLOWED["material"]:
        own = getattr(rendering, name)
        if name in seen and own is not None:
            error = (own - seen[name].to(own)).square()
            total = total + 0.5 * (opaque * (error.sum(-1) if error.ndim == 4 else error)).sum(dim=(1, 2))
    return total


def unexplained(rendering: Rendering, seen: dict[Map, Tensor], cameras: Cameras) -> Tensor:
    """Return 1 - r^2 of each view, (B,) in [0, 1]: the share of the estimate's variance that the best line through the
    surface's own values leaves over. 1 where fewer than two pixels are opaque.

    r: Pearson's correlation over the pixels that are more than half opaque: of inverse depths along the viewing axis
    for an estimate of disparity, (B, H, W), and of depths themselves for one of depth.
    """
    alpha = rendering.alpha.detach()[..., 0]
    opaque = (alpha > 0.5).to(alpha)
    _, directions = cameras.rays()  # (B, H, W, 3)
    straight = -torch.einsum("bhwi,bi->bhw", directions.to(alpha), cameras.c2w()[:, :3, 2].to(alpha))
    depth = straight * rendering.depth[..., 0] / rendering.alpha[..., 0].clamp_min(1e-3)  # metres along the axis
    ours, theirs = (1 / depth.clamp_min(1e-3), seen["disparity"]) if "disparity" in seen else (-depth, seen["depth"])

    def centred(values: Tensor) -> Tensor:
        mean = (opaque * values).sum(dim=(1, 2)) / opaque.sum(dim=(1, 2)).clamp_min(1)
        return opaque * (values - mean[:, None, None])

    a, b = centred(ours), centred(theirs.to(alpha))
    both, mine, its = ((x * y).sum(dim=(1, 2)) for x, y in ((a, b), (a, a), (b, b)))
    return 1 - both.square() / (mine * its).clamp_min(1e-20)


def load_followed(configs: Sequence[EstimatorConfig], device: torch.device) -> tuple[Followed, ...]:
    """Load all estimators. Raises PriorError for a folder that cannot be used, or whose model estimates other maps."""
    loaded = []
    for config in configs:
        model = load_estimator(config.model, device)
        if not set(FOLLOWED[config.map]) & set(model.maps):
            wanted = _NAMES[config.map]
            raise PriorError(f"{config.model} estimates {', '.join(model.maps)}, not {wanted}: give another model")
        loaded.append(Followed(config, model))
    return tuple(loaded)
