"""Latent diffusion U-Nets: Stable Diffusion 1 and 2, SDXL, LCM and other few-step students, and multi-view models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sds3d.files import PriorError
from sds3d.priors.control import Control, load_control, residuals
from sds3d.priors.linear_encoder import fold_linear_encoder
from sds3d.priors.loading import ModelFiles
from sds3d.priors.multiview import CameraEncoder, ViewAttention
from sds3d.priors.network import Ask, DiffusionPrior, Family, frozen
from sds3d.priors.noising import Diffusion, Flow, Noising, is_flow, shift_of
from sds3d.priors.picture_adapter import FOLDER as PICTURE_ADAPTER
from sds3d.priors.picture_adapter import PictureAdapter, asking_with_pictures
from sds3d.priors.pictures import Adapter, load_adapter, picture_encoder
from sds3d.priors.pixels import Latents, vae_format
from sds3d.priors.structure import FOLDER, MAPS, StructureEncoder, asking_with_structure
from sds3d.priors.texts import Encode, Texts, clip_embedding, tokens_of
from sds3d.prompts.conditioning import Conditioning
from sds3d.prompts.vocabulary import Vocabulary, read_vocabulary

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

VIEWS = 4  # denoised together by multi-view models
LCM_GUIDANCE = 8.5
_LEAST_LATENTS = 8  # a side; a VAE that seems to be trained on smaller ones does not tell its size


@dataclass(frozen=True)
class Networks:
    """The parts of a latent diffusion model.

    text_encoder: the network, or a function that loads it when needed. vocabulary: the words that it was trained with,
    if they are few; texts are put into these words. structure_encoder: what tells the U-Net the structure of renders.
    adapter: an IP-Adapter in the U-Net. controls: its ControlNets. picture_adapter: that of a prior of the toy world.
    """

    vae: AutoencoderKL | AutoencoderTiny
    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel | Callable[[], CLIPTextModel]
    unet: UNet2DConditionModel
    noising: Noising
    camera_encoder: CameraEncoder | None = None
    vocabulary: Vocabulary | None = None
    structure_encoder: StructureEncoder | None = None
    adapter: Adapter | None = None
    controls: tuple[Control, ...] = ()
    picture_adapter: PictureAdapter | None = None


@dataclass(frozen=True)
class Variant:
    """How a latent diffusion model differs from Stable Diffusion.

    texts: loads another encoding of texts. ask: calls the U-Net in another way. image_size: height and width in pixels;
    0: the model's own.
    """

    texts: Callable[[], Encode] | None = None
    ask: Ask | None = None
    image_size: int = 0


class DiffusersPrior(DiffusionPrior):
    """A frozen latent U-Net behind the `Prior` contract; x is the scaled latent."""

    def __init__(self, networks: Networks, device: torch.device | str = "cpu", variant: Variant = Variant()) -> None:
        """Freeze the networks, move them to `device`, and join the views if there is a camera encoder."""
        device, camera_encoder = torch.device(device), networks.camera_encoder
        self.vae = frozen(networks.vae, device, vae_format(device))
        self.unet = frozen(networks.unet, device, torch.channels_last)
        self.tokenizer = networks.tokenizer
        self._text_encoder = networks.text_encoder
        self._vocabulary = networks.vocabulary
        if camera_encoder is not None:
            self.unet.set_attn_processor(ViewAttention())  # type: ignore[arg-type]
            frozen(camera_encoder, device)
        self.structure_encoder = encoder = networks.structure_encoder
        ask, picture = variant.ask or asking(views=camera_encoder is not None), None
        if encoder is not None:
            ask = asking_with_structure(ask, frozen(encoder, device))
        self.picture_adapter = adapter = networks.picture_adapter
        if adapter is not None:
            ask, picture = asking_with_pictures(ask, frozen(adapter, device)), adapter.read
        elif networks.adapter is not None:
            picture = networks.adapter.encoder
        family = Family(
            ask,
            networks.noising,
            Latents(self.vae),
            Texts(variant.texts or self._load_texts, device),
            image_size_of(self.vae, variant.image_size, self.unet.config["sample_size"]),
            1 if camera_encoder is None else VIEWS,
            torch.channels_last,
            takes_structure=encoder is not None or bool(networks.controls),
            without_structure=not networks.controls,
            takes_light=encoder is not None and encoder.maps > MAPS,
            picture=picture,
        )
        super().__init__(family, self.unet, device, camera_encoder)

    @property
    def text_encoder(self) -> CLIPTextModel:
        """The text encoder, loaded again if the prior does not keep it."""
        kept = self._text_encoder
        encoder: Any = kept if isinstance(kept, nn.Module) else kept()
        return frozen(encoder, self.device)

    def _load_texts(self) -> Encode:
        encoder, tokenizer, vocabulary = self.text_encoder, self.tokenizer, self._vocabulary

        def encode(text: str) -> Conditioning:
            text = text if vocabulary is None else vocabulary.read(text).text
            ids = tokens_of(tokenizer, text, tokenizer.model_max_length).input_ids
            return Conditioning(encoder(ids.to(encoder.device)).last_hidden_state)

        return encode


def asking(
    *,
    views: bool = False,
    size: int = 0,
    guidance: Tensor | None = None,
    adapter: Adapter | None = None,
    controls: Sequence[Control] = (),
) -> Ask:
    """Return a function that calls a latent U-Net.

    views: whether it has `ViewAttention`. size: height and width in pixels that SDXL takes as original and target size,
    without cropping (arXiv:2307.01952, sec. 2.2); 0 for other models. guidance: (1, D) on the device, the embedding of
    the guidance scale for a student that takes it besides the time (LCM, arXiv:2310.04378, sec. 4.2). adapter: its
    IP-Adapter. controls: its ControlNets.
    """

    def ask(unet: Any, x_t: Tensor, timestep: Tensor, cond: Conditioning, n_views: int) -> Tensor:
        options: dict[str, Any] = {"cross_attention_kwargs": {"n_views": n_views} if views else None}
        further: dict[str, Any] = {}
        if size:
            whole, cropped = x_t.new_full((len(x_t), 2), size), x_t.new_zeros(len(x_t), 2)
            sizes = torch.cat([whole, cropped, whole], dim=1)  # (B, 6); filled on the device, so nobody waits
            further = {"text_embeds": cond.pooled, "time_ids": sizes}
        if controls and cond.structure is not None:
            told = dict(further) or None
            options |= residuals(controls, x_t, timestep, cond.hidden, cond.structure, told)
        if adapter is not None:
            further["image_embeds"] = adapter.embeds(cond.pictures, len(x_t), x_t.dtype)
        if guidance is not None:
            options["timestep_cond"] = guidance.to(x_t).expand(len(x_t), -1)
        return unet(x_t, timestep, cond.hidden, added_cond_kwargs=further or None, **options, return_dict=False)[0]

    return ask


def guidance_embedding(scale: float, width: int) -> Tensor:
    """Return sines and cosines of 1000 `scale`, (1, width)."""
    half = width // 2
    frequencies = torch.exp(-torch.log(torch.tensor(10000.0)) / (half - 1) * torch.arange(half))
    angles = 1000 * scale * frequencies
    return torch.nn.functional.pad(torch.cat([angles.sin(), angles.cos()]), (0, width % 2))[None]


def image_size_of(vae: Any, wanted: int, sample_size: int | list[int] | None, patch: int = 1) -> int:
    """Return the height and width in pixels: as wanted, by the denoiser's `sample_size`, or by the VAE's, which is in
    pixels.

    Raises PriorError if patches do not fit, or if the configuration has no size.
    """
    factor = 2 ** (len(vae.config["block_out_channels"]) - 1)
    if wanted % (factor * patch):
        raise PriorError(f"prior.image_size={wanted}: this model needs a multiple of {factor * patch} pixels")
    own = vae.config.get("sample_size")
    if sample_size is None and isinstance(own, int) and own >= _LEAST_LATENTS * factor:
        return wanted or own
    return wanted or factor * side_of(sample_size)


def side_of(sample_size: int | list[int] | None) -> int:
    """Return the side of square samples. Raises PriorError if they are not square, or if there is no size."""
    sides = {sample_size} if sample_size is None or isinstance(sample_size, int) else set(sample_size)
    side = sides.pop()
    if sides or side is None:
        told = "not told" if side is None else f"{sample_size}, which is not square"
        raise PriorError(f"the size of this model's pictures is {told}: set it, for example prior.image_size=512")
    return side


def load_vae(files: ModelFiles) -> Any:
    """Load AutoencoderKL, or AutoencoderTiny with a folded linear encoder.

    AutoencoderKL is in float32 for a model in float16, which overflows SDXL's.
    """
    from diffusers import AutoencoderKL, AutoencoderTiny

    tiny = files.config("vae")["_class_name"] == "AutoencoderTiny"
    dtype = torch.float32 if files.dtype == torch.float16 and not tiny else files.dtype
    vae = files.network(AutoencoderTiny if tiny else AutoencoderKL, "vae", dtype)
    return fold_linear_encoder(vae) if tiny else vae


def load_noising(files: ModelFiles) -> Noising:
    """Load the noise levels of the folder's scheduler, whatever its sampler: diffusion, or rectified flow."""
    from diffusers import DDIMScheduler

    config = files.scheduler()
    named = str(config.get("_class_name"))
    if "EDM" in named:
        raise files.error("its scheduler is EDM's, which scales inputs in another way and is not supported")
    if is_flow(config):
        return Flow(files.steps, shift_of(config))
    if not config.keys() & {"beta_schedule", "trained_betas"}:
        raise files.error(f"its scheduler, {named}, names no noise levels that are known: use a DDIMScheduler")
    with files.explained():
        scheduler = DDIMScheduler.from_config(config)
    return Diffusion(scheduler, files.device, files.steps)


