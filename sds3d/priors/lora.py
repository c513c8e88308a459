"""LoRA files (arXiv:2106.09685) for a model, read by diffusers' code: its layout, kohya's and others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from sds3d.files import PriorError, first_line
from sds3d.priors.weight_updates import Factors, add_to, is_beyond_lora, layers_of, other_kind, without_embeddings

TEXT_LAYERS = ("lora_te", "text_encoder")
"""Beginnings of the names of text encoders' layers."""


@dataclass(frozen=True)
class Lora:
    """The updates in a file. scale: factor on them. pipeline: diffusers' class of the model's family.

    layers: updates of other forms than LoRA, by the layers' names in the file; `state` is then empty.
    """

    file: Path
    scale: float
    pipeline: Any
    state: dict[str, Tensor]
    alphas: dict[str, float] | None
    layers: dict[str, Factors]

    @staticmethod
    def read(file: str, scale: float, pipeline: Any, unet: dict[str, Any] | None = None) -> Lora:
        """Read a safetensors file. Raises PriorError if it is not one or holds no LoRA.

        unet: the configuration of SDXL's U-Net, which maps the consecutive block numbers of kohya's layout to blocks.
        """
        path = Path(file).expanduser()
        if path.suffix != ".safetensors":
            raise PriorError(f"can't load the LoRA {file!r}: give a .safetensors file; pickled ones are not read")
        if not path.is_file():
            raise PriorError(f"can't load the LoRA {file!r}: the file does not exist")
        if not hasattr(pipeline, "lora_state_dict"):
            raise PriorError(f"can't load the LoRA {file!r}: {pipeline.__name__} supports none")
        try:
            weights = without_embeddings(load_file(path))
            if kind := other_kind(weights):
                raise ValueError(f"its updates are of the kind {kind}, which is not supported")
            if is_beyond_lora(weights):
                if unet is not None:
                    from diffusers.loaders.lora_conversion_utils import _maybe_map_sgm_blocks_to_diffusers

                    weights = _maybe_map_sgm_blocks_to_diffusers(weights, SimpleNamespace(**unet))
                return Lora(path, scale, pipeline, {}, None, layers_of(weights, path.with_name("adapter_config.json")))
            if pipeline.__name__ == "FluxPipeline":
                state, alphas = pipeline.lora_state_dict(weights, return_alphas=True)
            else:
                options = {} if unet is None else {"unet_config": SimpleNamespace(**unet)}
                read = pipeline.lora_state_dict(weights, **options)
                state, alphas = read if isinstance(read, tuple) else (read, None)
        except Exception as error:
            raise PriorError(f"can't load the LoRA {file!r}: {first_line(error)}") from error
        return Lora(path, scale, pipeline, state, alphas, {})

    def into_denoiser(self, network: Any, part: str) -> Any:
        """Return the network with the updates added to its weights, where they cost nothing."""
        if self.layers:
            if not self._add_to(network, part) and not any(name.startswith(TEXT_LAYERS) for name in self.layers):
                raise self._without(part)
            return network
        if not any(name.startswith(f"{part}.") for name in self.state):
            if any(name.startswith("text_encoder") for name in self.state):
                return network
            raise self._without(part)
        try:
            network.load_lora_adapter(dict(self.state), prefix=part, network_alphas=self.alphas)
            network.fuse_lora(lora_scale=self.scale, safe_fusing=True)
            network.unload_lora()
        except Exception as error:
            raise self._misfit(error) from error
        return network

    def into_text_encoder(self, encoder: Any, part: str) -> Any:
        """Return the text encoder with the updates, as separate weights if they are LoRA; it is freed soon."""
        if self.layers:
            self._add_to(encoder, part)
            return encoder
        if not any(name.startswith(f"{part}.") for name in self.state):
            return encoder
        try:
            load = self.pipeline.load_lora_into_text_encoder
            load(dict(self.state), self.alphas, encoder, prefix=part, lora_scale=self.scale)
        except Exception as error:
            raise self._misfit(error) from error
        return encoder

    def _add_to(self, network: Any, part: str) -> int:
        try:
            return add_to(network, part, self.layers, self.scale)
        except Exception as error:
            raise self._misfit(error) from error

    def _without(self, part: str) -> PriorError:
        return PriorError(f"can't load the LoRA {str(self.file)!r}: it has no layers of a {part}; is it a LoRA?")

    def _misfit(self, error: Exception) -> PriorError:
        reason = first_line(error)
        return PriorError(f"can't load the LoRA {str(self.file)!r}: {reason} (was it made for another model?)")
