"""A U-Net that denoises several maps together, such as the planes of a field, as TriplaneTurbo does (Ma et al. 2025,
arXiv:2503.21694).

All maps attend to each other, and the attention layers have low-rank updates of each map's own.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from sds3d.files import PriorError
from sds3d.priors.multiview import ViewAttention

STOCK = {"AttnProcessor", "AttnProcessor2_0", "ViewAttention"}
"""Attention processors that `JointAttention` replaces without a loss: they have no weights."""


class JointAttention(ViewAttention):
    """An attention processor whose self-attention runs across all of `maps` maps, whatever the caller says of views."""

    def __init__(self, maps: int) -> None:
        self.maps = maps

    def __call__(
        self,
        attn: Any,  # diffusers' Attention
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        n_views: int = 1,
        n_single: int = 0,
    ) -> Tensor:
        """hidden_states: (B, N, C), the maps of an object one after the other. n_views, n_single: not used."""
        return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, temb, self.maps)


def join_maps(network: Any, maps: int, rank: int, layers: Sequence[str]) -> None:
    """Change a U-Net in place, so that each call takes `maps` rows, which it denoises together.

    rank: of the updates, which start at zero, drawn from torch's own generator. layers: ends of the names of the
    updated layers. Raises PriorError if the network is no U-Net or has other attention layers than Stable Diffusion's.
    """
    from diffusers import UNet2DConditionModel
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    if not isinstance(network, UNet2DConditionModel):
        raise PriorError(f"{type(network).__name__} can't denoise planes together: use a model with a U-Net")
    other = {type(processor).__name__ for processor in network.attn_processors.values()} - STOCK
    if other:
        raise PriorError(f"a U-Net with {', '.join(sorted(other))} can't denoise planes: use Stable Diffusion's kind")
    network.set_attn_processor(JointAttention(maps))  # type: ignore[arg-type]
    names = [f"map{index}" for index in range(maps)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several sets of updates are meant
        for name in names:
            inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(layers)), network, name)

    def choose(layer: nn.Module, values: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return values, options | {"adapter_names": names}  # a row of the batch each

    for layer in network.modules():
        if isinstance(layer, LoraLayer):
            layer.register_forward_pre_hook(choose, with_kwargs=True)  # type: ignore[attr-defined]
    for name, parameter in network.named_parameters():
        parameter.requires_grad_("lora_" in name)  # peft leaves only those of the last name
