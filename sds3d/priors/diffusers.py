"""Diffusion models in diffusers' layout: their settings, and what loads each family."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import Field
from safetensors import SafetensorError

from sds3d.files import PriorError
from sds3d.priors.base import PriorConfig
from sds3d.priors.deepfloyd import load_deepfloyd
from sds3d.priors.digest import weights_digest
from sds3d.priors.flow import load_flux, load_sd3
from sds3d.priors.guidance_adapter import DEFAULT_SCALE, GuidanceAdapter, asking_guided
from sds3d.priors.loading import Dtype, ModelFiles, find, import_libraries, pick_dtype, toybox_folder
from sds3d.priors.lora import Lora
from sds3d.priors.mvdream import load_mvdream
from sds3d.priors.negative_attention import asking_away
from sds3d.priors.network import DiffusionPrior, frozen
from sds3d.priors.pictures import adapter_file
from sds3d.priors.pixels import Latents
from sds3d.priors.telling import AdapterFiles, ControlNetConfig
from sds3d.priors.unet_latent import DiffusersPrior, load_image_variation, load_latent_unet, load_sdxl
from sds3d.prompts.vocabulary import Vocabulary, read_vocabulary

logger = logging.getLogger(__name__)

LCM_STEPS = 50
TURBO_STEPS = 4
STUDENTS = re.compile("turbo|lightning|hyper|lcm|schnell")
COMPILED = {
    "BasicTransformerBlock", "ResnetBlock2D", "JointTransformerBlock", "FluxTransformerBlock",
    "FluxSingleTransformerBlock",
}  # fmt: skip
"""Blocks that a network repeats: each kind is compiled once, in a fraction of the time of the whole network."""


FAMILIES: dict[str, Callable[[ModelFiles], DiffusionPrior]] = {
    "StableDiffusionPipeline": load_latent_unet,
    "LatentConsistencyModelPipeline": load_latent_unet,
    "StableDiffusionXLPipeline": load_sdxl,
    "StableDiffusion3Pipeline": load_sd3,
    "FluxPipeline": load_flux,
    "StableDiffusionImageVariationPipeline": load_image_variation,
    "IFPipeline": load_deepfloyd,
    "MVDreamPipeline": load_mvdream,
}
"""Functions that load a folder, by the pipeline class in its model_index.json."""


TELLABLE = ("StableDiffusionPipeline", "LatentConsistencyModelPipeline", "StableDiffusionXLPipeline")
"""Pipelines whose U-Net may have an IP-Adapter and ControlNets."""


class DiffusersConfig(PriorConfig):
    """A text-to-image diffusion model in diffusers' layout."""

    name: Literal["diffusers"] = "diffusers"
    model: str = "toybox"
    """`toybox` (the embedded prior), a diffusers folder, a .safetensors file of a whole model, a short name such as
    sd21, or an id of the Hugging Face hub. Stable Diffusion 1, 2, XL, 3 and 3.5, FLUX.1, DeepFloyd IF, MVDream, LCM,
    Turbo and image variations are supported."""
    revision: str = ""
    """Branch, tag or commit of an id of the hub. Empty: the newest."""
    config_from: str = ""
    """For a .safetensors file: the diffusers folder, short name or id of the model whose configurations and tokenizers
    it has. Empty: those of the model that it seems to be made from."""
    multiview: bool = True
    """Denoise 4 views together with their cameras, if the model can. false: use it as a plain 2D model."""
    structure: bool = True
    """Tell a model that `sds3d toybox train --structure` trained the depth and normals of the renders. false: use it
    without them."""
    offline: bool = False
    """Never use the network. A model id must then be in the local cache. Local folders never need the network."""
    lora: str = ""
    """A .safetensors file of updates for model and text encoders: LoRA, LoHa, LoKr, full differences or DoRA."""
    lora_scale: float = 1.0
    """Factor on the updates of `lora`."""
    ip_adapter: str = ""
    """An IP-Adapter (.safetensors, or its folder) for Stable Diffusion or XL: the model then also reads the picture
    `prompts.image`. Plain, light, plus and full-face adapters are supported."""
    ip_adapter_scale: float = 1.0
    """Factor on what `ip_adapter` adds; 0.5 to 0.8 leave more to the text."""
    image_encoder: str = ""
    """Folder of the image encoder that `ip_adapter` was trained with. Empty: `image_encoder` beside its file, else that
    in the model's folder."""
    negative_attention: str = ""
    """Words that Stable Diffusion or XL avoids in its cross-attention (NASA, arXiv:2412.02687), such as "blurry": a
    negative text for few-step models, which are used with guidance.scale=1."""
    negative_attention_scale: float = Field(default=0.25, ge=0.0)
    """How strongly the model avoids them."""
    controlnets: tuple[ControlNetConfig, ...] = ()
    """ControlNets for Stable Diffusion or XL, a list of {model, kind, scale}: the model is then told depth, normals or
    edges of each render. What they add is summed."""
    image_size: int = Field(default=0, ge=0, le=4096)
    """Height and width of the model's pictures in pixels; 0: the model's own. Fewer pixels are faster. FLUX and SD3
    work at 512; U-Nets lose much quality."""
    guidance_adapter: str = ""
    """Folder that `sds3d toybox train-guidance` made for this model: with guidance.scale=1 it then predicts what it
    would under the guidance scale `embedded_guidance`, in half the time."""
    embedded_guidance: float | None = None
    """Guidance scale that FLUX.1-dev, LCM and models with a `guidance_adapter` take as an input, besides that of
    classifier-free guidance. None: 3.5, 8.5 and 5."""
    few_steps: int | None = Field(default=None, ge=0, le=1000)
    """Number of evenly spaced timesteps that a few-step model was trained at; t is rounded to these. 0: all timesteps.
    None: 50 for LCM, 4 for a U-Net with `turbo` in its id or folder name, 0 for others."""
    dtype: Dtype = "auto"
    """Type that the networks compute in. auto: float32 on a CPU; on CUDA bfloat16, or float16 if the GPU lacks it."""
    offload: bool = False
    """Keep the weights in main memory and move each layer to the GPU when it is needed: slow, but little memory."""
    vae_slicing: bool = False
    """Encode and decode pictures one by one: less memory."""
    vae_tiling: bool = False
    """Encode and decode large pictures in overlapping, blended tiles: less memory."""
    chunk: int = Field(default=0, ge=0)
    """Rows of a batch per call of the network, in whole groups of views: less memory. 0: all rows."""
    compile: bool = False
    """Compile the network's blocks with torch.compile. The first use takes minutes; then it is faster on CUDA."""

    @property
    def kind(self) -> str:
        """`toybox` for the embedded prior and those that this project trained, else `diffusers`."""
        trained_here = (Path(self.model).expanduser() / "camera_encoder").is_dir()
        return "toybox" if self.model == "toybox" or trained_here else self.name

    def vocabulary(self) -> Vocabulary | None:
        """Read the words of the prior's training from its folder. None if it is no folder, or has no such file."""
        return read_vocabulary(self._own_folder())

    def digest(self) -> str:
        """Return the digest of the folder's weights; "" if the model is no folder of this machine."""
        folder = self._own_folder()
        return weights_digest(folder) if folder.is_dir() else ""

    def _own_folder(self) -> Path:
        return toybox_folder() if self.model == "toybox" else Path(self.model).expanduser()

    def load(self, device: torch.device | str = "cpu") -> DiffusionPrior:
        """Load the model. Raises PriorError if the folder is missing, truncated, pickled or of another kind."""
        device = torch.device(device)
        dtype = pick_dtype(self.dtype, device)
        files = find(
            self.model,
            offline=self.offline,
            dtype=dtype,
            device=device,
            revision=self.revision,
            config=self.config_from,
        )
        family = str(files.index().get("_class_name"))
        if family not in FAMILIES:
            raise files.error(f"its pipeline is {family}; supported are {', '.join(FAMILIES)}")
        if self.controlnets and family not in TELLABLE:
            raise PriorError(f"prior.controlnets: {family} has no ControlNets; use Stable Diffusion or XL")
        if self.negative_attention and family not in TELLABLE:
            raise PriorError(f"prior.negative_attention: not for {family}; use Stable Diffusion or XL")
        import_libraries()
        files = replace(
            files,
            lora=self._lora(files, family),
            adapter=self._adapter(family),
            controlnets=self.controlnets,
            offload=self.offload,
            multiview=self.multiview,
            structure=self.structure,
            image_size=self.image_size,
            embedded_guidance=self.embedded_guidance,
            steps=few_steps(self, family),
        )
        prior = FAMILIES[family](files)
        if isinstance(codec := prior.family.codec, Latents):
            codec.vae.use_slicing, codec.vae.use_tiling = self.vae_slicing, self.vae_tiling
        if self.guidance_adapter:
            adapter = frozen(self._guidance_adapter(prior), device)
            scale = DEFAULT_SCALE if self.embedded_guidance is None else self.embedded_guidance
            prior.family = replace(prior.family, ask=asking_guided(prior.family.ask, adapter, scale))
        if self.negative_attention:
            tokens = prior.encode_text([self.negative_attention]).hidden
            ask = asking_away(prior.family.ask, tokens, self.negative_attention_scale)
            prior.family = replace(prior.family, ask=ask)
        prior.chunk = self.chunk
        if self.compile:
            prior.denoiser = replace(prior.denoiser, graphs=None)
            for module in prior.network.modules():
                if type(module).__name__ in COMPILED:
                    module.compile()
        for notice in [*unused(self), *notices(self, family, prior)]:
            logger.warning("%s: %s", self.model, notice)
        return prior

    def _lora(self, files: ModelFiles, family: str) -> Lora | None:
        """Read the updates in the file `lora`, if any. Raises PriorError if they cannot be read."""
        if not self.lora:
            return None
        unet = files.config("unet") if family == "StableDiffusionXLPipeline" else None
        return Lora.read(self.lora, self.lora_scale, _pipeline_class(family), unet)

    def _guidance_adapter(self, prior: DiffusionPrior) -> GuidanceAdapter:
        """Read the adapter for guidance in one call. Raises PriorError if it can't be read or is of another model."""
        folder = Path(self.guidance_adapter).expanduser()
        try:
            adapter = GuidanceAdapter.load(folder)
        except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
            problem = str(error).splitlines()[0]
            raise PriorError(f"prior.guidance_adapter: can't read {folder}: {problem}") from error
        unet = prior.unet if isinstance(prior, DiffusersPrior) else None
        if unet is None or adapter.config != GuidanceAdapter.of(unet, self.digest()).config:
            raise PriorError(
                f"prior.guidance_adapter: {folder} was made for another model than {self.model}: train one for yours "
                "with `sds3d toybox train-guidance --model FOLDER`, or remove the setting"
            )
        return adapter

    def _adapter(self, family: str) -> AdapterFiles | None:
        """Return the files of the IP-Adapter, if any. Raises PriorError if they are missing or do not suit."""
        if not self.ip_adapter:
            return None
        if family not in TELLABLE:
            raise PriorError(f"prior.ip_adapter: {family} takes none; use Stable Diffusion or XL")
        return AdapterFiles(str(adapter_file(self.ip_adapter)), self.image_encoder, self.ip_adapter_scale)

    def in_less_memory(self) -> Self:
        """Return settings that process one group of views and one picture at a time."""
        return self.model_copy(update={"chunk": 1, "vae_slicing": True})

    def view_by_view(self) -> Self:
        """Return settings of the plain 2D model."""
        return self.model_copy(update={"multiview": False})


