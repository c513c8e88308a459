"""The embedded prior's text encoder and multi-view U-Net: stock classes, trained on toybox latents.

v-prediction on a cosine schedule. Distillation needs a model that knows poses, which good samples do not prove. Two
choices are decisive: the loss keeps its weight at high noise, where pose and text are decided (min-SNR weighting
removes it), and text and camera reach every layer through the time embedding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from sds3d.cameras import Cameras
from sds3d.priors.multiview import CameraEncoder, ViewAttention, camera_embedding, camera_features
from sds3d.priors.unet_latent import DiffusersPrior
from sds3d.toybox.autoencoder import LATENT_CHANNELS

TEXT_WIDTH = 128
TEXT_LENGTH = 24


def make_tokenizer(words: Sequence[str]) -> CLIPTokenizer:
    """Make a byte-level BPE with one token for each word of the toy world. Any other text still encodes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    shifted = [256 + i for i in range(256 - len(printable))]
    letters = [chr(c) for c in [*printable, *shifted]]
    tokens = letters + [letter + "</w>" for letter in letters]
    merges: list[tuple[str, str]] = []
    split = [[*word[:-1], word[-1] + "</w>"] for word in words]
    while True:
        pairs = Counter(pair for pieces in split for pair in pairwise(pieces))
        if not pairs:
            break
        left, right = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append((left, right))
        tokens.append(left + right)
        split = [_merged(pieces, left, right) for pieces in split]
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TEXT_LENGTH)  # type: ignore[arg-type]


def _merged(pieces: list[str], left: str, right: str) -> list[str]:
    out: list[str] = []
    for piece in pieces:
        if out and out[-1] == left and piece == right:
            out[-1] = left + right
        else:
            out.append(piece)
    return out


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Make a text encoder of two layers, 128 wide."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=2 * TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TEXT_LENGTH,
            projection_dim=TEXT_WIDTH,
            bos_token_id=len(tokenizer) - 2,
            eos_token_id=len(tokenizer) - 1,
            pad_token_id=len(tokenizer) - 1,
        )
    )


def make_unet() -> UNet2DConditionModel:
    """Make a U-Net of 7.5M parameters, thin at 16 x 16, with attention at 8 x 8 and 4 x 4.

    Pooled text is added to the time embedding.
    """
    channels = (48, 96, 160)
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=channels,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=tuple(c // 32 for c in channels),  # type: ignore[arg-type]
        norm_num_groups=16,
        resnet_time_scale_shift="scale_shift",
        use_linear_projection=True,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )


def set_memory_format(network: nn.Module, memory_format: torch.memory_format) -> None:
    """Change the network's memory format in place: channels last is fast on CPUs, files require contiguous."""
    network.to(memory_format=memory_format)  # type: ignore[call-overload]


def make_scheduler() -> DDIMScheduler:
    """Make a scheduler with a cosine schedule, v-prediction, and sampling from the last timestep."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
        steps_offset=1,  # not used by this spacing, but required by the pipeline
    )


class Denoiser(nn.Module):
    """The trained networks: text encoder, U-Net and camera encoder."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.text_encoder = make_text_encoder(tokenizer)
        self.unet = make_unet()
        set_memory_format(self.unet, torch.channels_last)
        self.unet.set_attn_processor(ViewAttention())  # type: ignore[arg-type]
        self.camera_encoder = CameraEncoder(self.unet.time_embedding.linear_2.out_features)

    def load_prior(self, prior: DiffusersPrior) -> None:
        """Copy the weights of a trained prior of the same classes. Raises ValueError without a camera encoder."""
        for mine, theirs in (
            (self.text_encoder, prior.text_encoder),
            (self.unet, prior.unet),
            (self.camera_encoder, prior.camera_encoder),
        ):
            if theirs is None:
                raise ValueError("this prior has no camera encoder: it can't be trained further")
            mine.load_state_dict(theirs.state_dict())

    def forward(
        self, x_t: Tensor, t: Tensor, hidden: Tensor, cameras: Cameras, with_camera: Tensor, n_views: int
    ) -> Tensor:
        """Return v for x_t (B, C, 16, 16).

        t: (B,) integers. hidden: (B, L, D) of the text. with_camera: (B,) 1, or 0 to drop the camera.
        """
        embedding = self.camera_encoder(camera_features(cameras)) * with_camera[:, None]
        with camera_embedding(self.unet, embedding):
            return self.unet(x_t, t, hidden, cross_attention_kwargs={"n_views": n_views}, return_dict=False)[0]


@dataclass(frozen=True)
class LatentViews:
    """Encoded training pictures of N objects with four views each.

    latents: (N, 4, C, 16, 16) scaled to unit variance. cameras: 4N, the views of an object next to each other.
    tokens: (N, 4, captions, L) int64, each view's captions without view words. view_tokens: the same with view words.
    """

    latents: Tensor
    cameras: Cameras
    tokens: Tensor
    view_tokens: Tensor

    def __len__(self) -> int:
        return self.latents.shape[0]


