"""A network that turns the features of a multi-view prior into a solid: density and colour at points in space.

As the Latent-Plane of PlacidDreamer (Huang et al. 2024, arXiv:2407.13976): a point is projected into the views, where
features of the denoising U-Net are looked up; a learned query attends to them. The prior stays frozen.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from sds3d.cameras import Cameras
from sds3d.files import PriorError
from sds3d.priors.base import Prior, PriorConfig, add_noise
from sds3d.priors.multiview import CAMERA_FEATURES, camera_features
from sds3d.priors.network_files import CONFIG, WEIGHTS, load_network, save_network
from sds3d.priors.unet_latent import VIEWS, DiffusersPrior
from sds3d.prompts.conditioning import Conditioning

FEATURES_AT = 0.25
"""Noise level, in the prior's t, of the views whose features are read: little enough for the outlines to stay."""
BANDS = 6
"""Octaves of positional codes; the shortest wave is two thirds of a latent pixel of a 16 x 16 latent."""
CODES = 3 * (1 + 2 * BANDS)
CHUNK = 16384
"""Points that are evaluated at a time without gradients."""


class StartNetwork(nn.Module):
    """Maps features of an object's four views to logits of being inside and colours, at points in space.

    channels: of the features. width: of the tokens. digest: of the weights of the prior whose features it reads.
    """

    def __init__(self, channels: int, digest: str = "", width: int = 64) -> None:
        super().__init__()
        self.channels, self.digest, self.width = channels, digest, width
        self.planes = nn.Sequential(
            nn.GroupNorm(1, channels),
            nn.Conv2d(channels, width, 1),
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.PixelShuffle(2),  # to width / 2 channels of twice the size
        )
        self.token = nn.Linear(width // 2 + CODES + CAMERA_FEATURES, width)
        self.query = nn.Linear(CODES, width)  # its bias is the learned query
        self.layers = nn.ModuleList(Attention(width) for _ in range(2))
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4))

    def forward(self, features: Tensor, cameras: Cameras, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, P) and sRGB colours (B, P, 3) in [0, 1] at points (B, P, 3) in metres.

        features: (4 B, C, h, w) of `view_features`, view-fastest, of 4 B cameras.
        """
        return self.at(self.planes(features), cameras, points)

    def at(self, planes: Tensor, cameras: Cameras, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `forward` does. planes: (4 B, width / 2, 2 h, 2 w), the features as `planes` transforms them."""
        groups, count = points.shape[:2]
        seen = projected(cameras, points.repeat_interleave(VIEWS, dim=0))  # (4 B, P, 3)
        found = functional.grid_sample(planes, seen[:, :, None, :2], padding_mode="border", align_corners=False)
        camera = camera_features(cameras)[:, None].expand(-1, count, -1)
        tokens = self.token(torch.cat([found[..., 0].transpose(1, 2), codes(seen), camera], dim=-1))
        tokens = tokens.unflatten(0, (groups, VIEWS)).transpose(1, 2).flatten(0, 1)  # (B P, 4, width)
        query = self.query(codes(2 * points)).flatten(0, 1)  # (B P, width)
        for layer in self.layers:
            query = layer(query, tokens)
        out = self.out(query).unflatten(0, (groups, count))
        return out[..., 0], torch.sigmoid(out[..., 1:])

    @torch.no_grad()
    def solid(self, features: Tensor, cameras: Cameras, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (P,) and colours (P, 3) of one object at any number of points (P, 3), a part at a time."""
        planes = self.planes(features)
        parts = [self.at(planes, cameras, part[None]) for part in points.split(CHUNK)]
        return torch.cat([logits[0] for logits, _ in parts]), torch.cat([colors[0] for _, colors in parts])

    def save(self, folder: Path) -> None:
        """Write config.json, and the weights in fp16 as model.safetensors."""
        save_network(folder, self, {"channels": self.channels, "width": self.width, "digest": self.digest})

    @classmethod
    def load(cls, folder: Path) -> StartNetwork:
        """Read what `save` wrote, in float32, in eval mode. Raises PriorError."""
        try:
            network = load_network(cls, folder)
        except Exception as error:
            raise PriorError(
                f"{folder} holds no network of starts ({type(error).__name__}: {error}): give the folder `start` that "
                "`sds3d toybox train-start` wrote"
            ) from None
        return network.eval().requires_grad_(False)


class Attention(nn.Module):
    """A layer in which one query per point attends to the tokens of its views, followed by a small network."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.norm_tokens, self.norm_out = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_q, self.to_kv, self.to_out = (
            nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width),
        )  # fmt: skip
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width))

    def forward(self, query: Tensor, tokens: Tensor) -> Tensor:
        """query: (P, W). tokens: (P, views, W)."""
        q = self.to_q(self.norm(query)).unflatten(-1, (self.heads, -1))  # (P, heads, d)
        k, v = self.to_kv(self.norm_tokens(tokens)).unflatten(-1, (2 * self.heads, -1)).chunk(2, dim=2)
        # Sums of products in place of matrix products: with four tokens, these are many and tiny.
        weights = ((q[:, None] * k).sum(-1, keepdim=True) / math.sqrt(q.shape[-1])).softmax(dim=1)
        query = query + self.to_out((weights * v).sum(dim=1).flatten(1))
        return query + self.mlp(self.norm_out(query))


