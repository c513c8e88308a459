"""The embedded prior's text encoder and multi-view U-Net: stock classes, trained on toybox latents.

v-prediction on a cosine schedule. Distillation needs a model that knows poses, which good samples do not prove. Two
choices are decisive: the loss keeps its weight at high noise, where pose and text are decided (min-SNR weighting
removes it), and text and camera reach every layer through the time embedding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from torch.func import functional_call
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from sds3d.cameras import Cameras
from sds3d.priors.multiview import CameraEncoder, ViewAttention, camera_embedding, camera_features
from sds3d.priors.unet_latent import DiffusersPrior
from sds3d.toybox.autoencoder import LATENT_CHANNELS, SIZE
from sds3d.toybox.render import FOVY

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


def tokenize(tokenizer: CLIPTokenizer, prompts: Sequence[str]) -> Tensor:
    """Return padded and truncated token ids, (N, L) int64."""
    return tokenizer(
        list(prompts), padding="max_length", truncation=True, max_length=TEXT_LENGTH, return_tensors="pt"
    ).input_ids


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
    """Make a U-Net of 16M parameters, thin at 16 x 16, with attention at 8 x 8 and 4 x 4.

    Pooled text is added to the time embedding.
    """
    channels = (64, 128, 256)
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

    def __init__(self, text_encoder: CLIPTextModel, unet: UNet2DConditionModel, camera_encoder: CameraEncoder) -> None:
        super().__init__()
        self.text_encoder, self.unet, self.camera_encoder = text_encoder, unet, camera_encoder

    @classmethod
    def new(cls, tokenizer: CLIPTokenizer) -> Denoiser:
        """Make new networks."""
        unet = make_unet()
        unet.set_attn_processor(ViewAttention())  # type: ignore[arg-type]
        camera_encoder = CameraEncoder(unet.time_embedding.linear_2.out_features)
        return cls(make_text_encoder(tokenizer), unet, camera_encoder)

    @classmethod
    def of(cls, prior: DiffusersPrior) -> Denoiser:
        """Take the networks of a trained prior. Raises ValueError if it has no camera encoder."""
        if prior.camera_encoder is None:
            raise ValueError("this prior has no camera encoder: it can't be trained further")
        return cls(prior.text_encoder, prior.unet, prior.camera_encoder)

    def forward(
        self, x_t: Tensor, t: Tensor, tokens: Tensor, angles: Tensor, with_camera: Tensor, n_single: int = 0
    ) -> Tensor:
        """Return v for x_t (B, C, 16, 16), in the precision of the weights.

        t: (B,) integers. tokens: (B, L). angles: (B, 3) azimuth and elevation in degrees, distance in metres.
        with_camera: (B,) 1, or 0 to drop the camera. n_single: how many views at the end of the batch stand alone; the
        others are groups of four.
        """
        dtype = next(iter(self.camera_encoder.parameters())).dtype
        hidden = self.text_encoder(tokens).last_hidden_state
        features = camera_features(cameras_at(angles)).to(dtype)
        embedding = self.camera_encoder(features) * with_camera[:, None].to(dtype)
        with camera_embedding(self.unet, embedding):
            views = {"n_views": 4, "n_single": n_single}
            return self.unet(x_t.to(dtype), t, hidden, cross_attention_kwargs=views, return_dict=False)[0]


def cameras_at(angles: Tensor) -> Cameras:
    """Return cameras of the training pictures from angles (B, 3): azimuth, elevation, distance."""
    azimuth, elevation, distance = angles.unbind(-1)
    return Cameras(azimuth, elevation, distance, torch.full_like(azimuth, FOVY), SIZE, SIZE)


@dataclass(frozen=True)
class LatentViews:
    """Encoded pictures of n objects.

    latents: (n, 4, channels, 16, 16) float16, scaled. angles: (n, 4, 3) azimuth and elevation in degrees, distance in
    metres. tokens: (n, captions, L) int16 of the object. view_tokens: (n, 4, captions, L) int16, with words for the
    view. count: () int64, how many objects are there; the rest is room for more.
    """

    latents: Tensor
    angles: Tensor
    tokens: Tensor
    view_tokens: Tensor
    count: Tensor

    @classmethod
    def of(cls, latents: Tensor, angles: Tensor, tokens: Tensor, view_tokens: Tensor) -> LatentViews:
        """Return views without room for more."""
        return cls(latents, angles, tokens, view_tokens, torch.tensor(len(latents), device=latents.device))

    def __len__(self) -> int:
        return len(self.latents)

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return latents, angles, tokens and view_tokens."""
        return self.latents, self.angles, self.tokens, self.view_tokens

    def with_room(self, n: int) -> LatentViews:
        """Return a copy with room for n objects in all."""
        latents, angles, tokens, view_tokens = (values.new_empty(n, *values.shape[1:]) for values in self.tensors())
        room = LatentViews(latents, angles, tokens, view_tokens, torch.zeros_like(self.count))
        room.append(self, 0)
        return room

    def append(self, views: LatentViews, at: int) -> None:
        """Write further objects into the room that begins at the first `at` objects. Nothing waits for the device."""
        for room, values in zip(self.tensors(), views.tensors(), strict=True):
            room[at : at + len(values)] = values
        self.count.add_(views.count)  # in place: a CUDA graph reads it


