"""The hours column of the page on presets for real models: arithmetic of the networks, at rates that were measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from sds3d.cameras import Cameras
from sds3d.evaluation.launches import own_phi
from sds3d.evaluation.prior_speed import UNET, VAE
from sds3d.guidance.base import RuleConfig
from sds3d.priors.base import Prediction
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.priors.gaussian import Gaussian, GaussianPrior, GaussianScore
from sds3d.priors.multiview import ViewAttention
from sds3d.prompts.conditioning import Conditioning
from sds3d.prompts.prompt import PromptConfig, encode_texts
from sds3d.run.config import RunConfig, stage_config, stage_count
from tests.guidance.exact import seeded
from tests.guidance.views import views_of
from tests.run.test_real_memory import PAGE, PICTURE
from tests.run.test_real_presets import REAL, config_of

META = torch.device("meta")
ROW = {"sd15": 0.80, "sd21-base": 0.80, "sd21": 0.80, "mvdream": 0.20, "sdxl": 6.76, "if": 2.88, "sd3": 2.11}
"""TFLOP of a network for a row of its model's size."""
ENCODED = {256: 0.55, 512: 2.27, 1024: 10.3}
"""TFLOP of the VAE for a picture and the gradient of its pixels."""
DECODED, CONTROLNET = 2.51, 0.28
"""TFLOP of a picture of 512 x 512 pixels, and of a ControlNet for a row."""
WORK, SECONDS = (1.6, 6.4, 12.8), (0.049, 0.055, 0.064)
"""TFLOP and seconds of calls of Stable Diffusion 2.1's U-Net with 2, 8 and 16 rows, as measured on an H100."""


def seconds(work: float) -> float:
    """Return the seconds of a call with this TFLOP: at least those of the smallest, and the rate of the largest."""
    return max(float(np.interp(work, WORK, SECONDS)), work * SECONDS[-1] / WORK[-1])


class Counted(GaussianPrior):
    """Keeps the rows of each call, and how many forward passes a call costs; decoded: the pictures that it decodes."""

    def __init__(self, takes_cameras: bool) -> None:
        super().__init__({"y": Gaussian(0.3, 0.5)}, (3, 4, 4))
        self.takes_cameras = takes_cameras
        self.calls: list[tuple[int, int]] = []
        self.decoded = 0

    def encode_text(self, prompts: Sequence[str]) -> Conditioning:
        return super().encode_text(["y"] * len(prompts))

    def predict(self, x_t: Tensor, t: Tensor, cond: Conditioning, cameras: Cameras | None) -> Prediction:
        self.calls.append((len(x_t), 1))
        return super().predict(x_t, t, cond, cameras)

    def decode(self, x: Tensor) -> Tensor:
        self.decoded += len(x)
        return super().decode(x)

    def trainable_score(self, generator: torch.Generator, rank: int = 4) -> GaussianScore:
        return CountedScore(self, rank)


class CountedScore(GaussianScore):
    """A trained copy. The gradient of all weights costs two forward passes, that of low-rank updates one."""

    def __init__(self, prior: Counted, rank: int) -> None:
        super().__init__(GaussianPrior(prior.prompts, prior.shape))
        self.calls, self.trained = prior.calls, 2 if rank else 3

    def predict(self, x_t: Tensor, t: Tensor, cond: Conditioning, cameras: Cameras | None) -> Prediction:
        self.calls.append((len(x_t), self.trained if torch.is_grad_enabled() else 1))
        return super().predict(x_t, t, cond, cameras)


def asked(
    rule: RuleConfig, prompts: PromptConfig, views: int, takes_cameras: bool
) -> tuple[list[tuple[int, int]], int, int]:
    """Return the calls of some steps of a rule with this number of views, the pictures that are decoded in a step, and
    the number of steps.
    """
    prior = Counted(takes_cameras)
    made, steps = rule.make(prior), getattr(rule, "refine_every", 1)
    texts = encode_texts(prior, rule.texts("y", prompts))
    for step in range(steps):
        x = torch.rand(views, 3, 4, 4, generator=seeded(step))
        made(x, replace(views_of(prior, views), prompt=texts), 0.5, seeded()).learned()
    return prior.calls, prior.decoded, steps


def step_seconds(config: RunConfig, views: int) -> float:
    """Return the seconds of the networks in a step of a stage."""
    total, config = 0.0, own_phi(config)
    for teacher in config.all_teachers:
        assert isinstance(teacher.prior, DiffusersConfig)
        model, seen = teacher.prior.model, teacher.views or views
        calls, decoded, steps = asked(teacher.guidance, config.prompts, seen, model == "mvdream")
        row = ROW[model] + CONTROLNET * len(teacher.prior.controlnets)
        total += sum(passes * seconds(rows * row) for rows, passes in calls) / steps
        total += seconds(decoded * DECODED) if decoded else 0.0
        if model != "if" and not config.representation.latents:
            total += seconds(seen * ENCODED[PICTURE.get(model, 512)])
    return total


def hours_of(config: RunConfig) -> float:
    """Return the hours of a stage: each phase of its cameras has its own number of views."""
    phases = list(config.cameras.parts())
    ends = [at for at, _ in phases[1:]] + [1.0]
    steps = [(end - at) * config.steps for (at, _), end in zip(phases, ends, strict=True)]
    each = {now.views: step_seconds(config, now.views) for _, now in phases}
    return sum(count * each[now.views] for count, (_, now) in zip(steps, phases, strict=True)) / 3600


@pytest.mark.parametrize("name", REAL)
def test_the_hours_column_is_what_its_arithmetic_gives(name: str) -> None:
    config = config_of(name)
    hours = sum(hours_of(stage_config(config, index)) for index in range(stage_count(config)))
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.count("|") == 8]
    row = next(line for line in rows if f"`{name}`" in line)
    assert row.split("|")[5].strip() == f"{hours:.2g}"


