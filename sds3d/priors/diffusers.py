"""The setting `prior`: any diffusers folder or id, told apart by what its model_index.json says it is."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import Field

from sds3d.priors.base import PriorConfig
from sds3d.priors.deepfloyd import load_deepfloyd
from sds3d.priors.flow import load_flux, load_sd3
from sds3d.priors.loading import Dtype, ModelFiles, find, pick_dtype
from sds3d.priors.lora import Lora
from sds3d.priors.mvdream import load_mvdream
from sds3d.priors.network import DiffusionPrior
from sds3d.priors.pixels import Latents
from sds3d.priors.unet_latent import load_latent_unet, load_sdxl

logger = logging.getLogger(__name__)

LCM_STEPS = 50
TURBO_STEPS = 4
STUDENTS = re.compile("turbo|lightning|hyper|lcm|schnell")
COMPILED = {
    "BasicTransformerBlock", "ResnetBlock2D", "JointTransformerBlock", "FluxTransformerBlock",
    "FluxSingleTransformerBlock",
}  # fmt: skip
"""The blocks that a network repeats: compiled once each, in a fraction of the time of the whole."""


FAMILIES: dict[str, Callable[[ModelFiles], DiffusionPrior]] = {
    "StableDiffusionPipeline": load_latent_unet,
    "LatentConsistencyModelPipeline": load_latent_unet,
    "StableDiffusionXLPipeline": load_sdxl,
    "StableDiffusion3Pipeline": load_sd3,
    "FluxPipeline": load_flux,
    "IFPipeline": load_deepfloyd,
    "MVDreamPipeline": load_mvdream,
}
"""What loads a folder, by the class that its model_index.json names."""


class DiffusersConfig(PriorConfig):
    """A text-to-image diffusion model in diffusers' layout."""

    name: Literal["diffusers"] = "diffusers"
    model: str = "toybox"
    """`toybox` (the embedded prior), a diffusers folder, a short name such as sd21, or an id of the Hugging Face hub:
    Stable Diffusion 1, 2, XL, 3 and 3.5, FLUX.1, DeepFloyd IF, MVDream, LCM, Turbo."""
    multiview: bool = True
    """Denoise 4 views together with their cameras, where the model can; false asks it as a plain 2D model."""
    offline: bool = False
    """Never touch the network; a model id must then be in the local cache. Local folders never do."""
    lora: str = ""
    """A .safetensors file of low-rank updates for the model and its text encoders."""
    lora_scale: float = 1.0
    """Factor on them."""
    image_size: int = Field(default=0, ge=0, le=4096)
    """Pixels a side that the model sees; 0 takes its own. Fewer are faster: FLUX and SD3 take 512, U-Nets lose much."""
    embedded_guidance: float | None = None
    """Guidance scale that FLUX.1-dev (3.5) and LCM (8.5) are told; it is no classifier-free guidance. None: these."""
    few_steps: int | None = Field(default=None, ge=0, le=1000)
    """How many evenly spaced timesteps a few-step model was trained at: t is rounded to them. 0: at all. None: 50 for
    LCM, 4 for a U-Net with `turbo` in its id or folder's name, all for others."""
    dtype: Dtype = "auto"
    """What the networks compute in. auto: float32, on CUDA bfloat16 where the GPU has it and float16 where not."""
    offload: bool = False
    """Keep the weights in main memory and bring each layer to the GPU when it is its turn: slow, and small."""
    vae_slicing: bool = False
    """Decode and encode pictures one after the other: less memory."""
    vae_tiling: bool = False
    """Decode and encode large pictures in overlapping tiles: less memory, seams are blended."""
    chunk: int = Field(default=0, ge=0)
    """Rows of a batch that the network is asked at a time, in whole groups of views: less memory. 0: all."""
    compile: bool = False
    """Compile the network's blocks with torch.compile at their first use, for minutes; faster on CUDA."""

    @property
    def kind(self) -> str:
        """The kind of prior, which presets name: toybox for the embedded one and those trained as it was."""
        trained_here = (Path(self.model).expanduser() / "camera_encoder").is_dir()
        return "toybox" if self.model == "toybox" or trained_here else self.name

    def load(self, device: torch.device | str = "cpu") -> DiffusionPrior:
        """Load the model.

        Raises PriorError, in one line, if the folder is missing, truncated, pickled or of another kind.
        """
        device = torch.device(device)
        files = find(self.model, offline=self.offline, dtype=pick_dtype(self.dtype, device), device=device)
        family = str(files.index().get("_class_name"))
        if family not in FAMILIES:
            raise files.error(f"its pipeline is {family}; supported are {', '.join(FAMILIES)}")
        files = replace(
            files,
            lora=self._lora(files, family),
            offload=self.offload,
            multiview=self.multiview,
            image_size=self.image_size,
            embedded_guidance=self.embedded_guidance,
            steps=few_steps(self, family),
        )
        prior = FAMILIES[family](files)
        if isinstance(codec := prior.family.codec, Latents):
            codec.vae.use_slicing, codec.vae.use_tiling = self.vae_slicing, self.vae_tiling
        prior.chunk = self.chunk
        if self.compile:
            for module in prior.network.modules():
                if type(module).__name__ in COMPILED:
                    module.compile()
        for notice in notices(self, family, prior):
            logger.warning("%s: %s", self.model, notice)
        return prior

    def _lora(self, files: ModelFiles, family: str) -> Lora | None:
        """The updates in the file `lora`, if there is one. Raises PriorError if they cannot be read."""
        if not self.lora:
            return None
        unet = files.config("unet") if family == "StableDiffusionXLPipeline" else None
        return Lora.read(self.lora, self.lora_scale, _pipeline_class(family), unet)

    def in_less_memory(self) -> Self:
        """One group of views and one picture at a time."""
        return self.model_copy(update={"chunk": 1, "vae_slicing": True})

    def view_by_view(self) -> Self:
        """The plain 2D model."""
        return self.model_copy(update={"multiview": False})


def few_steps(config: DiffusersConfig, family: str) -> int:
    """The number of timesteps that the model was trained at, as far as it can be told; 0 for all."""
    if config.few_steps is not None:
        return config.few_steps
    if family == "LatentConsistencyModelPipeline":
        return LCM_STEPS
    u_net = family in ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
    return TURBO_STEPS if u_net and "turbo" in Path(config.model).name.lower() else 0


def notices(config: DiffusersConfig, family: str, prior: DiffusionPrior) -> list[str]:
    """What is to be known of an unusual model, a line each."""
    if family == "FluxPipeline" and prior.network.config["guidance_embeds"]:
        return [
            "guidance-distilled: it is told prior.embedded_guidance, and there is no true unconditional branch; "
            "guidance.scale=1 asks it as it was trained, and rules that compare with the empty prompt lose their ground"
        ]
    steps = few_steps(config, family)
    if steps or STUDENTS.search(f"{Path(config.model).name} {Path(config.lora).name}".lower()):
        return [
            f"a few-step model{f', asked at {steps} timesteps' if steps else ''}; it was made to do without classifier-"
            "free guidance, which its own pipeline leaves off: start with guidance.scale=1"
        ]
    return []


def _pipeline_class(family: str) -> Any:
    import diffusers

    return getattr(diffusers, "StableDiffusionPipeline" if family == "MVDreamPipeline" else family, object)