def few_steps(config: DiffusersConfig, family: str) -> int:
    """Return the number of timesteps that the model was trained at, as far as known; 0 for all."""
    if config.few_steps is not None:
        return config.few_steps
    if family == "LatentConsistencyModelPipeline":
        return LCM_STEPS
    u_net = family in ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
    return TURBO_STEPS if u_net and "turbo" in Path(config.model).name.lower() else 0


def unused(config: DiffusersConfig) -> list[str]:
    """Return warnings about settings of parts that the model does not have, one line each."""
    changed = (
        ("image_encoder", "ip_adapter", config.image_encoder != ""),
        ("ip_adapter_scale", "ip_adapter", config.ip_adapter_scale != 1),
        ("lora_scale", "lora", config.lora_scale != 1),
        ("negative_attention_scale", "negative_attention", config.negative_attention_scale != 0.25),
    )
    return [
        f"prior.{name} has no effect without prior.{part}: set that, or remove the setting"
        for name, part, given in changed
        if given and not getattr(config, part)
    ]


def notices(config: DiffusersConfig, family: str, prior: DiffusionPrior) -> list[str]:
    """Return warnings about an unusual model, one line each."""
    if family == "StableDiffusionImageVariationPipeline":
        return ["this model reads the picture prompts.image and no text: the prompt only names the run"]
    if family == "FluxPipeline" and prior.network.config["guidance_embeds"]:
        return [
            "this model is guidance-distilled: it takes prior.embedded_guidance and has no true unconditional branch. "
            "guidance.scale=1 uses it as it was trained; rules that compare with the empty prompt work less well"
        ]
    if config.guidance_adapter:
        return ["with its guidance_adapter this model predicts under guidance in one call: set guidance.scale=1"]
    steps = few_steps(config, family)
    if steps or STUDENTS.search(f"{Path(config.model).name} {Path(config.lora).name}".lower()):
        return [
            f"this is a few-step model{f', used at {steps} timesteps' if steps else ''}. It was trained to need no "
            "classifier-free guidance: start with guidance.scale=1"
        ]
    return []


def _pipeline_class(family: str) -> Any:
    import diffusers

    return getattr(diffusers, "StableDiffusionPipeline" if family == "MVDreamPipeline" else family, object)