@dataclass(frozen=True)
class Batch:
    """One training batch: groups of four views, then views that stand alone.

    x: (B, C, 16, 16). tokens: (B, L). angles: (B, 3). with_camera: (B,) 1 or 0. n_single: views that stand alone.
    rows, view: (B,) of which object, and which of its views. viewed: (B,) bool, whether the text has words for it.
    """

    x: Tensor
    tokens: Tensor
    angles: Tensor
    with_camera: Tensor
    n_single: int
    rows: Tensor
    view: Tensor
    viewed: Tensor


def draw_batch(
    data: LatentViews, null_tokens: Tensor, objects: int, generator: torch.Generator | None, together: float = 0.7
) -> Batch:
    """Draw four views together for a share of the objects, and four single views of other objects for each of the rest.

    The text is dropped for 15 % of the objects, the camera for 10 %, or for 50 % of single views.
    """
    device = data.latents.device
    groups = max(1, round(together * objects))  # of four views
    singles = 4 * (objects - groups)

    def uniform(n: int) -> Tensor:
        return torch.rand(n, generator=generator, device=device)

    def each_view(values: Tensor) -> Tensor:
        """Repeat the values of the groups for each of their views: (groups + singles, ...) to (B, ...)."""
        return torch.cat([values[:groups].repeat_interleave(4, dim=0), values[groups:]])

    total = groups + singles
    index = torch.minimum((uniform(total) * data.count).long(), data.count - 1)
    alone = torch.arange(total, device=device) >= groups
    drop_text = uniform(total) < 0.15
    drop_camera = uniform(total) < torch.where(alone, 0.5, 0.1)
    # Without a camera, view words are the only hint of the pose, so they are more frequent then.
    with_view_words = uniform(total) < torch.where(drop_camera, 0.6, 0.2)
    caption = (uniform(total) * data.tokens.shape[1]).long()

    view = torch.cat([torch.arange(4, device=device).repeat(groups), (4 * uniform(singles)).long()])  # (B,)
    rows, captions = each_view(index), each_view(caption)
    viewed, dropped = each_view(with_view_words), each_view(drop_text)
    tokens = torch.where(viewed[:, None], data.view_tokens[rows, view, captions], data.tokens[rows, captions])
    tokens = torch.where(dropped[:, None], null_tokens.to(tokens), tokens).long()
    with_camera = 1 - each_view(drop_camera).float()
    return Batch(
        data.latents[rows, view].float(),
        tokens,
        data.angles[rows, view],
        with_camera,
        singles,
        rows,
        view,
        viewed & ~dropped,
    )


