"""A frozen denoising network behind the `Prior` contract, and trainable copies of it.

What differs between model families is handed over: how the network is asked, what its output means (`noising`), how
pictures become x (`pixels`) and texts embeddings (`texts`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, TypeVar

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from sds3d.cameras import Cameras
from sds3d.files import PriorError
from sds3d.priors.base import Prediction, PredictionType
from sds3d.priors.multiview import CameraEncoder, camera_embedding, time_embedding_of
from sds3d.priors.noising import Noising
from sds3d.priors.pixels import Codec
from sds3d.priors.texts import Texts
from sds3d.prompts.conditioning import Conditioning

Ask = Callable[[Any, Tensor, Tensor, Conditioning, int], Tensor]
"""(network, x_t (B, C, h, w), timestep (B,), cond, n_views) to the network's output (B, C, h, w)."""

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]
"""Layers with low-rank updates; those with `add` are the text's in transformers and in pixel U-Nets."""

NetworkT = TypeVar("NetworkT", bound=nn.Module)


class DiffusionPrior:
    """A frozen diffusion model behind the `Prior` contract.

    network: frozen, on the device, in the type it computes in. All else is float32: x, alpha, sigma, guidance.
    camera_encoder: gives what is added to the time embedding; with one, `n_views` views are denoised together.
    n_views: 1 without a camera encoder.
    """

    def __init__(
        self,
        network: Any,
        ask: Ask,
        noising: Noising,
        codec: Codec,
        texts: Texts,
        image_size: int,
        device: torch.device,
        camera_encoder: CameraEncoder | None = None,
        n_views: int = 1,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        self.network = network
        self.ask = ask
        self.noising = noising
        self.prediction_type: PredictionType = noising.prediction_type
        self.codec = codec
        self.texts = texts
        self.image_size = image_size
        self.device = device
        self.camera_encoder = camera_encoder
        self.n_views = n_views
        self.memory_format = memory_format
        self.shift = noising.shift
        self.chunk = 0
        self.dtype: torch.dtype = network.dtype

    def encode_text(self, prompts: Sequence[str]) -> Conditioning:
        """Embeddings of B texts; longer ones are cut at the model's length."""
        return self.texts(prompts)

    def encode_image(self, rgb: Tensor) -> Tensor:
        """rgb (B, H, W, 3) in [0, 1] to x (B, C, h, w); nothing is random."""
        return self.codec.encode(rgb)

    def decode(self, x: Tensor) -> Tensor:
        """x (B, C, h, w) to rgb (B, H, W, 3) in [0, 1]."""
        return self.codec.decode(x)

    def timestep(self, t: Tensor) -> Tensor:
        """The model's own timesteps of t in [0, 1]."""
        return self.noising.timestep(t)

    def alpha(self, t: Tensor) -> Tensor:
        """Signal scale at t."""
        return self.noising.alpha(t)

    def sigma(self, t: Tensor) -> Tensor:
        """Noise scale at t."""
        return self.noising.sigma(t)

    def predict(self, x_t: Tensor, t: Tensor, cond: Conditioning, cameras: Cameras | None) -> Prediction:
        """Noise and clean estimate for x_t (B, C, h, w) at t (B,); B is a multiple of `n_views` when cameras count."""
        return self.predict_by(self.network, self.dtype, [self.camera_encoder], x_t, t, cond, cameras)

    def predict_by(
        self,
        network: Any,
        dtype: torch.dtype,
        camera_encoders: Sequence[CameraEncoder | None],
        x_t: Tensor,
        t: Tensor,
        cond: Conditioning,
        cameras: Cameras | None,
    ) -> Prediction:
        """`predict` by this network, which is told of the cameras what the encoders make of them."""
        n_views = 1 if cameras is None else self.n_views

        def ask(rows: slice) -> Prediction:
            x = x_t[rows].contiguous(memory_format=self.memory_format)
            embedding = None
            if cameras is not None:
                seen = cameras[rows].to(self.device)
                told = [encoder.embed(seen) for encoder in camera_encoders if encoder is not None]  # (B, D) each
                embedding = torch.stack(told).sum(dim=0) if told else None
            text = cond[rows]
            text = Conditioning(text.hidden.to(dtype), None if text.pooled is None else text.pooled.to(dtype))
            with nullcontext() if embedding is None else camera_embedding(network, embedding):
                out = self.ask(network, x.to(dtype), self.timestep(t[rows]), text, n_views)
            return self.noising.prediction(out.float(), x, t[rows])

        size = self.n_views * -(-self.chunk // self.n_views) or len(x_t)
        parts = [ask(slice(i, i + size)) for i in range(0, len(x_t), size)]
        return parts[0] if len(parts) == 1 else Prediction.cat(parts)

    def trainable_score(self, generator: torch.Generator, rank: int = 4) -> TrainableCopy:
        """A copy with low-rank updates of its attention layers (or, with rank 0, trained as a whole) and a camera.

        Raises PriorError when the network is offloaded.
        """
        if hasattr(self.network, "_hf_hook"):
            raise PriorError("a copy of an offloaded model can't be trained: set prior.offload=false, or another rule")
        return TrainableCopy(self, generator, rank)


class TrainableCopy:
    """A copy of a prior's network that is trained; unless it is trained as a whole, it shares all weights but its own.

    The trained weights are float32, whatever the network computes in. The camera reaches it by a vector of its own on
    the time embedding, zero at first.
    """

    def __init__(self, prior: DiffusionPrior, generator: torch.Generator, rank: int = 4) -> None:
        self.prior = prior
        frozen = {id(tensor): tensor for tensor in [*prior.network.parameters(), *prior.network.buffers()]}
        self.network = copy.deepcopy(prior.network, {} if rank == 0 else frozen)
        self.dtype = torch.float32 if rank == 0 else prior.dtype
        with torch.random.fork_rng([]):
            torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
            self.camera_encoder = CameraEncoder(time_embedding_of(prior.network)[1])
            if rank > 0:
                inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=ATTENTION), self.network)
        nn.init.zeros_(self.camera_encoder.layers[-1].weight)  # type: ignore[arg-type]
        self.camera_encoder.to(prior.device)
        if rank == 0:
            self.network.float().requires_grad_(True)
        for parameter in self.network.parameters():
            if parameter.requires_grad:  # low-rank updates come in the type of the layer they belong to
                parameter.data = parameter.data.float()
        self._trained = {
            f"{part}.{name}": parameter
            for part, network in (("network", self.network), ("camera", self.camera_encoder))
            for name, parameter in network.named_parameters()
            if parameter.requires_grad
        }

    def predict(self, x_t: Tensor, t: Tensor, cond: Conditioning, cameras: Cameras | None) -> Prediction:
        """As `DiffusionPrior.predict`, with gradients to `parameters`."""
        encoders = [self.prior.camera_encoder, self.camera_encoder]
        return self.prior.predict_by(self.network, self.dtype, encoders, x_t, t, cond, cameras)

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


def frozen(network: NetworkT, device: torch.device, memory_format: torch.memory_format | None = None) -> NetworkT:
    """The network without gradients or dropout, on the device; an offloaded one brings its layers there itself."""
    network.eval().requires_grad_(False)
    if hasattr(network, "_hf_hook"):
        return network
    layout: dict[str, Any] = {} if memory_format is None else {"memory_format": memory_format}
    return network.to(device=device, **layout)
