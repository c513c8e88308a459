"""An adapter that lets a U-Net predict under guidance in one call (AGD, Jensen and Sadat 2025, arXiv:2503.07274).

Classifier-free guidance asks a model twice, with the text and without. The adapter is told the guidance scale, the
timestep and the text; what it adds to the output of each cross-attention layer makes the prediction with the text that
under guidance. The U-Net keeps its weights. The added part starts at zero, so training starts from the plain model.

Layers, inputs and the loss of its training (`sds3d toybox train-guidance`) were compared with the released code. Ours:
the scale and the timestep are encoded once for all layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sds3d.priors.network import Ask
from sds3d.priors.network_files import load_network, save_network
from sds3d.priors.picture_adapter import cross_attention
from sds3d.prompts.conditioning import Conditioning

FREQUENCIES = 8
DEFAULT_SCALE = 5.0
"""Guidance scale without `prior.embedded_guidance`."""


class GuidanceAdapter(nn.Module):
    """What is added to a U-Net's cross-attention layers.

    widths: of the layers, in their order. text_width: of the text's tokens. digest: of the weights of the prior that it
    is trained for. width: of the adapter.
    """

    def __init__(self, widths: Sequence[int], text_width: int, digest: str = "", width: int = 64) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "widths": list(widths),
            "text_width": text_width,
            "digest": digest,
            "width": width,
        }
        self.numbers = nn.ModuleList(
            nn.Sequential(nn.Linear(2 * FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width)) for _ in range(2)
        )
        self.text = nn.Linear(text_width, width)
        self.norm = nn.LayerNorm(width)
        self.queries = nn.ModuleList(nn.Linear(layer, width, bias=False) for layer in widths)
        self.keys = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in widths)
        self.values = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in widths)
        self.outputs = nn.ModuleList(nn.Linear(width, layer) for layer in widths)
        for layer in self.outputs:
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    @classmethod
    def of(cls, unet: Any, digest: str = "") -> GuidanceAdapter:
        """Make a new one for a U-Net. digest: of its prior's weights."""
        layers = cross_attention(unet)
        return cls([layer.to_q.out_features for layer in layers], layers[0].to_k.in_features, digest)

    def tokens(self, scale: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        """Map scales (B,), timesteps (B,) in [0, 1000] and text tokens (B, T, D) to tokens (B, 2 + T, width)."""
        numbers = [network(waves(x)) for network, x in zip(self.numbers, (scale / 10, timestep / 1000), strict=True)]
        return self.norm(torch.cat([*(x[:, None] for x in numbers), self.text(text)], dim=1))

    def save(self, folder: Path) -> None:
        """Write config.json, and the weights in fp16 as model.safetensors."""
        save_network(folder, self, self.config)

    @classmethod
    def load(cls, folder: Path) -> GuidanceAdapter:
        """Read what `save` wrote, in float32."""
        return load_network(cls, folder)


def waves(x: Tensor) -> Tensor:
    """Map numbers (B,) to sines and cosines, (B, 2 FREQUENCIES)."""
    angles = math.pi / 2 * x.float()[:, None] * 2 ** torch.arange(FREQUENCIES, device=x.device)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def asking_guided(ask: Ask, adapter: GuidanceAdapter, scale: float | Tensor) -> Ask:
    """Return a function that calls a latent U-Net as `ask` does, whose output is that under guidance.

    scale: S, one for all rows or (B,).
    """

    def asked(unet: Any, x_t: Tensor, timestep: Tensor, cond: Conditioning, n_views: int) -> Tensor:
        scales = torch.as_tensor(scale, device=x_t.device).expand(len(x_t))
        tokens = adapter.tokens(scales, timestep.expand(len(x_t)), cond.hidden.float())
        with adapted(unet, adapter, tokens):
            return ask(unet, x_t, timestep, cond, n_views)

    return asked


@contextmanager
def adapted(unet: nn.Module, adapter: GuidanceAdapter, tokens: Tensor) -> Iterator[None]:
    """Add the adapter's part to a U-Net's cross-attention inside the `with` block. tokens: (B, T, width)."""

    def hook(query: nn.Module, key: nn.Module, value: nn.Module, out: nn.Module) -> Any:
        def added(attn: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            """Add to a layer's output (B, N, C) what its input finds among the tokens."""
            found = functional.scaled_dot_product_attention(query(args[0].float()), key(tokens), value(tokens))
            return output + out(found).to(output.dtype)

        return added

    parts = (cross_attention(unet), adapter.queries, adapter.keys, adapter.values, adapter.outputs)
    hooks = [layer.register_forward_hook(hook(*own)) for layer, *own in zip(*parts, strict=True)]
    try:
        yield
    finally:
        for one in hooks:
            one.remove()