def load_latent_unet(files: ModelFiles) -> DiffusersPrior:
    """Load a folder of Stable Diffusion 1 or 2, of LCM's kind, or one with a `camera_encoder` next to the U-Net."""
    networks = _networks(files)
    variant = Variant(ask=_asking(networks, files), image_size=files.image_size)
    return DiffusersPrior(networks, files.device, variant)


def load_image_variation(files: ModelFiles) -> DiffusionPrior:
    """Load a folder of StableDiffusionImageVariationPipeline: it reads a picture in place of the text.

    Texts are encoded as one token of zeros, which is what the model is told without a picture.
    """
    from diffusers import UNet2DConditionModel

    unet = frozen(files.denoiser(UNet2DConditionModel, "unet"), files.device, torch.channels_last)
    vae = frozen(load_vae(files), files.device, vae_format(files.device))
    if not files.has("image_encoder"):
        raise files.error("image_encoder is missing")
    encoder, width = picture_encoder(files), unet.config["cross_attention_dim"]
    if (told := files.config("image_encoder")["projection_dim"]) != width:
        raise files.error(f"its image encoder has {told} values and its U-Net takes {width}")

    def ask(unet: Any, x_t: Tensor, timestep: Tensor, cond: Conditioning, n_views: int) -> Tensor:
        told = cond.hidden if cond.pictures is None else cond.pictures
        return unet(x_t, timestep, told, return_dict=False)[0]

    texts = Texts(lambda: lambda text: Conditioning(torch.zeros(1, 1, width)), files.device)
    size = image_size_of(vae, files.image_size, unet.config["sample_size"])
    family = Family(ask, load_noising(files), Latents(vae), texts, size, 1, torch.channels_last, encoder)
    return DiffusionPrior(family, unet, files.device)


