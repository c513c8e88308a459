"""A plain UNet2DConditionModel as a camera-conditioned multi-view model (MVDream, arXiv:2308.16512).

Self-attention runs across the views of an object, and an embedding of the camera is added to the time embedding. The
weights are those of a stock U-Net. Without cameras and with one view, nothing changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sds3d.cameras import Cameras
from sds3d.priors.network_files import load_network, save_network

CAMERA_FEATURES = 9


class ViewAttention:
    """An attention processor whose self-attention runs across all `n_views` views of an object."""

    def __call__(
        self,
        attn: Any,  # diffusers' Attention, whose layers are typed as optional
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        n_views: int = 1,
        n_single: int = 0,
    ) -> Tensor:
        """hidden_states: (B, N, C), view-fastest. Text attention (with encoder_hidden_states) is per view.

        n_single: how many views at the end of the batch stand alone.
        """
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)

        def attend(rows: slice, n: int) -> Tensor:
            """Attend within groups of n views: (b, N, C) to (b, N, C)."""

            def heads(x: Tensor) -> Tensor:
                x = x[rows].reshape(-1, n * x.shape[1], x.shape[2])
                return x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)  # (b / n, heads, tokens, dim)

            out = nn.functional.scaled_dot_product_attention(heads(q), heads(k), heads(v))
            return out.transpose(1, 2).flatten(2).reshape(-1, *hidden_states.shape[1:])

        joint = n_views if encoder_hidden_states is None else 1
        if not n_single or joint == 1:
            return attn.to_out[0](attend(slice(None), joint))
        return attn.to_out[0](torch.cat([attend(slice(-n_single), joint), attend(slice(-n_single, None), 1)]))


class CameraEncoder(nn.Module):
    """Maps a camera to a vector that is added to the U-Net's time embedding."""

    def __init__(self, time_embedding_dim: int, width: int = 128) -> None:
        super().__init__()
        first, second = nn.Linear(CAMERA_FEATURES, width), nn.Linear(width, time_embedding_dim)
        # Vectors start with a variance of 1 over views, as text embeddings do. With less, or with a large part that all
        # views share, training ignores cameras for long.
        nn.init.normal_(first.weight, std=0.5)  # features have a squared length of about 4
        nn.init.normal_(second.weight, std=(0.31 * width) ** -0.5)  # SiLU of a normal variable has variance 0.31
        for layer in (first, second):
            nn.init.zeros_(layer.bias)
        self.layers = nn.Sequential(first, nn.SiLU(), second)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, 9) of `camera_features` to (B, time_embedding_dim)."""
        return self.layers(features)

    def embed(self, cameras: Cameras) -> Tensor:
        """Map B cameras to (B, time_embedding_dim)."""
        return self(camera_features(cameras))

    def save(self, folder: Path) -> None:
        """Write config.json, and the weights in fp16 as model.safetensors."""
        dim, width = self.state_dict()["layers.2.weight"].shape
        save_network(folder, self, {"time_embedding_dim": dim, "width": width})

    @classmethod
    def load(cls, folder: Path) -> CameraEncoder:
        """Read what `save` wrote, in float32."""
        return load_network(cls, folder)


def camera_features(cameras: Cameras) -> Tensor:
    """Return harmonics of azimuth and elevation, and the apparent size of a unit object: (B, 9) float32."""
    azimuth, elevation = torch.deg2rad(cameras.azimuth), torch.deg2rad(cameras.elevation)
    half_frame = cameras.distance * torch.tan(torch.deg2rad(cameras.fovy) / 2)  # metres
    harmonics = [f(k * azimuth) for k in (1, 2, 4) for f in (torch.sin, torch.cos)]
    size = 10 * (half_frame / 0.5627 - 1)  # 0 at distance 2.1 and fovy 30
    return torch.stack([*harmonics, torch.sin(2 * elevation), torch.cos(2 * elevation), size], dim=-1)


def time_embedding_of(network: Any) -> tuple[nn.Module, int]:
    """Return the module of a U-Net or transformer that makes its time embedding, and the embedding's width."""
    if hasattr(network, "time_text_embed"):  # SD3, FLUX: time and pooled text together
        return network.time_text_embed, network.time_text_embed.timestep_embedder.linear_2.out_features
    return network.time_embedding, network.time_embedding.linear_2.out_features


@contextmanager
def camera_embedding(network: nn.Module, embedding: Tensor) -> Iterator[None]:
    """Add `embedding` (B, time_embedding_dim) to the network's time embedding inside the `with` block."""
    module: Any = time_embedding_of(network)[0]
    hook = module.register_forward_hook(lambda module, args, output: output + embedding.to(output.dtype))
    try:
        yield
    finally:
        hook.remove()
