"""Adding and removing Gaussians while they are optimised.

Each strategy is a pure function: it takes the Gaussians and the recorded pull, and returns an `Edit`. `apply_edit`
applies the edit to the parameters and to Adam's moments.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from sds3d.config import Config
from sds3d.rendering.splatting import rotation_matrices

Splats = Mapping[str, Tensor]
"""Pre-activations by name: means (N, 3), quats (N, 4), scales (N, 3) as logarithms, opacities (N,) as logits, and any
others with N rows."""


class FixedCountConfig(Config):
    """Keep the number of Gaussians: none is added or removed."""

    name: Literal["fixed"] = "fixed"


class AdaptiveConfig(Config):
    """Adaptive density control (Kerbl et al. 2023, arXiv:2308.04079, sec. 5): clone or split Gaussians with large
    gradients."""

    name: Literal["adaptive"] = "adaptive"
    start: float = Field(default=0.1, ge=0, le=1)
    """Share of the run after which it begins."""
    until: float = Field(default=0.6, ge=0, le=1)
    """Share of the run after which it ends."""
    every: int = Field(default=20, ge=1)
    """Steps between two edits."""
    threshold: float = Field(default=0.02, gt=0)
    """Mean gradient of a Gaussian's position in the picture, in half-pictures, above which it is cloned or split."""
    large: float = Field(default=0.03, gt=0)
    """Largest standard deviation in metres above which a Gaussian is split, and otherwise cloned."""
    largest: float | None = Field(default=None, gt=0)
    """Largest standard deviation in metres above which a Gaussian is removed; null: none is. The code of Gaussian
    splatting has a tenth of the scene's size. Its limit on the size in pictures has no effect: it forgets these sizes
    before it compares them."""
    prune: float = Field(default=0.01, gt=0, lt=1)
    """Opacity under which a Gaussian is removed."""
    reset_every: int = Field(default=0, ge=0)
    """Steps between two resets of all opacities to 0.01; 0: no resets."""
    limit: int = Field(default=20_000, ge=1, le=10_000_000)
    """Largest number of Gaussians."""


class DistillationConfig(Config):
    """Split the Gaussians with the largest gradients, a fixed share each time: for score distillation.

    The gradients of score distillation are noisy and of any scale. With a fixed threshold, as for photographs, a change
    of the guidance scale would split all Gaussians or none.
    """

    name: Literal["distillation"] = "distillation"
    start: float = Field(default=0.1, ge=0, le=1)
    """Share of the run after which it begins."""
    until: float = Field(default=0.7, ge=0, le=1)
    """Share of the run after which it ends."""
    every: int = Field(default=20, ge=1)
    """Steps between two edits."""
    share: float = Field(default=0.1, gt=0, le=1)
    """Share of the Gaussians that are cloned or split in each edit."""
    large: float = Field(default=0.03, gt=0)
    """Largest standard deviation in metres above which a Gaussian is split, and otherwise cloned."""
    prune: float = Field(default=0.02, gt=0, lt=1)
    """Opacity under which a Gaussian is removed."""
    limit: int = Field(default=12_000, ge=1, le=10_000_000)
    """Largest number of Gaussians."""


class MCMCConfig(Config):
    """3D Gaussians as samples (Kheradmand et al. 2024, arXiv:2404.09591): transparent Gaussians move onto opaque ones,
    and noise moves all of them a little."""

    name: Literal["mcmc"] = "mcmc"
    start: float = Field(default=0.05, ge=0, le=1)
    """Share of the run after which it begins."""
    until: float = Field(default=0.8, ge=0, le=1)
    """Share of the run after which relocation and growth end."""
    every: int = Field(default=20, ge=1)
    """Steps between two relocations."""
    growth: float = Field(default=0.05, ge=0)
    """Number of Gaussians added at each relocation, as a share of their present number."""
    dead: float = Field(default=0.005, gt=0, lt=1)
    """Opacity below which a Gaussian is moved onto another."""
    noise: float = Field(default=5e5, ge=0)
    """Strength of the noise, as a factor on the learning rate of the means."""
    limit: int = Field(default=12_000, ge=1, le=10_000_000)
    """Largest number of Gaussians."""


DensifyConfig = Annotated[
    FixedCountConfig | AdaptiveConfig | DistillationConfig | MCMCConfig, Field(discriminator="name")
]


