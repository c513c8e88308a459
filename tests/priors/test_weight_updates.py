"""Updates of other forms than LoRA: the weights that peft merges from the same factors, and closed forms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from sds3d.files import PriorError
from sds3d.priors.diffusers import DiffusersConfig
from tests.priors.test_lora import saved
from tests.priors.test_mvdream import original_name
from tests.priors.tiny import tiny_pipeline, unet

TARGETS = ["to_q", "to_v", "proj_in", "conv1", "conv_shortcut"]
KINDS = {
    "loha": LoHaConfig(r=2, alpha=3, target_modules=TARGETS, init_weights=False),
    "loha, kernels": LoHaConfig(r=2, alpha=3, target_modules=TARGETS, use_effective_conv2d=True, init_weights=False),
    "lokr": LoKrConfig(r=2, alpha=3, target_modules=TARGETS, init_weights=False),
    "lokr, both": LoKrConfig(r=2, alpha=3, target_modules=TARGETS, decompose_both=True, init_weights=False),
    "lokr, kernels": LoKrConfig(r=2, alpha=3, target_modules=TARGETS, use_effective_conv2d=True, init_weights=False),
    "lora": LoraConfig(r=2, lora_alpha=3, target_modules=TARGETS, init_lora_weights=False),
    "rslora": LoraConfig(r=2, lora_alpha=3, target_modules=TARGETS, init_lora_weights=False, use_rslora=True),
    "dora": LoraConfig(r=2, lora_alpha=3, target_modules=TARGETS, init_lora_weights=False, use_dora=True),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("updates") / "model"
    tiny_pipeline("sd").save_pretrained(path)
    return path


def trained(kind: str, folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """The file that peft saves for a U-Net with updates, and the weights that it merges."""
    torch.manual_seed(3)
    model: Any = get_peft_model(tiny_pipeline("sd").unet, KINDS[kind])
    torch.manual_seed(4)
    for name, parameter in model.named_parameters():
        if "hada_" in name or "lokr_" in name or "lora_" in name:
            factor = 0.3 if "magnitude" not in name else 0.2
            parameter.data = torch.randn_like(parameter) * factor + (parameter if "magnitude" in name else 0)
    assert isinstance(model, PeftModel)
    model.save_pretrained(folder)
    merged: Any = model.merge_and_unload()
    return folder / "adapter_model.safetensors", {name: value.detach() for name, value in merged.state_dict().items()}


def as_lycoris(file: Path) -> Path:
    """The same factors in the layout of LyCORIS and kohya, each with its alpha."""
    names = {".lora_A.weight": ".lora_down.weight", ".lora_B.weight": ".lora_up.weight"}
    magnitude = ".lora_magnitude_vector"
    renamed: dict[str, Tensor] = {}
    for name, stored in load_file(file).items():
        plain = name.removeprefix("base_model.model.")
        for old, new in names.items():
            plain = plain.replace(old, new)
        value = stored
        if magnitude in plain:
            layer = plain.partition(magnitude)[0]
            conv = layer.endswith(("proj_in", "conv1", "conv_shortcut"))
            plain, value = f"{layer}.dora_scale", stored.reshape(-1, *[1] * (3 if conv else 1))
        separator = next(s for s in (".lora_", ".hada_", ".lokr_", ".dora_") if s in plain)
        layer, _, factor = plain.partition(separator)
        layer = f"lora_unet_{layer.replace('.', '_')}"
        renamed[f"{layer}{separator}{factor}"] = value
        renamed[f"{layer}.alpha"] = torch.tensor(3.0)
    for name, value in renamed.items():
        if name.endswith("lokr_w1") and name.replace("lokr_w1", "lokr_w2") in renamed:
            renamed[name] = 1.5 * value  # alpha is no part of two full matrices there
    save_file(renamed, file.with_name("lycoris.safetensors"))
    return file.with_name("lycoris.safetensors")


def assert_weights(prior: Any, expected: dict[str, Tensor], plain: Any) -> None:
    ours, before = prior.network.state_dict(), plain.network.state_dict()
    assert ours.keys() == expected.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, expected[name], atol=2e-6, rtol=1e-5)
    changed = [name for name in ours if not torch.equal(ours[name], before[name])]
    assert any("conv1" in name for name in changed)
    assert any("to_q" in name for name in changed)


@pytest.mark.parametrize(
    ("kind", "layout"),
    [*((kind, "peft") for kind in KINDS), *((kind, "lycoris") for kind in KINDS if kind != "rslora")],
)
def test_weights_are_those_that_peft_merges(kind: str, layout: str, folder: Path, tmp_path: Path) -> None:
    file, expected = trained(kind, tmp_path)
    file = as_lycoris(file) if layout == "lycoris" else file
    prior = DiffusersConfig(model=str(folder), lora=str(file)).load()
    assert_weights(prior, expected, DiffusersConfig(model=str(folder)).load())


def test_full_differences_are_added_to_weights_and_biases(folder: Path, tmp_path: Path) -> None:
    plain = DiffusersConfig(model=str(folder)).load()
    state = plain.network.state_dict()
    generator = torch.Generator().manual_seed(0)
    file, expected = {}, dict(state)
    for layer in ("conv_in", "down_blocks.0.resnets.0.conv1", "mid_block.attentions.0.transformer_blocks.0.attn1.to_q",
                  "conv_norm_out"):  # fmt: skip
        for kind in ("weight", "bias"):
            if f"{layer}.{kind}" in state:
                change = torch.randn(state[f"{layer}.{kind}"].shape, generator=generator)
                names = (
                    {"weight": "diff", "bias": "diff_b"}
                    if "norm" not in layer
                    else {"weight": "w_norm", "bias": "b_norm"}
                )
                file[f"lora_unet_{layer.replace('.', '_')}.{names[kind]}"] = change
                expected[f"{layer}.{kind}"] = state[f"{layer}.{kind}"] + 0.5 * change
    save_file(file, tmp_path / "full.safetensors")
    prior = DiffusersConfig(model=str(folder), lora=str(tmp_path / "full.safetensors"), lora_scale=0.5).load()
    assert_weights(prior, expected, plain)


def test_a_decomposition_of_columns(folder: Path, tmp_path: Path) -> None:
    """LyCORIS' first kind of DoRA: the columns of the sum have the lengths in the file."""
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    plain = DiffusersConfig(model=str(folder)).load()
    weight = plain.network.state_dict()[f"{layer}.weight"]
    lengths = torch.rand(1, weight.shape[1], generator=torch.Generator().manual_seed(0)) + 0.5
    up, down = torch.ones(weight.shape[0], 2), torch.ones(2, weight.shape[1])
    name = f"lora_unet_{layer.replace('.', '_')}"
    factors = {"lora_up.weight": up, "lora_down.weight": down, "alpha": torch.tensor(1.0), "dora_scale": lengths}
    save_file({f"{name}.{key}": value for key, value in factors.items()}, tmp_path / "dora.safetensors")
    prior = DiffusersConfig(model=str(folder), lora=str(tmp_path / "dora.safetensors")).load()
    updated = prior.network.state_dict()[f"{layer}.weight"]
    torch.testing.assert_close(updated.norm(dim=0), lengths[0])
    moved = weight + 1.0  # 1/2 of two ones times ones
    torch.testing.assert_close(updated, moved * (lengths / moved.norm(dim=0)))


