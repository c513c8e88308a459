"""The speed of SDS and VSD steps with Stable Diffusion 2.1's architecture, compared with plain diffusers and peft.

The weights are random, since the cost of a step does not depend on them. Plain pictures are optimised through the
encoder, so that only guidance and prior are measured.
"""

from __future__ import annotations

import copy
import gc
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from peft import LoraConfig
from torch import Tensor

from sds3d.devices import pick_device, set_threads
from sds3d.evaluation.kernel_speed import interleaved, machine, synchronised
from sds3d.evaluation.playground2d import drawing, rule_config
from sds3d.evaluation.results import markdown_table, write_results
from sds3d.priors.loading import pick_dtype
from sds3d.priors.network import DiffusionPrior, Family, frozen
from sds3d.priors.noising import Diffusion
from sds3d.priors.pixels import Latents, vae_format
from sds3d.priors.texts import Texts
from sds3d.priors.unet_latent import asking
from sds3d.prompts.conditioning import Conditioning

Rule = Literal["sds", "vsd"]
SCALES: dict[Rule, float] = {"sds": 100.0, "vsd": 7.5}
"""Classifier-free guidance scales of the papers."""
PROMPT = "a red mug"
RATE = 0.02
"""Learning rate of the pictures."""
SECONDS = 30.0
"""Time for each call that is measured."""
MEMORY_STEPS = 3
"""Steps after which the peak memory is read, so that optimiser states exist."""

UNET: dict[str, Any] = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "attention_head_dim": (5, 10, 20, 20),
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
}
VAE: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "scaling_factor": 0.18215,
}
"""Settings of Stable Diffusion 2.1's U-Net and autoencoder that differ from diffusers' defaults."""


@dataclass(frozen=True)
class Networks:
    """The frozen networks of a pipeline, and its noise scheduler."""

    unet: Any
    vae: Any
    scheduler: Any
    device: torch.device


def embedding(text: str, unet: Any) -> Tensor:
    """Return a random stand-in for a text's embedding, (1, 77, D) on the CPU, always the same for the same text."""
    generator = torch.Generator().manual_seed(zlib.crc32(text.encode()))
    return torch.randn(1, 77, unet.config["cross_attention_dim"], generator=generator)