def load_sdxl(files: ModelFiles) -> DiffusersPrior:
    """Load a folder of SDXL."""
    networks = _networks(files)
    size = image_size_of(networks.vae, files.image_size, networks.unet.config["sample_size"])
    variant = Variant(lambda: load_sdxl_texts(files), _asking(networks, files, size), files.image_size)
    return DiffusersPrior(networks, files.device, variant)


def _asking(networks: Networks, files: ModelFiles, size: int = 0) -> Ask:
    embedding, scale = None, files.embedded_guidance
    if (width := networks.unet.config["time_cond_proj_dim"]) is not None:
        # The paper's w is S - 1.
        embedding = guidance_embedding((LCM_GUIDANCE if scale is None else scale) - 1, width)
        embedding = embedding.to(files.device)
    return asking(
        views=networks.camera_encoder is not None,
        size=size,
        guidance=embedding,
        adapter=networks.adapter,
        controls=networks.controls,
    )


def _networks(files: ModelFiles) -> Networks:
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    unet, vae = files.network(UNet2DConditionModel, "unet"), load_vae(files)
    channels = unet.config["in_channels"]
    if channels != vae.config["latent_channels"]:
        raise files.error(f"its U-Net takes {channels} channels, more than latents have: use a text-to-image model")
    camera_encoder = None
    if files.multiview and files.has("camera_encoder"):
        with files.explained():
            camera_encoder = CameraEncoder.load(files.folder / "camera_encoder")
    structure_encoder = None
    if files.structure and files.has(FOLDER):
        with files.explained():
            structure_encoder = StructureEncoder.load(files.folder / FOLDER)
    if camera_encoder is not None and (files.adapter is not None or files.controlnets):
        raise files.error("an IP-Adapter or a ControlNet needs a model of single views: set prior.multiview=false")
    adapter = None if files.adapter is None else load_adapter(files.adapter, files, unet)
    picture_adapter = None
    if adapter is None and files.has(PICTURE_ADAPTER):
        with files.explained():
            picture_adapter = PictureAdapter.load(files.folder / PICTURE_ADAPTER)
    controls = tuple(load_control(config, files, unet) for config in files.controlnets)
    return Networks(
        vae,
        files.plain(CLIPTokenizer, "tokenizer"),
        lambda: files.text_encoder(CLIPTextModel, "text_encoder"),
        files.ready(unet, "unet"),
        load_noising(files),
        camera_encoder,
        read_vocabulary(files.folder),
        structure_encoder,
        adapter,
        controls,
        picture_adapter,
    )


def load_sdxl_texts(files: ModelFiles) -> Encode:
    """Return a function that encodes texts by SDXL's two encoders. The empty text is zeros if the folder says so."""
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    kinds = {"": CLIPTextModel, "_2": CLIPTextModelWithProjection}
    encoders = [
        (files.plain(CLIPTokenizer, f"tokenizer{n}"), files.text_encoder(kind, f"text_encoder{n}"))
        for n, kind in kinds.items()
    ]
    zeros = files.index().get("force_zeros_for_empty_prompt", True)

    def encode(text: str) -> Conditioning:
        (first, _), (second, pooled) = [clip_embedding(*pair, text) for pair in encoders]
        hidden = torch.cat([first, second], dim=-1)
        if zeros and not text:
            hidden, pooled = torch.zeros_like(hidden), torch.zeros_like(pooled)
        return Conditioning(hidden, pooled)

    return encode
