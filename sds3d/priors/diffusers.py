"""Latent diffusion models in diffusers folders: Stable Diffusion's family, and the embedded toybox prior.

Epsilon- and v-prediction differ only in here. A folder with a `camera_encoder` beside the U-Net is a multi-view
model (see `multiview`); it can be asked as a plain 2D model too.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from sds3d.cameras import Cameras
from sds3d.config import Config, assets_dir
from sds3d.priors.base import Conditioning, Prediction, PriorError, expand
from sds3d.priors.multiview import CameraEncoder, ViewAttention, camera_embedding, camera_features

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]


class DiffusersConfig(Config):
    """A latent diffusion model of Stable Diffusion's kind."""

    name: Literal["diffusers"] = "diffusers"
    model: str = "toybox"
    """`toybox` (the embedded prior), a local diffusers folder, or a model id of the Hugging Face hub."""
    multiview: bool = True
    """Denoise 4 views together with their cameras, where the model can; false asks it as a plain 2D model."""
    offline: bool = False
    """Never touch the network; a model id must then be in the local cache. Local folders never do."""


class DiffusersPrior:
    """A frozen latent diffusion model behind the `Prior` contract; x is the scaled latent."""

    def __init__(
        self,
        vae: AutoencoderKL | AutoencoderTiny,
        tokenizer: CLIPTokenizer,
        text_encoder: CLIPTextModel,
        unet: UNet2DConditionModel,
        scheduler: DDIMScheduler,
        camera_encoder: CameraEncoder | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        """Takes over the networks: freezes them, moves them to `device`, joins views when there is a camera encoder."""
        self.device = torch.device(device)
        self.tokenizer = tokenizer
        self.text_encoder = text_encoder.eval().requires_grad_(False).to(self.device)  # type: ignore[arg-type]
        layout = {"device": self.device, "memory_format": torch.channels_last}
        self.vae = vae.eval().requires_grad_(False).to(**layout)
        self.unet = unet.eval().requires_grad_(False).to(**layout)
        self.camera_encoder = camera_encoder
        if camera_encoder is not None:
            self.unet.set_attn_processor(ViewAttention())  # type: ignore[arg-type]
            camera_encoder.eval().requires_grad_(False).to(self.device)
        self.n_views = 1 if camera_encoder is None else 4
        self.image_size = self.unet.config["sample_size"] * 2 ** (len(vae.config["block_out_channels"]) - 1)
        self.prediction_type: str = scheduler.config["prediction_type"]
        if self.prediction_type not in ("epsilon", "v_prediction"):
            raise PriorError(f"prediction type {self.prediction_type!r} is not epsilon or v_prediction")
        self._alphas_bar = scheduler.alphas_cumprod.to(self.device)  # (T,)

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Conditioning:
        """Last hidden states of the text encoder, (B, L, D); longer prompts are cut at the model's length."""
        tokens = self.tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=self.tokenizer.model_max_length,
            return_tensors="pt",
        )  # fmt: skip
        return Conditioning(self.text_encoder(tokens.input_ids.to(self.device)).last_hidden_state)

    def encode_image(self, rgb: Tensor) -> Tensor:
        """rgb (B, H, W, 3) in [0, 1] to latents (B, C, h, w); the posterior's mode, so that nothing is random."""
        x = (2 * rgb.permute(0, 3, 1, 2) - 1).contiguous(memory_format=torch.channels_last)
        if isinstance(self.vae, AutoencoderTiny):
            latents = self.vae.encode(x, return_dict=False)[0]
        else:
            latents = self.vae.encode(x, return_dict=False)[0].mode()
        return latents * self.vae.config["scaling_factor"]

    @torch.no_grad()
    def decode(self, x: Tensor) -> Tensor:
        """Latents (B, C, h, w) to rgb (B, H, W, 3) in [0, 1]."""
        latents = (x / self.vae.config["scaling_factor"]).contiguous(memory_format=torch.channels_last)
        decoded = self.vae.decode(latents, return_dict=False)[0]
        return (decoded.permute(0, 2, 3, 1) / 2 + 0.5).clamp(0, 1)

    def timestep(self, t: Tensor) -> Tensor:
        """The model's own integer timesteps of t in [0, 1]."""
        return (t * (len(self._alphas_bar) - 1)).round().long()

    def alpha(self, t: Tensor) -> Tensor:
        """sqrt(alpha_bar) at the nearest trained timestep."""
        return self._alphas_bar[self.timestep(t)].sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        """sqrt(1 - alpha_bar) at the nearest trained timestep."""
        return (1 - self._alphas_bar[self.timestep(t)]).sqrt()

    def predict(self, x_t: Tensor, t: Tensor, cond: Conditioning, cameras: Cameras | None) -> Prediction:
        """Noise and clean estimate for x_t (B, C, h, w) at t (B,); B is a multiple of `n_views` when cameras count."""
        return self.predict_by(self.unet, [self.camera_encoder], x_t, t, cond, cameras)

    def predict_by(
        self,
        unet: UNet2DConditionModel,
        camera_encoders: Sequence[CameraEncoder | None],
        x_t: Tensor,
        t: Tensor,
        cond: Conditioning,
        cameras: Cameras | None,
    ) -> Prediction:
        """`predict` by this U-Net, which is told of the cameras what the encoders make of them."""
        x_t = x_t.contiguous(memory_format=torch.channels_last)
        attention = None if self.camera_encoder is None else {"n_views": 1 if cameras is None else self.n_views}
        embedding = None
        if cameras is not None:
            features = camera_features(cameras.to(self.device))  # (B, 9)
            told = [encoder(features) for encoder in camera_encoders if encoder is not None]  # (B, D) each
            embedding = torch.stack(told).sum(dim=0) if told else None
        with nullcontext() if embedding is None else camera_embedding(unet, embedding):
            out = unet(x_t, self.timestep(t), cond.hidden, cross_attention_kwargs=attention, return_dict=False)[0]
        alpha, sigma = expand(self.alpha(t), x_t), expand(self.sigma(t), x_t)
        if self.prediction_type == "v_prediction":
            return Prediction(eps=alpha * out + sigma * x_t, x0=alpha * x_t - sigma * out)
        return Prediction(eps=out, x0=(x_t - sigma * out) / alpha)

    def trainable_score(self, generator: torch.Generator, rank: int = 4) -> DiffusersScore:
        """A copy with low-rank updates of its attention layers (or, with rank 0, trained as a whole) and a camera."""
        return DiffusersScore(self, generator, rank)


