"""Models that differ from the usual folder: long prompts, sizes, variants, shards, flow, and single files."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file, save_file
from torch import Tensor

from sds3d.cameras import turntable
from sds3d.files import PriorError
from sds3d.guidance.base import RuleConfig
from sds3d.guidance.rules import rule_configs
from sds3d.guidance.sampling import Conditions, sample
from sds3d.guidance.schedules import UniformSchedule
from sds3d.plugins import name_of
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.priors.loading import chosen_weights
from sds3d.priors.texts import tokens_of
from sds3d.prompts.prompt import PromptConfig, encode_prompt, view_dependent
from tests.guidance.views import views_of
from tests.priors.test_families import noise_like
from tests.priors.test_mvdream import LAYERS, original_name
from tests.priors.tiny import t5_tokenizer, tiny_pipeline, unet

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of each family in it."""
    root = tmp_path_factory.mktemp("models")
    for family in ("sd", "sdxl", "sd3", "flux dev"):
        tiny_pipeline(family).save_pretrained(root / family)
    return root


def copied(folders: Path, family: str, folder: Path) -> Path:
    shutil.copytree(folders / family, folder / "model")
    return folder / "model"


def changed(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def failure(**config: object) -> str:
    with pytest.raises(PriorError) as error:
        DiffusersConfig(**config).load()
    assert "\n" not in str(error.value)
    return str(error.value)


# Prompts that are longer than a text encoder reads

LONG = "a red mug " * 12 + "a blue chair"
LONGER = "a red mug " * 90 + "a blue chair"  # than T5 reads


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "flux dev"])
def test_the_views_of_a_long_prompt_differ(family: str, folders: Path) -> None:
    prior = DiffusersConfig(model=str(folders / family), image_size=16).load()
    with pytest.warns(UserWarning, match="tokens, but a text encoder of this model reads") as told:
        encoded = encode_prompt(prior, LONGER, PromptConfig())
    assert len({str(warning.message) for warning in told}) <= 2  # one line an encoder: CLIP, and T5
    conditions = [encoded.plain, *(encoded.views[i : i + 1] for i in range(4))]
    rows = [condition.pooled if family == "flux dev" else condition.hidden for condition in conditions]
    for i, a in enumerate(rows):  # FLUX's hidden states are of T5 alone, and the tiny T5 does not know the views' words
        for b in rows[:i]:
            assert a is not None
            assert b is not None
            assert (a - b).abs().max() > 1e-3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encode_prompt(prior, "a red mug", PromptConfig())


@pytest.mark.parametrize("length", [8, 12, 24])
def test_the_words_of_the_view_are_last_and_the_prompt_before_is_cut(length: int) -> None:
    tokenizer = t5_tokenizer()
    prompt = tokenizer(LONG).input_ids[:-1]
    for text in view_dependent(LONG).values():
        words = tokenizer(text).input_ids[len(prompt) :]  # with the token that ends a text
        with pytest.warns(UserWarning, match=f"{len(prompt) + 1} tokens"):
            ids = tokens_of(tokenizer, text, length).input_ids[0].tolist()
        assert ids == [*prompt[: length - len(words)], *words]
        whole = tokens_of(tokenizer, text, 500)
        assert whole.input_ids[0][: whole.attention_mask.sum()].tolist() == [*prompt, *words]


def test_texts_without_a_view_are_cut_as_pipelines_cut_them(folders: Path) -> None:
    prior = DiffusersConfig(model=str(folders / "sd")).load()
    pipeline: Any = DiffusionPipeline.from_pretrained(folders / "sd", local_files_only=True)
    theirs, _ = pipeline.encode_prompt(LONG, CPU, 1, False)
    with pytest.warns(UserWarning, match="end is left out"):
        torch.testing.assert_close(prior.encode_text([LONG]).hidden, theirs)


# Sizes


@pytest.mark.parametrize(("family", "part"), [("sd", "unet"), ("sdxl", "unet")])
def test_the_size_is_the_vaes_if_the_denoiser_does_not_tell_it(
    family: str, part: str, folders: Path, tmp_path: Path
) -> None:
    folder = copied(folders, family, tmp_path)
    changed(folder / part / "config.json", sample_size=[8, 8])
    assert DiffusersConfig(model=str(folder)).load().image_size == 16
    changed(folder / part / "config.json", sample_size=[8, 12])
    assert "[8, 12], which is not square: set it, for example prior.image_size" in failure(model=str(folder))
    assert DiffusersConfig(model=str(folder), image_size=24).load().image_size == 24
    changed(folder / part / "config.json", sample_size=None)
    changed(folder / "vae" / "config.json", sample_size=20)
    assert DiffusersConfig(model=str(folder)).load().image_size == 20
    changed(folder / "vae" / "config.json", sample_size=4)
    assert "not told: set it" in failure(model=str(folder))


