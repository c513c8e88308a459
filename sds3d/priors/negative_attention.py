"""Negative-away steer attention (NASA in SNOOPI, Nguyen et al. 2024, arXiv:2412.02687): words that a model avoids.

Few-step models need no classifier-free guidance, and so have no negative text. NASA takes it away where the text comes
in: each cross-attention layer gives, before its output projection,

    Z - a Z_neg

where Z is what the layer's queries find in the text, and Z_neg what they find in the negative text. This costs a few
per cent of a call, where guidance costs a second call. The paper's own code is not released; the equation is that which
NAG (Chen et al. 2025, arXiv:2505.21179) gives for it. The default of a is ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sds3d.priors.network import Ask
from sds3d.priors.picture_adapter import cross_attention
from sds3d.prompts.conditioning import Conditioning


def asking_away(ask: Ask, tokens: Tensor, scale: float) -> Ask:
    """Return a function that calls a latent U-Net as `ask` does, away from a text. tokens: its embedding (1, T, D)."""

    def asked(unet: Any, x_t: Tensor, timestep: Tensor, cond: Conditioning, n_views: int) -> Tensor:
        with away_from(unet, tokens, scale):
            return ask(unet, x_t, timestep, cond, n_views)

    return asked


@contextmanager
def away_from(unet: nn.Module, tokens: Tensor, scale: float) -> Iterator[None]:
    """Let a U-Net's cross-attention avoid tokens (1, T, D) inside the `with` block. scale: a."""

    def away(attn: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Return a layer's output (B, N, C) without what its queries find among the tokens."""
        query = attn.to_q(args[0])  # (B, N, C)
        told = tokens.to(output.dtype)

        def heads(x: Tensor) -> Tensor:
            return x.expand(len(query), -1, -1).unflatten(-1, (attn.heads, -1)).transpose(1, 2)  # (B, heads, N, dim)

        found = functional.scaled_dot_product_attention(heads(query), heads(attn.to_k(told)), heads(attn.to_v(told)))
        found = found.transpose(1, 2).flatten(2)  # (B, N, C)
        project = attn.to_out[0]
        return output - scale * (project(found) - project(torch.zeros_like(found[:1, :1])))  # without its bias

    hooks = [layer.register_forward_hook(away) for layer in cross_attention(unet)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