def test_numbers_of_blocks_of_sdxl_are_translated(tmp_path: Path) -> None:
    """Full differences of every convolution and every projection of the tiny SDXL, by the original code's names."""
    tiny_pipeline("sdxl").save_pretrained(tmp_path / "xl")
    pipeline = tiny_pipeline("sdxl")
    torch.manual_seed(5)
    pipeline.unet = unet(layers_per_block=2, cross_attention_dim=64, addition_embed_type="text_time",
                         addition_time_embed_dim=8, projection_class_embeddings_input_dim=6 * 8 + 32,
                         use_linear_projection=True)  # fmt: skip
    pipeline.save_pretrained(tmp_path / "xl")
    plain = DiffusersConfig(model=str(tmp_path / "xl")).load()
    expected, file = dict(plain.network.state_dict()), {}
    for name, module in plain.network.named_modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear) and "add_embedding" not in name:
            change = torch.randn(module.weight.shape)
            original = original_name(f"{name}.weight").removesuffix(".weight").replace(".", "_")
            file[f"lora_unet_{original}.diff"] = change
            expected[f"{name}.weight"] = module.weight.detach() + change
    encoder = "lora_te1_text_model_encoder_layers_0_self_attn_q_proj.diff"
    save_file({**file, encoder: torch.randn(32, 32)}, tmp_path / "full.safetensors")
    prior = DiffusersConfig(model=str(tmp_path / "xl"), lora=str(tmp_path / "full.safetensors")).load()
    assert_weights(prior, expected, plain)
    assert (prior.encode_text(["a mug"]).hidden - plain.encode_text(["a mug"]).hidden).abs().max() > 1e-3


def test_embeddings_in_the_file_are_left_out_and_told(tmp_path: Path) -> None:
    folder, file = saved("sd", tmp_path)
    bundled = load_file(file) | {"bundle_emb.mugstyle.string_to_param.*": torch.zeros(2, 32)}
    save_file(bundled, tmp_path / "bundled.safetensors")
    with pytest.warns(UserWarning, match="embeddings in the LoRA file are left out: it has mugstyle"):
        prior = DiffusersConfig(model=str(folder), lora=str(tmp_path / "bundled.safetensors")).load()
    alone = DiffusersConfig(model=str(folder), lora=str(file)).load()
    for name, value in prior.network.state_dict().items():
        assert torch.equal(value, alone.network.state_dict()[name])


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["lora_unet_mid_block_attentions_0_proj_in.oft_blocks"], "OFT"),
        (["lora_unet_mid_block_attentions_0_proj_in.a1.weight"], "GLoRA"),
        (["lora_unet_mid_block_attentions_0_proj_in.on_input"], "IA3"),
        (["emb_params"], "textual inversion"),
        (["lora_unet_mid_block_nothing.diff"], "the unet has no layer lora_unet_mid_block_nothing"),
        (["lora_unet_conv_in.diff", "lora_unet_conv_in.odd"], "lora_unet_conv_in.odd is of a kind that is not known"),
        (["lora_unet_conv_in.diff"], "another model"),
        (["lora_unet_conv_in.hada_w1_a"], "another model"),
    ],
)
def test_other_kinds_and_misfits_are_said_in_one_line(
    names: list[str], words: str, folder: Path, tmp_path: Path
) -> None:
    save_file({name: torch.zeros(2, 2) for name in names}, tmp_path / "a.safetensors")
    with pytest.raises(PriorError, match=words) as error:
        DiffusersConfig(model=str(folder), lora=str(tmp_path / "a.safetensors")).load()
    assert "\n" not in str(error.value)


def test_patterns_of_alpha_are_refused(folder: Path, tmp_path: Path) -> None:
    file, _ = trained("loha", tmp_path)
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "alpha_pattern": {"to_q": 4}}))
    with pytest.raises(PriorError, match="alpha_pattern"):
        DiffusersConfig(model=str(folder), lora=str(file)).load()
