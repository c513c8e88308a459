"""Updates of weights in other forms than LoRA: LoHa, LoKr, full differences, DoRA, and the layout of peft.

Sources: LyCORIS (arXiv:2309.14859), whose file layout others follow, and DoRA (arXiv:2402.09353). Each form gives a
difference that is added to a layer's weight W of shape (out, in, ...):

    LoRA    up @ down
    LoHa    (w1_a @ w1_b) * (w2_a @ w2_b)
    LoKr    the Kronecker product of w1 and w2, each of which may be a product a @ b
    full    the difference itself

times alpha / rank. Convolutions may store a kernel between the factors (`lora_mid`, `t1`, `t2`). DoRA then scales each
row or column of W plus the difference to a length of its own.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Factors = dict[str, Tensor]
"""The tensors of one layer by their names in LyCORIS' layout."""

PEFT = "base_model.model."
NAME = re.compile(
    r"(.+?)\.(lora_(?:down|up|mid)\.weight|lora_[AB]\.weight|lora\.(?:down|up)\.weight|lora_magnitude_vector(?:\.weight)?"
    r"|dora_scale|alpha|hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2)|diff|diff_b|w_norm|b_norm)"
)
SAME = {
    "lora_A.weight": "down", "lora.down.weight": "down", "lora_down.weight": "down", "lora_mid.weight": "mid",
    "lora_B.weight": "up", "lora.up.weight": "up", "lora_up.weight": "up", "w_norm": "diff", "b_norm": "diff_b",
    "lora_magnitude_vector": "dora_scale", "lora_magnitude_vector.weight": "dora_scale",
}  # fmt: skip
"""Other names of the same factors."""
BEYOND_LORA = re.compile(r"hada_|lokr_|\.diff(_b)?$|\.[wb]_norm$|dora_scale$|lora_magnitude_vector|lora_mid")
OTHER_KINDS = {
    "OFT": re.compile(r"\.oft_|\.boft_"),
    "IA3": re.compile(r"\.on_input$|\.ia3_l$"),
    "GLoRA": re.compile(r"\.[ab][12]\.weight$"),
    "textual inversion": re.compile(r"^(emb_params|string_to_param|clip_[lg]$|t5$)"),
    "VeRA": re.compile(r"vera_lambda"),
}
"""Forms that are not read, by names of their tensors."""
EMBEDDINGS = re.compile(r"bundle_emb\.([^.]+)\.")
PARTS = {
    "unet": ("lora_unet_", "lycoris_", "unet."),
    "transformer": ("lora_transformer_", "lora_unet_", "lycoris_", "transformer."),
    "text_encoder": ("lora_te_", "lora_te1_", "text_encoder."),
    "text_encoder_2": ("lora_te2_", "text_encoder_2."),
}
"""Beginnings of the names of a network's layers; in peft's layout there is none."""
ORIGINAL = {
    "input_blocks_0_0": "conv_in", "out_2": "conv_out", "time_embed_0": "time_embedding_linear_1",
    "time_embed_2": "time_embedding_linear_2", "label_emb_0_0": "add_embedding_linear_1",
    "label_emb_0_2": "add_embedding_linear_2",
}  # fmt: skip
"""Places in the U-Net of the original code, and in the stock one. diffusers' code translates numbers of blocks."""
ORIGINAL_BLOCKS = {"input_blocks": "down_blocks", "middle_block": "mid_block", "output_blocks": "up_blocks"}
"""The same for the first parts of places."""
ORIGINAL_ENDINGS = {
    "in_layers_2": "conv1", "out_layers_3": "conv2", "emb_layers_1": "time_emb_proj",
    "skip_connection": "conv_shortcut", "_op": "_conv",
}  # fmt: skip
"""The same for the last parts of places."""


