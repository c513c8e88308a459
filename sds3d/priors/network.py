"""A frozen denoising network behind the `Prior` contract, and trainable copies of it.

`Family` holds what differs between model families: how the network is called, what its output means (`noising`), how
pictures become x (`pixels`), and how texts become embeddings (`texts`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sds3d.cameras import Cameras
from sds3d.files import PriorError
from sds3d.priors.base import Prediction, PredictionType, PriorConfig, no_pictures, refuse_untaken
from sds3d.priors.graphs import Graphs
from sds3d.priors.joint import join_maps
from sds3d.priors.multiview import CameraEncoder, camera_embedding, time_embedding_of
from sds3d.priors.noising import Noising
from sds3d.priors.pixels import Codec
from sds3d.priors.texts import Texts
from sds3d.prompts.conditioning import Conditioning

Ask = Callable[[Any, Tensor, Tensor, Conditioning, int], Tensor]
"""Maps (network, x_t (B, C, h, w), timestep (B,), cond, n_views) to the network's output (B, C, h, w)."""

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]
"""Layers with low-rank updates; those with `add` process text in transformers and in pixel U-Nets."""

NetworkT = TypeVar("NetworkT", bound=nn.Module)


@dataclass(frozen=True)
class Denoiser:
    """A denoising network, ready to be called.

    network: on the device. dtype: the type it computes in; everything else is float32. camera_encoders: networks that
    add their outputs to the time embedding if cameras are given: the model's, and that of a trained copy. graphs: of
    its calls without gradients; None: calls cannot be recorded, because weights move or code is compiled.
    """

    network: Any
    dtype: torch.dtype
    camera_encoders: tuple[CameraEncoder, ...] = ()
    graphs: Graphs | None = None


@dataclass(frozen=True)
class Family:
    """What differs between families of models.

    ask: calls the network. noising: its noise levels, and what its output means. codec: maps pictures to x and back.
    texts: the embeddings of texts. image_size: height and width in pixels. n_views: views that are denoised together
    when cameras are given. memory_format: of the network's inputs. picture: maps pictures (B, H, W, 3) in [0, 1] to
    their embeddings (B, T, D); None: the model takes none. takes_structure: whether `ask` takes the renders' structure.
    without_structure: whether it also works without. takes_light: whether it takes the light of the structure.
    """

    ask: Ask
    noising: Noising
    codec: Codec
    texts: Texts
    image_size: int
    n_views: int = 1
    memory_format: torch.memory_format = torch.contiguous_format
    picture: Callable[[Tensor], Tensor] | None = None
    takes_structure: bool = False
    without_structure: bool = False
    takes_light: bool = False