class DiffusersScore:
    """A copy of a prior's U-Net that is trained; unless it is trained as a whole, it shares all weights but its own."""

    def __init__(self, prior: DiffusersPrior, generator: torch.Generator, rank: int = 4) -> None:
        self.prior = prior
        frozen = {id(tensor): tensor for tensor in [*prior.unet.parameters(), *prior.unet.buffers()]}
        self.unet = copy.deepcopy(prior.unet, {} if rank == 0 else frozen)
        with torch.random.fork_rng([]):
            torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
            self.camera_encoder = CameraEncoder(prior.unet.config["block_out_channels"][0] * 4)
            if rank > 0:
                inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=ATTENTION), self.unet)
        nn.init.zeros_(self.camera_encoder.layers[-1].weight)  # type: ignore[arg-type]
        self.camera_encoder.to(prior.device)
        for parameter in self.unet.parameters() if rank == 0 else ():
            parameter.requires_grad_(True).data = parameter.data.float()
        self._trained = {
            f"{part}.{name}": parameter
            for part, network in (("unet", self.unet), ("camera", self.camera_encoder))
            for name, parameter in network.named_parameters()
            if parameter.requires_grad
        }

    def predict(self, x_t: Tensor, t: Tensor, cond: Conditioning, cameras: Cameras | None) -> Prediction:
        """As `DiffusersPrior.predict`, with gradients to `parameters`."""
        encoders = [self.prior.camera_encoder, self.camera_encoder]
        return self.prior.predict_by(self.unet, encoders, x_t, t, cond, cameras)

    def parameters(self) -> list[nn.Parameter]:
        """Low-rank updates (or all weights) and the camera's network."""
        return list(self._trained.values())

    def state_dict(self) -> dict[str, Tensor]:
        """The parameters by name."""
        return {name: parameter.detach() for name, parameter in self._trained.items()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes back what `state_dict` gave."""
        for name, parameter in self._trained.items():
            parameter.copy_(state[name])


def toybox_folder() -> Path:
    """The embedded prior's diffusers folder."""
    return assets_dir() / "toybox" / "prior"


def load_prior(config: DiffusersConfig, device: torch.device | str = "cpu") -> DiffusersPrior:
    """Loads a model folder or id in float32 on a CPU, float16 on CUDA.

    Raises PriorError, in one line, when the folder is missing, truncated or of another kind.
    """
    folder = toybox_folder() if config.model == "toybox" else Path(config.model)
    local = folder.is_dir()
    if config.model == "toybox" and not local:
        raise PriorError(f"the embedded prior is missing at {folder}: reinstall sds3d, or run `sds3d toybox train`")
    source = str(folder) if local else config.model
    offline = local or config.offline
    options: dict[str, Any] = {"local_files_only": offline, "use_safetensors": True}
    try:
        unet = UNet2DConditionModel.from_pretrained(source, subfolder="unet", **options)
        vae_config: Any = AutoencoderKL.load_config(source, subfolder="vae", local_files_only=offline)
        vae_class = AutoencoderTiny if vae_config["_class_name"] == "AutoencoderTiny" else AutoencoderKL
        vae = vae_class.from_pretrained(source, subfolder="vae", **options)
        text_encoder = CLIPTextModel.from_pretrained(source, subfolder="text_encoder", **options)
        tokenizer = CLIPTokenizer.from_pretrained(source, subfolder="tokenizer", local_files_only=offline)
        scheduler: Any = DDIMScheduler.from_pretrained(source, subfolder="scheduler", local_files_only=offline)
        camera_encoder = None
        if config.multiview and (folder / "camera_encoder").is_dir():
            camera_encoder = CameraEncoder.load(folder / "camera_encoder")
    except Exception as error:  # the libraries raise a dozen kinds, all of which mean: these weights can't be used
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        hint = (
            "check the folder, or download it again" if local else "check the id, your network, or give a local folder"
        )
        raise PriorError(f"can't load the model {config.model!r}: {reason} ({hint})") from error
    dtype = torch.float16 if torch.device(device).type == "cuda" else torch.float32
    for network in (vae, text_encoder, unet, camera_encoder):
        if network is not None:
            nn.Module.to(network, dtype=dtype)
    return DiffusersPrior(vae, tokenizer, text_encoder, unet, scheduler, camera_encoder, device)