def test_sd3_without_the_size_of_its_positions_is_refused_as_diffusers_cannot_make_it(
    folders: Path, tmp_path: Path
) -> None:
    folder = copied(folders, "sd3", tmp_path)
    changed(folder / "transformer" / "config.json", sample_size=None)
    with pytest.raises(TypeError):
        DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    for size in (0, 32):
        assert '"sample_size" in transformer/config.json is null' in failure(model=str(folder), image_size=size)


# Types and parts of weights

PARTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}


@pytest.mark.parametrize("kind", ["fp16", "bf16"])
@pytest.mark.parametrize("shards", ["", "new names", "old names"])
def test_16_bit_weights_load_whole_and_in_shards(kind: str, shards: str, folders: Path, tmp_path: Path) -> None:
    dtype = torch.float16 if kind == "fp16" else torch.bfloat16
    pipeline: Any = DiffusionPipeline.from_pretrained(folders / "sd", local_files_only=True).to(dtype=dtype)
    options = {"max_shard_size": "50KB"} if shards else {}
    folder = tmp_path / "model"
    pipeline.save_pretrained(folder, variant=kind, **options)
    for part, stem in PARTS.items() if shards else ():
        names = [path.name for path in (folder / part).glob("*.safetensors")]
        assert len(names) > 1
        assert all(re.fullmatch(rf"{stem}\.{kind}-\d+-of-\d+\.safetensors", name) for name in names)
        if shards == "old names":
            (index,) = (folder / part).glob("*.index.*json")
            text = index.read_text()
            for name in names:
                old = re.sub(rf"\.{kind}(-\d+-of-\d+)", rf"\1.{kind}", name)
                (folder / part / name).rename(folder / part / old)
                text = text.replace(name, old)
            index.write_text(text)
    prior = DiffusersConfig(model=str(folder)).load()
    expected = pipeline.unet.float().state_dict()
    for name, value in prior.network.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, expected[name])
    ours = prior.encode_text(["a red mug"]).hidden
    theirs, _ = pipeline.to(dtype=torch.float32).encode_prompt("a red mug", CPU, 1, False)
    torch.testing.assert_close(ours, theirs)


def test_of_several_types_one_is_chosen() -> None:
    names = ["model.safetensors", "model.bf16.safetensors", "model.fp16.safetensors"]
    assert chosen_weights(names, half=False) == names[:1]
    assert chosen_weights(names, half=True) == names[2:]
    assert chosen_weights(names[:2], half=True) == names[1:2]
    old = [f"diffusion_pytorch_model-0000{i}-of-00002.fp16.safetensors" for i in (1, 2)]
    assert chosen_weights(old, half=False) == old


# Rectified flow of a U-Net


class WithFractions(DPMSolverMultistepScheduler):
    """With the timesteps of its noise levels, not rounded to whole numbers."""

    def set_timesteps(self, *args: Any, **options: Any) -> None:
        super().set_timesteps(*args, **options)
        self.timesteps = 1000 * self.sigmas[:-1]


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_a_u_net_of_rectified_flow_draws_the_pipelines_picture(family: str, tmp_path: Path) -> None:
    pipeline = tiny_pipeline(family)
    pipeline.scheduler = DPMSolverMultistepScheduler(
        use_flow_sigmas=True, flow_shift=2.0, prediction_type="flow_prediction", solver_order=1
    )
    pipeline.save_pretrained(tmp_path / "flow")
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = WithFractions.from_config(pipeline.scheduler.config)
    prior = DiffusersConfig(model=str(tmp_path / "flow")).load()
    assert prior.prediction_type == "flow"
    assert prior.shift == 2
    noise = noise_like(prior)
    theirs = pipeline("a red mug", num_inference_steps=5, guidance_scale=4.0, output_type="np", latents=noise).images
    times = pipeline.scheduler.sigmas
    texts = prior.encode_text(["a red mug"]), prior.encode_text([""])
    x = sample(prior, noise, Conditions(turntable(1), *texts, 4.0), times)
    np.testing.assert_allclose(prior.decode(x).numpy(), theirs, atol=2e-5)