def test_the_arithmetic_is_compared_with_the_steps_that_were_measured() -> None:
    """Milliseconds of SDS and VSD with 1 and 4 pictures of 512 pixels; measured: 89, 386, 154 and 443."""
    settings = {"sds": "dreamfusion-sd", "vsd": "prolificdreamer-sd"}
    given = [step_seconds(stage_config(config_of(settings[rule]), 0), views) for views in (1, 4) for rule in settings]
    numbers = ", ".join(f"{1e3 * value:.0f}" for value in given)
    assert f"gives {numbers}" in " ".join(PAGE.read_text(encoding="utf-8").split())


def work_of(call: Callable[[], object]) -> float:
    """Return the TFLOP of a call on the meta device, where nothing is computed."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / 1e12


@pytest.mark.slow
def test_the_networks_take_that_much() -> None:
    """Their configurations are checked by the numbers of their parameters, which real-models.md has."""
    from diffusers import AutoencoderKL, ControlNetModel, SD3Transformer2DModel, UNet2DConditionModel

    sd15: dict[str, Any] = {
        "block_out_channels": (320, 640, 1280, 1280),
        "attention_head_dim": 8,
        "cross_attention_dim": 768,
    }
    sdxl: dict[str, Any] = {
        "sample_size": 128, "block_out_channels": (320, 640, 1280), "transformer_layers_per_block": (1, 2, 10),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "use_linear_projection": True,
        "attention_head_dim": (5, 10, 20), "cross_attention_dim": 2048, "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
    }  # fmt: skip
    deepfloyd: dict[str, Any] = {
        "sample_size": 64, "in_channels": 3, "out_channels": 6, "block_out_channels": (704, 1408, 2112, 2816),
        "layers_per_block": 3, "attention_head_dim": 64, "cross_attention_dim": 2816, "encoder_hid_dim": 4096,
        "down_block_types": ("ResnetDownsampleBlock2D", *["SimpleCrossAttnDownBlock2D"] * 3),
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn", "encoder_hid_dim_type": "text_proj", "act_fn": "gelu",
        "up_block_types": (*["SimpleCrossAttnUpBlock2D"] * 3, "ResnetUpsampleBlock2D"), "addition_embed_type": "text",
        "addition_embed_type_num_heads": 64, "resnet_time_scale_shift": "scale_shift",
        "cross_attention_norm": "group_norm", "resnet_skip_time_act": True,
    }  # fmt: skip
    sd3: dict[str, Any] = {
        "sample_size": 128, "in_channels": 16, "out_channels": 16, "num_layers": 24, "attention_head_dim": 64,
        "num_attention_heads": 24, "joint_attention_dim": 4096, "caption_projection_dim": 1536,
        "pooled_projection_dim": 2048, "pos_embed_max_size": 192,
    }  # fmt: skip
    with META:
        networks: dict[str, Any] = {
            "sd15": UNet2DConditionModel(**sd15),
            "sd21": UNet2DConditionModel(**UNET),
            "sdxl": UNet2DConditionModel(**sdxl),
            "if": UNet2DConditionModel(**deepfloyd),
            "sd3": SD3Transformer2DModel(**sd3),
        }
        vae: Any = AutoencoderKL(**VAE)
        controlnet: Any = ControlNetModel(**sd15)
        sizes = {name: round(sum(p.numel() for p in net.parameters()) / 1e6) for name, net in networks.items()}
        assert sizes == {"sd15": 860, "sd21": 866, "sdxl": 2567, "if": 4305, "sd3": 2028}
        for network in (*networks.values(), vae, controlnet):
            network.requires_grad_(False)
        t, text = torch.empty(1), {n: torch.empty(1, 77, w) for n, w in (("sd15", 768), ("sd21", 1024), ("if", 4096))}
        latents = torch.empty(1, 4, 64, 64)
        found = {
            "sd15": work_of(lambda: networks["sd15"](latents, t, text["sd15"])),
            "sd21": work_of(lambda: networks["sd21"](latents, t, text["sd21"])),
            "if": work_of(lambda: networks["if"](torch.empty(1, 3, 64, 64), t, text["if"])),
            "sdxl": work_of(
                lambda: networks["sdxl"](
                    torch.empty(1, 4, 128, 128), t, torch.empty(1, 77, 2048),
                    added_cond_kwargs={"text_embeds": torch.empty(1, 1280), "time_ids": torch.empty(1, 6)},
                )
            ),
            "sd3": work_of(
                lambda: networks["sd3"](
                    torch.empty(1, 16, 64, 64), torch.empty(1, 333, 4096), torch.empty(1, 2048), t
                )
            ),
        }  # fmt: skip
        unet = networks["sd21"]
        unet.set_attn_processor(ViewAttention())
        four, several = torch.empty(4, 4, 32, 32), {"n_views": 4}
        found["mvdream"] = work_of(
            lambda: unet(four, t, torch.empty(4, 77, 1024), cross_attention_kwargs=several)
        ) / 4  # fmt: skip
        for name, value in found.items():
            assert value == pytest.approx(ROW[name], rel=0.03), name
        for size, value in ENCODED.items():
            picture = torch.empty(1, 3, size, size, requires_grad=True)
            taken = work_of(lambda picture=picture: vae.encode(picture).latent_dist.mode().sum().backward())
            assert taken == pytest.approx(value, rel=0.01)
        assert work_of(lambda: vae.decode(latents)) == pytest.approx(DECODED, rel=0.01)
        seen = torch.empty(1, 3, 512, 512)
        assert work_of(lambda: controlnet(latents, t, text["sd15"], seen)) == pytest.approx(CONTROLNET, rel=0.03)