def projected(cameras: Cameras, points: Tensor) -> Tensor:
    """Return where B cameras see points (B, P, 3): x right and y down in [-1, 1] within the picture, and how much
    farther than the origin they are, in half metres, (B, P, 3).
    """
    local = torch.einsum("bij,bpi->bpj", cameras.c2w()[:, :3, :3], points - cameras.position()[:, None])
    depth = -local[..., 2]
    tan = torch.tan(torch.deg2rad(cameras.fovy) / 2)[:, None]
    across = tan * (cameras.width / cameras.height)
    x, y = local[..., 0] / (depth * across), -local[..., 1] / (depth * tan)
    return torch.stack([x, y, 2 * (depth - cameras.distance[:, None])], dim=-1)


def codes(values: Tensor) -> Tensor:
    """Return values (..., 3) of about [-1, 1] with their sines and cosines, (..., CODES)."""
    angles = values[..., None, :] * (math.pi * 2.0 ** torch.arange(BANDS, device=values.device))[:, None]
    return torch.cat([values, angles.sin().flatten(-2), angles.cos().flatten(-2)], dim=-1)


def start_folder(given: str) -> Path | None:
    """Return the folder of the network of starts that `start_from` names; None if it names something else."""
    folder = Path(given)
    return folder if given and (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file() else None


def load_start(folder: Path, prior: PriorConfig) -> StartNetwork:
    """Load a network of starts for a prior. Raises PriorError if it reads the features of other weights."""
    network = StartNetwork.load(folder)
    if network.digest != prior.digest():
        raise PriorError(
            f"the network of starts in {folder} belongs to another prior: train one for yours with `sds3d toybox "
            "train-start --model FOLDER`, or remove start_from"
        )
    return network


@torch.no_grad()
def view_features(prior: Prior, x: Tensor, cond: Conditioning, cameras: Cameras, generator: torch.Generator) -> Tensor:
    """Return what the U-Net makes of clean views x (B, C, h, w) in little noise: (B, channels, h, w).

    These are the features of the blocks of its decoder that have the size of x, and the denoised views. cond: of the
    text alone, B rows. generator: on the CPU. Raises PriorError for a prior without four views or without such blocks.
    """
    if not isinstance(prior, DiffusersPrior) or prior.n_views != VIEWS:
        raise PriorError(f"starts are made from the features of a U-Net of {VIEWS} views, which this prior has not")
    made: list[Tensor] = []

    def keep(module: nn.Module, args: object, output: Tensor) -> None:
        made.append(output)

    hooks = [block.register_forward_hook(keep) for block in prior.unet.up_blocks[-2:]]
    try:
        noise = torch.randn(x.shape, generator=generator).to(x)
        t = x.new_full((len(x),), FEATURES_AT)
        # Recorded calls would skip the hooks.
        denoiser = replace(prior.denoiser, graphs=None)
        clean = prior.predict_by(denoiser, add_noise(prior, x, noise, t), t, cond, cameras).x0
    finally:
        for hook in hooks:
            hook.remove()
    features = torch.cat([*(part.float() for part in made if part.shape[-2:] == x.shape[-2:]), clean], dim=1)
    return features.contiguous()  # on channels last, torch 2.13's GroupNorm crashes in its backward pass