def test_flow_matching_schedulers_are_obeyed_and_unknown_ones_refused(folders: Path, tmp_path: Path) -> None:
    folder = copied(folders, "sd", tmp_path)
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(folder / "scheduler")
    prior = DiffusersConfig(model=str(folder)).load()
    t = torch.tensor([0.0, 0.25, 1.0])
    assert (prior.prediction_type, prior.shift) == ("flow", 3.0)
    assert torch.equal(prior.alpha(t), 1 - t)
    assert torch.equal(prior.family.noising.timestep(t), 1000 * t)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({"_class_name": "OddScheduler"}))
    assert "its scheduler, OddScheduler, names no noise levels" in failure(model=str(folder))


# No signal at the last timestep


@pytest.mark.parametrize("few_steps", [0, 4])
def test_a_model_that_predicts_noise_has_some_signal_at_every_time(
    few_steps: int, folders: Path, tmp_path: Path
) -> None:
    folder = copied(folders, "sd", tmp_path)
    changed(folder / "scheduler" / "scheduler_config.json", rescale_betas_zero_snr=True)
    prior = DiffusersConfig(model=str(folder), few_steps=few_steps).load()
    t = torch.linspace(0, 1, 2001)
    assert (prior.alpha(t) > 0).all()
    assert prior.family.noising.timestep(torch.tensor([1.0])).tolist() == [998]
    cond, x_t = prior.encode_text(["a mug"]), noise_like(prior)
    with torch.no_grad():
        assert prior.predict(x_t, torch.ones(1), cond, None).x0.isfinite().all()
    changed(folder / "scheduler" / "scheduler_config.json", prediction_type="v_prediction")
    v_prior = DiffusersConfig(model=str(folder), few_steps=few_steps).load()
    assert v_prior.alpha(torch.tensor(1.0)) == 0
    with torch.no_grad():
        assert v_prior.predict(x_t, torch.ones(1), cond, None).x0.isfinite().all()