@dataclass(frozen=True)
class Edit:
    """The Gaussians after an edit.

    source: (M,) index of the old Gaussian that each new one is a copy of. fresh: (M,) bool, whether Adam's moments of
    the copy are reset. values: rows (M, ...) that replace the copied ones, by parameter.
    """

    source: Tensor
    fresh: Tensor
    values: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Pull:
    """The gradients of the Gaussians' positions in the pictures since the last edit.

    total: (N,) lengths of d loss/d means2d in half-pictures, summed over the views that show the Gaussian.
    views: (N,) number of these views.
    """

    total: Tensor
    views: Tensor

    @classmethod
    def none(cls, n: int, device: torch.device | str = "cpu") -> Pull:
        """Nothing recorded yet for n Gaussians."""
        return cls(torch.zeros(n, device=device), torch.zeros(n, device=device))

    def note(self, gradient: Tensor, radii: Tensor, width: int, height: int) -> None:
        """Add a step: gradient (C, N, 2) of means2d, radii (C, N, 2)."""
        halves = torch.cat([gradient[..., :1] * (width / 2), gradient[..., 1:] * (height / 2)], dim=-1)
        length = halves.norm(dim=-1) * len(gradient)  # (C, N); the loss is a mean over the views
        seen = radii[..., 0] > 0
        self.total += (length * seen).sum(0)
        self.views += seen.sum(0)

    @property
    def mean(self) -> Tensor:
        """(N,) mean length over the views that show a Gaussian."""
        return self.total / self.views.clamp(min=1)


def due(config: DensifyConfig, step: int, progress: float) -> bool:
    """Return whether an edit follows this step. step: 0-based. progress: share of the run that is done."""
    if isinstance(config, FixedCountConfig):
        return False
    return config.start <= progress < config.until and (step + 1) % config.every == 0


def densify(config: DensifyConfig, splats: Splats, pull: Pull, step: int, generator: torch.Generator) -> Edit | None:
    """Return the edit after a step at which one is `due`; None if nothing changes."""
    match config:
        case AdaptiveConfig():
            return adaptive(config, splats, pull, step, generator)
        case DistillationConfig():
            return distillation(config, splats, pull, generator)
        case MCMCConfig():
            return relocation(config, splats, generator)
        case FixedCountConfig():
            return None


def adaptive(config: AdaptiveConfig, splats: Splats, pull: Pull, step: int, generator: torch.Generator) -> Edit:
    """Clone small and split large Gaussians with gradients above the threshold; prune transparent and huge ones."""
    edit = _grow(splats, pull.mean > config.threshold, pull, config.large, config.prune, config.limit, generator)
    if config.largest is not None:
        edit = _without_huge(edit, math.log(config.largest))
    if config.reset_every and (step + 1) % config.reset_every < config.every:
        opacities = edit.values.get("opacities", splats["opacities"][edit.source])
        edit.values["opacities"] = opacities.clamp(max=math.log(0.01 / 0.99))
        return Edit(edit.source, torch.ones_like(edit.fresh), edit.values)
    return edit


def distillation(config: DistillationConfig, splats: Splats, pull: Pull, generator: torch.Generator) -> Edit:
    """Clone or split the share with the largest gradients; prune transparent ones."""
    count = max(1, round(config.share * len(pull.total)))
    chosen = torch.zeros_like(pull.total, dtype=torch.bool)
    chosen[pull.mean.topk(count).indices] = True
    return _grow(splats, chosen & (pull.total > 0), pull, config.large, config.prune, config.limit, generator)


def _grow(
    splats: Splats, chosen: Tensor, pull: Pull, large: float, prune: float, limit: int, generator: torch.Generator
) -> Edit:
    """Split or clone the chosen Gaussians, those with the largest gradients first, up to `limit`; prune transparent
    ones."""
    device = chosen.device
    solid = torch.sigmoid(splats["opacities"]) >= prune
    if not solid.any():  # a thin scene is better than none
        solid[splats["opacities"].argmax()] = True
    chosen = chosen & solid
    room = max(limit - int(solid.sum()), 0)
    picked = chosen.nonzero()[:, 0]
    picked = picked[pull.mean[picked].argsort(descending=True, stable=True)[:room]]
    split = splats["scales"][picked].amax(-1) > math.log(large)
    kept = solid.clone()
    kept[picked[split]] = False  # two halves take its place
    old, halves = kept.nonzero()[:, 0], picked[split].repeat(2)
    source = torch.cat([old, picked[~split], halves])
    fresh = torch.cat([torch.zeros(len(old), dtype=torch.bool), torch.ones(len(source) - len(old), dtype=torch.bool)])
    means, scales = splats["means"][source].clone(), splats["scales"][source].clone()
    first = len(source) - len(halves)
    noise = torch.randn(len(halves), 3, generator=generator).to(device) * splats["scales"][halves].exp()
    means[first:] += (rotation_matrices(splats["quats"][halves]) @ noise[..., None])[..., 0]
    scales[first:] -= math.log(1.6)
    return Edit(source, fresh.to(device), {"means": means, "scales": scales})