def select(data: LatentViews, objects: Tensor) -> LatentViews:
    """Return the objects of these indices, (n,) int64."""
    rows = (4 * objects[:, None] + torch.arange(4)).flatten()
    return LatentViews(data.latents[objects], data.cameras[rows], data.tokens[objects], data.view_tokens[objects])


@dataclass(frozen=True)
class Batch:
    """One training batch: x (B, C, 16, 16), tokens (B, L), cameras (B), with_camera (B,), views per group."""

    x: Tensor
    tokens: Tensor
    cameras: Cameras
    with_camera: Tensor
    n_views: int


def draw_batch(data: LatentViews, null_tokens: Tensor, objects: int, generator: torch.Generator) -> Batch:
    """Draw four views together in 70 % of batches, else single views.

    The text is dropped for 15 % of the objects, the camera for 10 %, or for 50 % of single views.
    """

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    multi = uniform(1).item() < 0.7
    n_views, groups = (4, objects) if multi else (1, 4 * objects)
    index = torch.randint(len(data), (groups,), generator=generator)
    view = torch.arange(4).expand(groups, 4) if multi else torch.randint(4, (groups, 1), generator=generator)
    x = data.latents[index[:, None], view].flatten(0, 1).float()  # (B, C, 16, 16)

    drop_text = uniform(groups) < 0.15
    drop_camera = uniform(groups) < (0.1 if multi else 0.5)
    # Without a camera, view words are the only hint of the pose, so they are more frequent then.
    with_view_words = uniform(groups) < torch.where(drop_camera, 0.6, 0.2)
    caption = torch.randint(data.tokens.shape[2], (groups, 1), generator=generator)
    tokens = torch.where(
        with_view_words[:, None, None],
        data.view_tokens[index[:, None], view, caption],
        data.tokens[index[:, None], view, caption],
    )  # (groups, n_views, L)
    tokens = torch.where(drop_text[:, None, None], null_tokens, tokens).flatten(0, 1)
    cameras = data.cameras[(4 * index[:, None] + view).flatten()]
    with_camera = (~drop_camera).float().repeat_interleave(n_views)
    return Batch(x.contiguous(memory_format=torch.channels_last), tokens, cameras, with_camera, n_views)


def loss_weight(alpha_bar: Tensor) -> Tensor:
    """Return min(1, 4 (1 - alpha_bar)): full weight at high noise, where pose and text are decided."""
    return (4 * (1 - alpha_bar)).clamp(max=1.0)


def train_step(model: Denoiser, batch: Batch, alphas_bar: Tensor, generator: torch.Generator) -> Tensor:
    """Return the weighted v-loss of one batch. High timesteps are drawn more often (t = 1000 u^0.6).

    Four views hold so many values that shapes stay visible in strong noise. Text and camera are only needed, and
    therefore only learned, at the highest timesteps.
    """
    groups = batch.x.shape[0] // batch.n_views
    t = (1000 * torch.rand(groups, generator=generator) ** 0.6).long().clamp(max=999)
    t = t.repeat_interleave(batch.n_views)  # (B,)
    eps = torch.randn(batch.x.shape, generator=generator)
    a = alphas_bar[t][:, None, None, None]
    x_t = a.sqrt() * batch.x + (1 - a).sqrt() * eps
    v = a.sqrt() * eps - (1 - a).sqrt() * batch.x
    hidden = model.text_encoder(batch.tokens).last_hidden_state
    predicted = model(x_t, t, hidden, batch.cameras, batch.with_camera, batch.n_views)
    return ((predicted - v).square() * loss_weight(a)).mean()


@torch.no_grad()
def pose_gap(model: Denoiser, data: LatentViews, alphas_bar: Tensor, offset: float, seed: int = 0) -> float:
    """Return the relative increase of the loss when every camera is rotated by `offset` degrees.

    Good samples do not prove a good prior. In distillation, gaps of 0.5 and more at 180 degrees gave correct objects,
    a gap of 0.04 gave Janus faces.
    """
    x = data.latents.flatten(0, 1).float()  # (4N, C, 16, 16)
    hidden = model.text_encoder(data.tokens[:, :, 0].flatten(0, 1)).last_hidden_state
    turned = replace(data.cameras, azimuth=data.cameras.azimuth + offset)
    errors = {}
    for name, cameras in (("right", data.cameras), ("turned", turned)):
        generator = torch.Generator().manual_seed(seed)
        error = 0.0
        for timestep in (700, 800, 900, 950):
            t = torch.full((len(x),), timestep)
            a = alphas_bar[t][:, None, None, None]
            eps = torch.randn(x.shape, generator=generator)
            v = a.sqrt() * eps - (1 - a).sqrt() * x
            predicted = model(a.sqrt() * x + (1 - a).sqrt() * eps, t, hidden, cameras, torch.ones(len(x)), 4)
            error += (predicted - v).square().mean().item()
        errors[name] = error
    return errors["turned"] / errors["right"] - 1