def without_embeddings(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights without embeddings of words that are in the same file. Warn that they are left out."""
    words = sorted({found[1] for name in weights if (found := EMBEDDINGS.match(name))})
    if words:
        some = ", ".join(words[:5])
        warnings.warn(f"the embeddings in the LoRA file are left out: it has {some} as a word of prompts", stacklevel=4)
    return {name: value for name, value in weights.items() if not EMBEDDINGS.match(name)}


def other_kind(names: Mapping[str, Any]) -> str | None:
    """Return the name of a form that is not read, or None."""
    return next((kind for kind, sign in OTHER_KINDS.items() if any(sign.search(name) for name in names)), None)


def is_beyond_lora(names: Mapping[str, Any]) -> bool:
    """Return whether these are updates that this module adds, in contrast to LoRA, which diffusers reads."""
    return any(name.startswith(PEFT) or BEYOND_LORA.search(name) for name in names)


def layers_of(weights: Mapping[str, Tensor], settings: Path) -> dict[str, Factors]:
    """Return the factors of each layer by its name in the file.

    settings: peft's adapter_config.json, which has alpha in its layout. Raises ValueError for a name that is not known.
    """
    layers: dict[str, Factors] = {}
    for name, value in weights.items():
        found = NAME.fullmatch(name.removeprefix(PEFT))
        if found is None:
            raise ValueError(f"{name} is of a kind that is not known")
        layers.setdefault(found[1], {})[SAME.get(found[2], found[2])] = value.float()
    if any(name.startswith(PEFT) for name in weights):
        config = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
        if config.get("alpha_pattern"):
            raise ValueError("its adapter_config.json has an alpha_pattern, which is not supported")
        for factors in layers.values():
            rank = rank_of(factors) or config.get("r", 1)
            alpha = config.get("lora_alpha", config.get("alpha", rank))
            factors["scale"] = torch.tensor(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))
            if "dora_scale" in factors:  # of the rows, in any shape
                factors["dora_scale"] = factors["dora_scale"].reshape(-1, 1)
    return layers


def rank_of(factors: Factors) -> int:
    """Return the rank of the factors; 0 if they are full matrices."""
    for name, axis in (("down", 0), ("hada_w1_b", 0), ("lokr_w1_b", 0), ("lokr_w2_b", 0)):
        if name in factors:
            return factors[name].shape[axis]
    return 0


def difference(factors: Factors, shape: torch.Size) -> Tensor:
    """Return what is added to a weight of this shape.

    Raises KeyError for a missing factor, and RuntimeError for factors that do not fit.
    """
    if "diff" in factors:
        return factors["diff"].reshape(shape)
    if "down" in factors:
        up, down = factors["up"].flatten(1), factors["down"]
        if "mid" in factors:
            change = torch.einsum("or,rsij,sc->ocij", up, factors["mid"], down.flatten(1))
        else:
            change = up @ down.flatten(1)
    elif "hada_w1_a" in factors:
        change = _hada(factors, "1") * _hada(factors, "2")
    else:
        one, two = _kronecker_factor(factors, "1"), _kronecker_factor(factors, "2")
        change = torch.kron(one.reshape(*one.shape, *[1] * (two.dim() - 2)), two.contiguous())
    return _scale(factors) * change.reshape(shape)


def _scale(factors: Factors) -> float:
    """Return alpha / rank; 1 for full matrices, or if there is no alpha."""
    if "scale" in factors:
        return float(factors["scale"])
    rank = rank_of(factors)
    return float(factors["alpha"]) / rank if rank and "alpha" in factors else 1.0


def _hada(factors: Factors, which: str) -> Tensor:
    a, b, kernel = factors[f"hada_w{which}_a"], factors[f"hada_w{which}_b"], factors.get(f"hada_t{which}")
    return a @ b if kernel is None else torch.einsum("rsij,sc,ro->ocij", kernel, b, a)


def _kronecker_factor(factors: Factors, which: str) -> Tensor:
    if (whole := factors.get(f"lokr_w{which}")) is not None:
        return whole
    a, b = factors[f"lokr_w{which}_a"], factors[f"lokr_w{which}_b"]
    if which == "2" and "lokr_t2" in factors:
        return torch.einsum("rsij,ro,sc->ocij", factors["lokr_t2"], a, b)
    return (a @ b.flatten(1)).reshape(a.shape[0], *b.shape[1:])


def decomposed(weight: Tensor, lengths: Tensor) -> Tensor:
    """Return the weight (out, in, ...) with these lengths of its rows (out, 1, ...) or columns (1, in, ...) (DoRA)."""
    columns = lengths.shape[0] == 1 and lengths.numel() == weight.shape[1]
    axis = 1 if columns else 0
    shape = [1] * weight.dim()
    shape[axis] = weight.shape[axis]
    norm = weight.transpose(0, axis).flatten(1).norm(dim=1).reshape(shape)
    return weight * (lengths.reshape(shape) / norm)


@torch.no_grad()
def add_to(network: nn.Module, part: str, layers: Mapping[str, Factors], scale: float) -> int:
    """Add the updates of a part to its network's weights. Return how many layers were updated.

    Raises ValueError if the network lacks a layer, and KeyError or RuntimeError if factors are missing or do not fit.
    """
    modules = {name.replace(".", "_"): module for name, module in network.named_modules()}
    updated = 0
    for name, factors in layers.items():
        place = _place(part, name)
        if place is None:
            continue
        module: Any = modules.get(place, modules.get(place.removeprefix("text_model_")))
        if not isinstance(getattr(module, "weight", None), Tensor):
            raise ValueError(f"the {part} has no layer {name}")
        if factors.keys() - {"diff_b", "alpha", "scale"}:
            before = module.weight.float()
            after = before + difference(factors, before.shape).to(before.device)
            if "dora_scale" in factors:
                after = decomposed(after, factors["dora_scale"].to(before.device))
            module.weight.copy_(before + scale * (after - before))
        if "diff_b" in factors:
            module.bias.copy_(module.bias.float() + scale * factors["diff_b"].to(module.bias.device))
        updated += 1
    return updated


def _place(part: str, name: str) -> str | None:
    """Return the place of a layer in the network of a part, joined by "_"; None if it is of another part."""
    beginning = next((beginning for beginning in PARTS[part] if name.startswith(beginning)), None)
    if beginning is None:
        others = [beginning for other in PARTS.values() for beginning in other]
        if part.startswith("text_encoder") or name.startswith(tuple(others)):
            return None
    place = name.removeprefix(beginning or "").replace(".", "_")
    if place in ORIGINAL:
        return ORIGINAL[place]
    for original, stock in ORIGINAL_BLOCKS.items():
        place = re.sub(f"^{original}_", f"{stock}_", place)
    for original, stock in ORIGINAL_ENDINGS.items():
        place = re.sub(f"{original}$", stock, place)
    return place
