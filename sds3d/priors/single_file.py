"""Models in one .safetensors file, as Civitai and the original code have them, read by diffusers' code.

Such a file holds the weights of all networks, but no configurations or tokenizers. These come from a diffusers folder
of the same family, and so do networks that the file lacks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

DENOISER = "model.diffusion_model."
PREFIXES = {"vae": "first_stage_model.", "text": ("cond_stage_model.", "conditioner.", "text_encoders.")}
"""Beginnings of names of weights in the original code."""


def usual_model(file: Path) -> str:
    """Return the id of the model whose configurations fit the weights in a file, as diffusers knows it."""
    from diffusers.loaders.single_file_utils import DIFFUSERS_DEFAULT_PIPELINE_PATHS, infer_diffusers_model_type

    with safe_open(file, "pt") as weights:
        names: list[str] = weights.keys()
        shapes = {name: torch.empty(weights.get_slice(name).get_shape(), device="meta") for name in names}
    return DIFFUSERS_DEFAULT_PIPELINE_PATHS[infer_diffusers_model_type(shapes)]["pretrained_model_name_or_path"]


def scheduler_changes(file: Path) -> dict[str, Any]:
    """Return what empty weights in a file tell of its noise: v-prediction, zero terminal signal-to-noise ratio."""
    with safe_open(file, "pt") as weights:
        names = set(weights.keys())
    changes: dict[str, Any] = {"prediction_type": "v_prediction"} if "v_pred" in names else {}
    return changes | ({"rescale_betas_zero_snr": True} if "ztsnr" in names else {})


def network_of(file: Path, folder: Path, kind: Any, part: str, dtype: torch.dtype) -> Any:
    """Load a network from a file with the configuration in a folder; None if the file lacks it.

    Raises ValueError if the file has only some of its weights.
    """
    from diffusers.loaders.single_file_utils import (
        create_diffusers_clip_model_from_ldm,
        create_diffusers_t5_model_from_checkpoint,
        is_clip_model_in_single_file,
        is_t5_in_single_file,
    )
    from transformers import PreTrainedModel, T5EncoderModel

    weights = _weights(file, part)
    options: dict[str, Any] = {"config": str(folder), "subfolder": part, "local_files_only": True}
    if not weights:
        return None
    if not issubclass(kind, PreTrainedModel):
        try:
            network = kind.from_single_file(weights, **options)
        except NotImplementedError as error:  # a weight without values cannot be moved
            raise ValueError(f"{file.name} lacks some weights of {part}, or is of another family") from error
    elif issubclass(kind, T5EncoderModel):
        if not is_t5_in_single_file(weights):
            return None
        network = create_diffusers_t5_model_from_checkpoint(kind, checkpoint=weights, **options)
    elif is_clip_model_in_single_file(kind, weights):
        network = create_diffusers_clip_model_from_ldm(kind, checkpoint=weights, **options)
    else:
        return None
    if any(value.is_meta for value in network.parameters()):
        raise ValueError(f"{file.name} lacks some weights of {part}, or is of another family")
    return network.to(dtype)


def _weights(file: Path, part: str) -> dict[str, Tensor]:
    """Return the weights of a part by their names; for a denoiser that is alone in its file, all."""
    with safe_open(file, "pt") as weights:
        names = list(weights.keys())
        if part in ("unet", "transformer"):
            chosen = [name for name in names if name.startswith(DENOISER)] or names
        else:
            prefix = PREFIXES["text" if part.startswith("text_encoder") else part]
            chosen = [name for name in names if name.startswith(prefix)]
        return {name: weights.get_tensor(name) for name in chosen}