class DiffusionPrior:
    """A frozen diffusion model behind the `Prior` contract.

    network: frozen, on the device, in the type it computes in. camera_encoder: for a model that sees cameras.
    """

    def __init__(
        self, family: Family, network: Any, device: torch.device, camera_encoder: CameraEncoder | None = None
    ) -> None:
        self.family = family
        self.network = network
        self.device = device
        self.camera_encoder = camera_encoder
        encoders = () if camera_encoder is None else (camera_encoder,)
        self.denoiser = Denoiser(network, network.dtype, encoders, None if hasattr(network, "_hf_hook") else Graphs())
        self.prediction_type: PredictionType = family.noising.prediction_type
        self.image_size = family.image_size
        self.n_views = family.n_views
        self.takes_cameras = camera_encoder is not None
        self.takes_pictures = family.picture is not None
        self.takes_structure = family.takes_structure
        self.needs_structure = family.takes_structure and not family.without_structure
        self.takes_light = family.takes_light
        self.shift = family.noising.shift
        self.chunk = 0
        """Rows of a batch per call of the network, in whole groups of views; 0: all."""
        self._stand_ins: dict[PriorConfig, DiffusionPrior] = {}

    def encode_text(self, prompts: Sequence[str]) -> Conditioning:
        """Return embeddings of B texts; long ones are cut at the model's length."""
        return self.family.texts(prompts)

    def encode_image(self, rgb: Tensor) -> Tensor:
        """Map rgb (B, H, W, 3) in [0, 1] to x (B, C, h, w), without randomness."""
        return self.family.codec.encode(rgb)

    @torch.no_grad()
    def encode_picture(self, rgb: Tensor) -> Tensor:
        """Map pictures (B, H, W, 3) in [0, 1] to embeddings (B, T, D). Raises PriorError if the model takes none."""
        if self.family.picture is None:
            raise no_pictures(self)
        return self.family.picture(rgb.to(self.device))

    def decode(self, x: Tensor) -> Tensor:
        """Map x (B, C, h, w) to rgb (B, H, W, 3) in [0, 1]."""
        return self.family.codec.decode(x)

    def timestep(self, t: Tensor) -> Tensor:
        """Return the model's timesteps for t in [0, 1]."""
        return self.family.noising.timestep(t)

    def alpha(self, t: Tensor) -> Tensor:
        """Return the signal scale at t."""
        return self.family.noising.alpha(t)

    def sigma(self, t: Tensor) -> Tensor:
        """Return the noise scale at t."""
        return self.family.noising.sigma(t)

    def predict(self, x_t: Tensor, t: Tensor, cond: Conditioning, cameras: Cameras | None) -> Prediction:
        """Predict noise and clean estimate of x_t (B, C, h, w) at t (B,); B is a multiple of `n_views` with cameras."""
        return self.predict_by(self.denoiser, x_t, t, cond, cameras)

    def predict_apart(self, x_t: Tensor, t: Tensor, cond: Conditioning, cameras: Cameras) -> Prediction:
        """Predict each view by itself, with its camera, for models that are also trained on single views."""
        return self.predict_by(self.denoiser, x_t, t, cond, cameras, together=1)

    def predict_by(
        self,
        denoiser: Denoiser,
        x_t: Tensor,
        t: Tensor,
        cond: Conditioning,
        cameras: Cameras | None,
        together: int = 0,
        ask: Ask | None = None,
    ) -> Prediction:
        """Predict as `predict` does, by another denoiser of the family.

        together: rows that are denoised together; 0: `n_views` with cameras, else 1. ask: calls the network in place of
        the family's own function.
        """
        refuse_untaken(self, cond)
        family, dtype, asking = self.family, denoiser.dtype, ask or self.family.ask
        n_views = together or (1 if cameras is None else self.n_views)

        def predict(rows: slice) -> Prediction:
            told = cond[rows].tensors()
            if cameras is not None and denoiser.camera_encoders:
                seen = cameras[rows].to(self.device)
                embedded = [encoder.embed(seen) for encoder in denoiser.camera_encoders]  # (B, D) each
                told["camera"] = torch.stack(embedded).sum(dim=0)

            def call(x: Tensor, t: Tensor, *values: Tensor) -> tuple[Tensor, Tensor]:
                given = {name: value.to(dtype) for name, value in zip(told, values, strict=True)}
                embedding = given.pop("camera", None)
                x = x.contiguous(memory_format=family.memory_format)
                with nullcontext() if embedding is None else camera_embedding(denoiser.network, embedding):
                    out = asking(denoiser.network, x.to(dtype), self.timestep(t), Conditioning.of(given), n_views)
                prediction = family.noising.prediction(out.float(), x, t)
                return prediction.eps, prediction.x0

            inputs = [x_t[rows], t[rows], *told.values()]
            if denoiser.graphs is None or ask is not None:
                return Prediction(*call(*inputs))
            return Prediction(*denoiser.graphs(call, (n_views, *told), inputs))

        group = max(together, self.n_views)
        size = group * -(-self.chunk // group) or len(x_t)
        parts = [predict(slice(i, i + size)) for i in range(0, len(x_t), size)]
        return parts[0] if len(parts) == 1 else Prediction.cat(parts)

    def trainable_score(self, generator: torch.Generator, rank: int = 4) -> TrainableCopy:
        """Return a copy with a camera network and low-rank updates of its attention layers; rank 0: all weights.

        Raises PriorError if the network is offloaded.
        """
        self._refuse_offloaded()
        return trainable_copy(self, generator, rank)

    def joint_score(self, generator: torch.Generator, rank: int, maps: int) -> TrainableCopy:
        """Return a copy whose calls take `maps` rows that attend to each other, each with low-rank updates of its own.

        Raises PriorError if the network is offloaded, or is no U-Net of Stable Diffusion's kind.
        """
        self._refuse_offloaded()
        return joint_copy(self, generator, rank, maps)

    def _refuse_offloaded(self) -> None:
        if hasattr(self.network, "_hf_hook"):
            raise PriorError("a copy of an offloaded model can't be trained: set prior.offload=false, or another rule")

    def stand_in(self, settings: PriorConfig, load: Callable[[], DiffusionPrior]) -> DiffusionPrior:
        """Return another model that predicts in this one's place, see `in_place_of`.

        It is loaded in the first call with these settings, and kept in memory as long as this model.
        """
        if settings not in self._stand_ins:
            self._stand_ins[settings] = in_place_of(self, load())
        return self._stand_ins[settings]


def in_place_of(prior: DiffusionPrior, other: DiffusionPrior) -> DiffusionPrior:
    """Give another model the texts and pictures of `prior`, so that it can predict in its place. Returns the model.

    Raises PriorError if its latents, text embeddings or noise levels are others.
    """
    t = torch.linspace(0, 1, 65, device=prior.device)
    ours, theirs = (_shape_of(model) for model in (prior, other))
    for name, value in ours.items():
        if theirs[name] != value:
            raise PriorError(f"the model has {name} {theirs[name]}, the prior {value}: give a model of the same family")
    for level in ("alpha", "sigma"):
        if not torch.allclose(getattr(prior, level)(t), getattr(other, level)(t), atol=1e-3):
            raise PriorError("the model was trained with other noise levels than the prior: give another model")
    codec, texts = prior.family.codec, prior.family.texts
    other.family = replace(other.family, codec=codec, texts=texts, image_size=prior.image_size)
    other.image_size, other.chunk = prior.image_size, prior.chunk
    return other


def _shape_of(model: DiffusionPrior) -> dict[str, Any]:
    """Return what two models must have in common to take the same latents and text embeddings."""
    config, vae = model.network.config, getattr(model.family.codec, "vae", None)
    return {
        "channels": config.get("in_channels"),
        "text width": config.get("cross_attention_dim") or config.get("joint_attention_dim"),
        "pooled text": config.get("addition_embed_type"),
        "latent scale": None if vae is None else vae.config.get("scaling_factor"),
        "pictures": model.takes_pictures,
        "structure": model.takes_structure,
    }


class TrainableCopy:
    """A copy of a prior's network, of which some weights are trained. It may share the others with the prior.

    trained: the trained weights by name, in float32, whatever the network computes in. together: rows that each call
    denoises together; 0: those of the prior. recordable: whether calls, and updates, can be recorded as CUDA graphs.
    """

    def __init__(
        self, prior: DiffusionPrior, denoiser: Denoiser, trained: dict[str, nn.Parameter], together: int = 0
    ) -> None:
        self.prior, self.denoiser, self.together = prior, denoiser, together
        self.recordable = denoiser.graphs is not None
        self._trained = trained

    def predict(self, x_t: Tensor, t: Tensor, cond: Conditioning, cameras: Cameras | None) -> Prediction:
        """Predict as `DiffusionPrior.predict` does, with gradients to `parameters`."""
        return self.prior.predict_by(self.denoiser, x_t, t, cond, cameras, self.together)

    def parameters(self) -> list[nn.Parameter]:
        """Return the low-rank updates (or all weights) and the camera's network, if there is one."""
        return list(self._trained.values())

    def state_dict(self) -> dict[str, Tensor]:
        """Return the parameters by name."""
        return {name: parameter.detach() for name, parameter in self._trained.items()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        for name, parameter in self._trained.items():
            parameter.copy_(state[name])


def trainable_copy(prior: DiffusionPrior, generator: torch.Generator, rank: int) -> TrainableCopy:
    """Return a copy with low-rank updates, or for rank 0 with weights of its own, that sees cameras.

    A camera network adds a vector to the time embedding; the vector starts at zero.
    """
    network = _copied(prior, share=rank > 0)
    with torch.random.fork_rng([]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        camera_encoder = CameraEncoder(time_embedding_of(prior.network)[1])
        if rank > 0:
            from peft import LoraConfig, inject_adapter_in_model

            inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=ATTENTION), network)
    nn.init.zeros_(camera_encoder.layers[-1].weight)  # type: ignore[arg-type]
    camera_encoder.to(prior.device)
    if rank == 0:
        network.float().requires_grad_(True)
    trained = _trained("network", network) | _trained("camera", camera_encoder)
    dtype = torch.float32 if rank == 0 else prior.denoiser.dtype
    encoders = (*prior.denoiser.camera_encoders, camera_encoder)
    graphs = None if prior.denoiser.graphs is None else Graphs()
    return TrainableCopy(prior, Denoiser(network, dtype, encoders, graphs), trained)


def joint_copy(prior: DiffusionPrior, generator: torch.Generator, rank: int, maps: int) -> TrainableCopy:
    """Return a copy that denoises maps together, see `join_maps`."""
    network = _copied(prior, share=True)
    with torch.random.fork_rng([]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        join_maps(network, maps, rank, ATTENTION)
    trained = _trained("network", network)
    # Not recorded as graphs: peft chooses the updates of a row by indices on the host.
    return TrainableCopy(prior, Denoiser(network, prior.denoiser.dtype), trained, maps)


def _copied(prior: DiffusionPrior, share: bool) -> Any:
    """Return a copy of a prior's network. share: whether its weights are the prior's own."""
    kept = {id(tensor): tensor for tensor in [*prior.network.parameters(), *prior.network.buffers()]}
    return copy.deepcopy(prior.network, kept if share else {})


def _trained(part: str, network: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters with a gradient, by name, in float32: low-rank updates have the type of their layer."""
    trained = {f"{part}.{name}": p for name, p in network.named_parameters() if p.requires_grad}
    for parameter in trained.values():
        parameter.data = parameter.data.float()
    return trained


def frozen(network: NetworkT, device: torch.device, memory_format: torch.memory_format | None = None) -> NetworkT:
    """Return the network without gradients or dropout, on the device. An offloaded network moves its layers itself."""
    network.eval().requires_grad_(False)
    if hasattr(network, "_hf_hook"):
        return network
    layout: dict[str, Any] = {} if memory_format is None else {"memory_format": memory_format}
    return network.to(device=device, **layout)