def _without_huge(edit: Edit, limit: float) -> Edit:
    """Leave out Gaussians whose largest scale, a logarithm, is above the limit, unless all are."""
    kept = edit.values["scales"].amax(-1) <= limit
    if not kept.any():
        return edit
    return Edit(edit.source[kept], edit.fresh[kept], {name: rows[kept] for name, rows in edit.values.items()})


def relocation(config: MCMCConfig, splats: Splats, generator: torch.Generator) -> Edit | None:
    """Move dead Gaussians onto living ones, drawn by opacity, and add some. The scene looks the same afterwards."""
    opacity = torch.sigmoid(splats["opacities"])
    n = len(opacity)
    dead = (opacity <= config.dead).nonzero()[:, 0]
    added = max(min(int(n * config.growth), config.limit - n), 0)
    alive = torch.where(opacity > config.dead, opacity, 0.0)
    if len(dead) + added == 0 or not (alive > 0).any():
        return None
    drawn = torch.multinomial(alive.cpu(), len(dead) + added, replacement=True, generator=generator).to(dead.device)
    source = torch.arange(n + added, device=dead.device)
    source[dead], source[n:] = drawn[: len(dead)], drawn[len(dead) :]
    copies = torch.bincount(source, minlength=n)[source]  # (M,) number of Gaussians at the same place
    shared = copies > 1
    opacities, scales = split_in_place(opacity[source], splats["scales"][source].exp(), copies)
    values = {
        "opacities": torch.where(shared, torch.logit(opacities, eps=1e-6), splats["opacities"][source]),
        "scales": torch.where(shared[:, None], scales.log(), splats["scales"][source]),
    }
    return Edit(source, shared, values)


def split_in_place(opacity: Tensor, scale: Tensor, copies: Tensor) -> tuple[Tensor, Tensor]:
    """Return opacity (M,) and scales (M, 3) of each of `copies` (M,) equal Gaussians that replace one (eq. 9).

    Together they look like the one: they have its opacity at the centre and its integral of opacity along a line.
    """
    most = int(copies.max())
    new = 1 - (1 - opacity) ** (1 / copies.to(opacity))
    total = torch.zeros_like(opacity)
    # sum over i = 1..N and k = 0..i-1 of binom(i-1, k) (-1)^k / sqrt(k+1) new^(k+1)
    for i in range(1, min(most, 51) + 1):
        for k in range(i):
            term = math.comb(i - 1, k) * (-1) ** k / math.sqrt(k + 1) * new ** (k + 1)
            total = total + torch.where(copies.clamp(max=51) >= i, term, 0.0)
    return new.clamp(0.005, 1 - 1e-6), scale * (opacity / total)[:, None]


def shake(config: MCMCConfig, splats: Splats, rate: float, generator: torch.Generator) -> Tensor:
    """Return random moves (N, 3) of the means in metres (eq. 8), along each Gaussian's axes.

    Transparent Gaussians move farther than opaque ones.
    """
    opacity = torch.sigmoid(splats["opacities"])
    axes = rotation_matrices(splats["quats"]) * splats["scales"].exp()[:, None]  # (N, 3, 3)
    covariance = axes @ axes.transpose(1, 2)
    noise = torch.randn(len(opacity), 3, generator=generator).to(opacity)
    free = torch.sigmoid(100 * ((1 - opacity) - 0.995))  # 0.6 at opacity 0, 0.01 at 0.05
    return (covariance @ (noise * free[:, None] * (rate * config.noise))[..., None])[..., 0]


def apply_edit(
    edit: Edit, parameters: Mapping[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer
) -> dict[str, torch.nn.Parameter]:
    """Return the new parameters after an edit. They replace the old ones in the optimiser and keep their moments."""
    result = {}
    for name, old in parameters.items():
        rows = edit.values.get(name, old.detach()[edit.source])
        new = torch.nn.Parameter(rows.detach().clone())
        for group in optimizer.param_groups:
            group["params"] = [new if parameter is old else parameter for parameter in group["params"]]
        state = optimizer.state.pop(old, None)
        if state is not None:
            optimizer.state[new] = {
                key: _rows(value, edit) if value.shape == old.shape else value for key, value in state.items()
            }
        result[name] = new
    return result


def _rows(moment: Tensor, edit: Edit) -> Tensor:
    rows = moment[edit.source]
    rows[edit.fresh] = 0
    return rows