@pytest.fixture(scope="module")
def without_last_signal(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = copied(folders, "sd", tmp_path_factory.mktemp("snr"))
    changed(folder / "scheduler" / "scheduler_config.json", rescale_betas_zero_snr=True)
    return DiffusersConfig(model=str(folder)).load()


@pytest.mark.parametrize("rule", rule_configs(), ids=name_of)
def test_every_rule_is_finite_at_the_last_timestep(rule: type[RuleConfig], without_last_signal: Any) -> None:
    config = rule()
    last = UniformSchedule(min=1.0, max=1.0)
    if "schedule" in rule.model_fields:
        config = config.model_copy(update={"schedule": last})
    prior, generator = without_last_signal, torch.Generator().manual_seed(0)
    rgb = torch.rand(4, 16, 16, 3, generator=generator)
    views = views_of(prior, 4, "a red mug", extra=config.texts("a red mug", PromptConfig()).extra, rgb=rgb)
    guided = config.make(prior)(prior.encode_image(rgb), views, 0.0, generator)
    given = [part for part in (guided.gradient, guided.image_target) if part is not None]
    assert given
    assert all(part.isfinite().all() for part in given)


# Single files


def original_vae(name: str) -> str:
    """The original code's name of a VAE's weight, of two blocks."""
    name = name.replace("conv_norm_out", "norm_out").replace("mid_block.attentions.0", "mid.attn_1")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
    name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets", lambda found: f"up.{1 - int(found[1])}.block", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda found: f"up.{1 - int(found[1])}.upsample", name)
    for new, old in (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out"), ("group_norm", "norm")):
        name = name.replace(f"attn_1.{new}.", f"attn_1.{old}.")
    return name.replace("conv_shortcut", "nin_shortcut")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of Stable Diffusion 1, and its weights in one file with the original code's names."""
    folder = tmp_path_factory.mktemp("single")
    pipeline = tiny_pipeline("sd")
    torch.manual_seed(2)
    pipeline.unet = unet(layers_per_block=LAYERS, down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                         up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"))  # fmt: skip
    pipeline.save_pretrained(folder / "model")
    weights: dict[str, Tensor] = {}
    for name, value in pipeline.unet.state_dict().items():
        weights[f"model.diffusion_model.{original_name(name)}"] = value
    for name, value in pipeline.vae.state_dict().items():
        convolution = "attentions" in name and name.endswith("weight") and value.dim() == 2
        weights[f"first_stage_model.{original_vae(name)}"] = value[..., None, None] if convolution else value
    for name, value in pipeline.text_encoder.state_dict().items():
        weights[f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}"] = value
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / "model.safetensors")
    return folder / "model", folder / "model.safetensors"


def config_folder(folder: Path, target: Path) -> Path:
    """The configurations and tokenizers of a folder, without weights."""
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.safetensors"))
    return target


def assert_same_prior(a: Any, b: Any) -> None:
    x = a.encode_image(torch.rand(2, 16, 16, 3, generator=torch.Generator().manual_seed(0)))
    rgb = torch.rand(2, 16, 16, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(b.encode_image(rgb), x)
    cond, same = a.encode_text(["a red mug", ""]), b.encode_text(["a red mug", ""])
    torch.testing.assert_close(same.hidden, cond.hidden)
    t = torch.tensor([0.3, 0.8])
    with torch.no_grad():
        torch.testing.assert_close(b.predict(x, t, cond, None).eps, a.predict(x, t, cond, None).eps)
    torch.testing.assert_close(b.decode(x), a.decode(x))


def test_a_single_file_is_the_folder_that_it_was_made_from(whole: tuple[Path, Path], tmp_path: Path) -> None:
    folder, file = whole
    configs = config_folder(folder, tmp_path / "configs")
    prior = DiffusersConfig(model=str(file), config_from=str(configs), offline=True).load()
    assert_same_prior(DiffusersConfig(model=str(folder)).load(), prior)


def test_networks_that_a_single_file_lacks_come_from_the_folder(whole: tuple[Path, Path], tmp_path: Path) -> None:
    folder, file = whole
    weights = load_file(file)
    save_file(
        {name: value for name, value in weights.items() if "diffusion" in name}, tmp_path / "denoiser.safetensors"
    )
    prior = DiffusersConfig(model=str(tmp_path / "denoiser.safetensors"), config_from=str(folder)).load()
    assert_same_prior(DiffusersConfig(model=str(folder)).load(), prior)
    configs = config_folder(folder, tmp_path / "configs")
    assert "vae has no weights" in failure(model=str(tmp_path / "denoiser.safetensors"), config_from=str(configs))


def test_markers_of_v_prediction_in_a_single_file_are_obeyed(whole: tuple[Path, Path], tmp_path: Path) -> None:
    folder, file = whole
    marked = load_file(file) | {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    save_file(marked, tmp_path / "v.safetensors")
    prior = DiffusersConfig(model=str(tmp_path / "v.safetensors"), config_from=str(folder)).load()
    assert prior.prediction_type == "v_prediction"
    assert prior.alpha(torch.tensor(1.0)) == 0


def test_unusable_single_files_are_said_in_one_line(
    whole: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    folder, file = whole
    (tmp_path / "model.ckpt").write_bytes(b"")
    assert "only .safetensors files are read; others can run code" in failure(model=str(tmp_path / "model.ckpt"))
    (tmp_path / "cut.safetensors").write_bytes(file.read_bytes()[:1000])
    assert "truncated or damaged" in failure(model=str(tmp_path / "cut.safetensors"))
    message = failure(model=str(file), offline=True)
    assert "configurations and tokenizers of 'stable-diffusion-v1-5/stable-diffusion-v1-5'" in message
    assert "prior.config_from" in message
    weights = load_file(file)
    for name, part in (
        ("model.diffusion_model.out.2.weight", "unet"),
        ("first_stage_model.encoder.conv_in.bias", "vae"),
    ):
        save_file({key: value for key, value in weights.items() if key != name}, tmp_path / "lacking.safetensors")
        message = failure(model=str(tmp_path / "lacking.safetensors"), config_from=str(folder))
        assert f"lacks some weights of {part}" in message
    name = next(name for name in weights if "self_attn.q_proj.weight" in name)
    save_file({key: value for key, value in weights.items() if key != name}, tmp_path / "lacking.safetensors")
    prior = DiffusersConfig(model=str(tmp_path / "lacking.safetensors"), config_from=str(folder)).load()
    with pytest.raises(PriorError, match="lacks some weights of text_encoder"):
        prior.encode_text(["a mug"])