def random_networks(device: torch.device, dtype: torch.dtype, smaller: int = 1) -> Networks:
    """Make Stable Diffusion 2.1's networks with random weights. smaller: divides the widths, a power of 2 up to 16."""

    def narrow(widths: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(width // smaller for width in widths)

    groups: dict[str, Any] = {"norm_num_groups": 32 // smaller}
    unet: dict[str, Any] = UNET | groups | {
        "block_out_channels": narrow(UNET["block_out_channels"]),
        "cross_attention_dim": UNET["cross_attention_dim"] // smaller,
    }  # fmt: skip
    vae: dict[str, Any] = VAE | groups | {"block_out_channels": narrow(VAE["block_out_channels"])}
    with torch.device(device), torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)
        made: list[torch.nn.Module] = [UNet2DConditionModel(**unet), AutoencoderKL(**vae)]
    # Runs keep the autoencoder in float32 when the U-Net is in float16.
    dtypes = dtype, torch.float32 if dtype == torch.float16 else dtype
    for network, kind in zip(made, dtypes, strict=True):
        torch.nn.Module.to(network, dtype=kind)  # diffusers' own `to` warns of layers that these networks don't have
    unet_, vae_ = (frozen(network, device) for network in made)
    return Networks(unet_, vae_, scheduler, device)


def prior_of(networks: Networks, size: int) -> DiffusionPrior:
    """Return this project's prior on copies of the networks, for pictures of `size` pixels per side."""
    device = networks.device
    unet = frozen(copy.deepcopy(networks.unet), device, torch.channels_last)
    vae = frozen(copy.deepcopy(networks.vae), device, vae_format(device))

    def encode(text: str) -> Conditioning:
        return Conditioning(embedding(text, unet))

    noising, texts = Diffusion(networks.scheduler, device), Texts(lambda: encode, device)
    family = Family(asking(), noising, Latents(vae), texts, size, memory_format=torch.channels_last)
    return DiffusionPrior(family, unet, device)


def our_steps(networks: Networks, rule: Rule, batch: int, size: int) -> Iterator[object]:
    """Return steps of a rule on `batch` pictures, by this project's loop."""
    settings = ["steps=1000000", f"guidance.scale={SCALES[rule]}"]
    return drawing(prior_of(networks, size), rule_config(rule, PROMPT, settings), batch, "pixels")[1]


@dataclass
class Plain:
    """SDS and VSD as plain scripts: diffusers' networks and scheduler, peft's low-rank updates on the same U-Net.

    VSD does not condition on the camera here. It changes the networks that it gets.
    """

    networks: Networks
    rule: Rule

    def __post_init__(self) -> None:
        self.unet = self.networks.unet
        self.dtype, self.vae_dtype = self.unet.dtype, self.networks.vae.dtype
        self.text, self.null = (
            embedding(text, self.unet).to(self.networks.device, self.dtype) for text in (PROMPT, "")
        )
        if self.rule == "vsd":
            targets = ["to_q", "to_k", "to_v", "to_out.0"]
            self.unet.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=targets))
            trained = [p for p in self.unet.parameters() if p.requires_grad]
            for parameter in trained:
                parameter.data = parameter.data.float()
            self.optimizer = torch.optim.AdamW(trained, lr=1e-4)

    def eps(self, x_t: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
        """Return the U-Net's noise prediction for x_t (B, 4, h, w), in float32. text: (1, 77, D) or (B, 77, D)."""
        hidden = text.expand(len(x_t), -1, -1)
        return self.unet(x_t.to(self.dtype), timesteps, encoder_hidden_states=hidden).sample.float()

    @torch.no_grad()
    def gradient(self, x: Tensor, timesteps: Tensor, noise: Tensor) -> Tensor:
        """Return the gradient for latents x (B, 4, h, w) at timesteps (B,): sigma^2 (eps_S - eps).

        For VSD, eps is the prediction of the low-rank network.
        """
        x_t = self.networks.scheduler.add_noise(x, noise, timesteps)
        if self.rule == "vsd":
            self.unet.disable_adapters()
        texts = torch.cat([self.text, self.null]).repeat_interleave(len(x), dim=0)  # (2B, 77, D)
        conditional, unconditional = self.eps(torch.cat([x_t] * 2), timesteps.repeat(2), texts).chunk(2)
        guided = unconditional + SCALES[self.rule] * (conditional - unconditional)
        if self.rule == "vsd":
            self.unet.enable_adapters()
            noise = self.eps(x_t, timesteps, self.text)
        alphas_bar = self.networks.scheduler.alphas_cumprod.to(x.device)[timesteps]
        return (1 - alphas_bar)[:, None, None, None] * (guided - noise)

    def learn(self, x: Tensor) -> None:
        """Update the low-rank weights once on latents x (B, 4, h, w)."""
        timesteps, noise = self.draw(x, 0, 1000)
        x_t = self.networks.scheduler.add_noise(x, noise, timesteps)
        loss = torch.nn.functional.mse_loss(self.eps(x_t, timesteps, self.text), noise)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def draw(self, x: Tensor, low: int, high: int) -> tuple[Tensor, Tensor]:
        """Draw timesteps (B,) and noise like x."""
        return torch.randint(low, high, (len(x),), device=x.device), torch.randn_like(x)

    def steps(self, batch: int, size: int) -> Iterator[Tensor]:
        """Optimise `batch` pictures (B, 3, size, size). Yields them after each step."""
        vae = self.networks.vae
        pictures = torch.full((batch, 3, size, size), 0.5, device=self.networks.device, requires_grad=True)
        optimizer = torch.optim.Adam([pictures], lr=RATE, betas=(0.9, 0.99), eps=1e-15)
        while True:
            optimizer.zero_grad()
            latents = vae.encode((2 * pictures - 1).to(self.vae_dtype)).latent_dist.mode().float()
            latents = latents * vae.config.scaling_factor  # (B, 4, h, w)
            gradient = self.gradient(latents.detach(), *self.draw(latents, 20, 980))
            latents.backward(gradient / batch)
            optimizer.step()
            if self.rule == "vsd":
                self.learn(latents.detach())
            yield pictures


def plain_steps(networks: Networks, rule: Rule, batch: int, size: int) -> Iterator[object]:
    """Return steps of a rule on `batch` pictures, by `Plain`."""
    return Plain(networks, rule).steps(batch, size)


Steps = Callable[[Networks, Rule, int, int], Iterator[object]]


@dataclass(frozen=True)
class Speed:
    """Median seconds per step, and peak memory in bytes with weights, None if it was not measured."""

    rule: Rule
    batch: int
    ours: float
    plain: float
    our_memory: int | None
    plain_memory: int | None

    @property
    def ratio(self) -> float:
        """How many times as fast our step is as a plain one."""
        return self.plain / self.ours


def peak_memory(steps: Steps, make: Callable[[], Networks], rule: Rule, batch: int, size: int) -> int:
    """Return the peak of CUDA memory in bytes during steps, with no other networks in memory."""
    networks = make()
    device, walk = networks.device, steps(networks, rule, batch, size)
    del networks  # ours are copies
    collect()
    torch.cuda.reset_peak_memory_stats(device)
    for _ in range(MEMORY_STEPS):
        next(walk)
    return torch.cuda.max_memory_allocated(device)


def collect() -> None:
    """Free memory that is no longer used."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def measure(make: Callable[[], Networks], rule: Rule, batch: int, size: int, *, on_cuda: bool) -> Speed:
    """Measure a rule's steps in both ways: the memory one after another, the times in turns."""
    memory: list[int | None] = [None, None]
    if on_cuda:
        for i, steps in enumerate((our_steps, plain_steps)):
            memory[i] = peak_memory(steps, make, rule, batch, size)
            collect()
    networks = make()
    calls = [partial(next, steps(networks, rule, batch, size)) for steps in (our_steps, plain_steps)]
    ours, plain = interleaved([synchronised(call, networks.device) if on_cuda else call for call in calls], SECONDS)
    return Speed(rule, batch, ours, plain, *memory)


def bench(
    root: Path,
    *,
    batches: Sequence[int] = (1, 4),
    size: int = 512,
    smaller: int = 1,
    device: str = "",
    threads: int = 0,
    report: Callable[[str, int, int], None] = lambda name, step, total: None,
) -> list[Speed]:
    """Measure SDS and VSD in the dtype that runs compute in. Write priors.json and priors.md into `root`.

    The files are rewritten after each row, so that a row that runs out of memory does not lose the others.
    smaller: see `random_networks`.
    """
    threads, place = set_threads(threads), pick_device(device)
    kind = pick_dtype("auto", place)

    def make() -> Networks:
        return random_networks(place, kind, smaller)

    about = {"machine": asdict(machine(threads)), "device": str(place), "dtype": str(kind).removeprefix("torch.")}
    about |= {"size": size, "smaller": smaller}
    rows: list[Speed] = []
    cases: list[tuple[Rule, int]] = [(rule, batch) for rule in SCALES for batch in batches]
    for i, (rule, batch) in enumerate(cases):
        report("measuring", i, len(cases))
        rows.append(measure(make, rule, batch, size, on_cuda=place.type == "cuda"))
        collect()
        details = about | {"rows": [asdict(row) for row in rows]}
        write_results(root, "priors", details, markdown_table(HEADER, map(cells, rows)))
    report("measuring", len(cases), len(cases))
    return rows


HEADER = ("rule", "pictures", "steps/s", "plain steps/s", "times as fast", "peak GB", "plain peak GB")


def cells(row: Speed) -> list[str]:
    """Return a row of the table."""
    memory = ["-" if value is None else f"{value / 1e9:.1f}" for value in (row.our_memory, row.plain_memory)]
    return [row.rule, str(row.batch), f"{1 / row.ours:.3g}", f"{1 / row.plain:.3g}", f"{row.ratio:.2f}", *memory]