def loss_weight(alpha_bar: Tensor) -> Tensor:
    """Return min(1, 4 (1 - alpha_bar)): full weight at high noise, where pose and text are decided."""
    return (4 * (1 - alpha_bar)).clamp(max=1.0)


def train_step(
    model: nn.Module,
    batch: Batch,
    alphas_bar: Tensor,
    generator: torch.Generator | None,
    further: tuple[Tensor, ...] = (),
    teacher: Callable[..., Tensor] | None = None,
) -> Tensor:
    """Return the weighted v-loss of one batch. High timesteps are drawn more often (t = 1000 u^0.6).

    Four views hold so many values that shapes stay visible in strong noise. Text and camera are only needed, and
    therefore only learned, at the highest timesteps. On a GPU, the networks run in bfloat16 with weights cast from
    float32. further: inputs of the model besides those of `Denoiser`. teacher: predicts v from the inputs of `Denoiser`
    but for the tokens; its prediction, without the noise of v, is then the target.
    """
    device = batch.x.device
    grouped = len(batch.x) - batch.n_single
    u = torch.rand(grouped // 4 + batch.n_single, generator=generator, device=device)
    t = (1000 * torch.cat([u[: grouped // 4].repeat_interleave(4), u[grouped // 4 :]]) ** 0.6).long().clamp(max=999)
    eps = torch.randn(batch.x.shape, generator=generator, device=device)
    a = alphas_bar[t][:, None, None, None]
    x_t = a.sqrt() * batch.x + (1 - a).sqrt() * eps
    v = a.sqrt() * eps - (1 - a).sqrt() * batch.x
    if teacher is not None:
        with torch.no_grad():
            v = teacher(x_t, t, batch.angles, batch.with_camera, batch.n_single).float()
    inputs = (x_t, t, batch.tokens, batch.angles, batch.with_camera, batch.n_single, *further)
    if device.type != "cpu":
        weights = {name: weight.bfloat16() for name, weight in model.named_parameters()}
        predicted = functional_call(model, weights, inputs)
    else:
        predicted = model(*inputs)
    return ((predicted.float() - v).square() * loss_weight(a)).mean()


@torch.no_grad()
def pose_gaps(model: Denoiser, data: LatentViews, alphas_bar: Tensor, offset: float, seed: int = 0) -> Tensor:
    """Return the errors of all objects with the right cameras, and with every camera rotated by `offset` degrees.

    The result is (2, N). Good samples do not prove a good prior. In distillation, a relative increase of 0.5 and more
    at 180 degrees gave correct objects, an increase of 0.04 gave Janus faces.
    """
    device, n = data.latents.device, len(data.latents)
    errors = torch.zeros(2, n, device=device)
    for first in range(0, n, 64):
        rows = slice(first, min(first + 64, n))
        x, angles = data.latents[rows].flatten(0, 1).float(), data.angles[rows].flatten(0, 1)
        tokens = data.tokens[rows, 0].repeat_interleave(4, dim=0).long()
        turned = angles + torch.tensor([offset, 0.0, 0.0], device=device)
        for timestep in (700, 800, 900, 950):
            t = torch.full((len(x),), timestep, device=device)
            a = alphas_bar[t][:, None, None, None]
            generator = torch.Generator().manual_seed(seed + timestep + first)
            eps = torch.randn(x.shape, generator=generator).to(device)
            v = a.sqrt() * eps - (1 - a).sqrt() * x
            x_t = a.sqrt() * x + (1 - a).sqrt() * eps
            for i, at in enumerate((angles, turned)):
                predicted = model(x_t, t, tokens, at, torch.ones(len(x), device=device))
                errors[i, rows] += (predicted - v).square().unflatten(0, (-1, 4)).mean(dim=(1, 2, 3, 4))
    return errors.cpu()
