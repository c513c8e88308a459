"""Settings for memory and speed: dtypes, offloading, slices and tiles, compiled blocks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel

from sds3d.cameras import turntable
from sds3d.files import PriorError
from sds3d.priors.base import Prediction
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.priors.loading import toybox_folder
from sds3d.priors.multiview import CameraEncoder, ViewAttention, camera_embedding, camera_features
from sds3d.priors.network import DiffusionPrior
from sds3d.priors.pixels import Latents
from tests.priors.tiny import FAMILIES, tiny_pipeline

Load = Callable[..., DiffusionPrior]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    root = tmp_path_factory.mktemp("models")

    def load(family: str, **config: Any) -> DiffusionPrior:
        folder: Path = root / family
        if not folder.exists():
            tiny_pipeline(family).save_pretrained(folder)
        size = 0 if family == "if" else 16
        return DiffusersConfig(**{"model": str(folder), "image_size": size, **config}).load()

    return load


def pictures(prior: DiffusionPrior) -> torch.Tensor:
    return torch.rand(2, prior.image_size, prior.image_size, 3, generator=torch.Generator().manual_seed(0))


def predicted(prior: DiffusionPrior) -> Prediction:
    x_t, t = prior.encode_image(pictures(prior)), torch.tensor([0.3, 0.8])
    with torch.no_grad():
        return prior.predict(x_t, t, prior.encode_text(["a red mug", ""]), None)


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "flux dev", "if"])
def test_a_narrow_type_stays_inside_the_networks(load: Load, family: str) -> None:
    wide, narrow = load(family), load(family, dtype="bfloat16")
    assert {p.dtype for p in narrow.network.parameters()} == {torch.bfloat16}
    ours, exact = predicted(narrow), predicted(wide)
    cond = narrow.encode_text(["a red mug"] * 2)
    x, t = narrow.encode_image(pictures(narrow)), torch.tensor([0.3, 0.8])
    for value in (ours.eps, ours.x0, x, narrow.decode(x), narrow.alpha(t), narrow.sigma(t), cond.hidden):
        assert value.dtype == torch.float32
    assert torch.equal(narrow.alpha(t), wide.alpha(t))
    assert torch.equal(narrow.sigma(t), wide.sigma(t))
    assert (ours.eps - exact.eps).abs().mean() < 0.05 * exact.eps.abs().mean()
    for rank in (0, 2):
        score = narrow.trainable_score(torch.Generator().manual_seed(0), rank)
        assert {p.dtype for p in score.parameters()} == {torch.float32}
        out = score.predict(x, t, cond, turntable(2))
        out.eps.square().mean().backward()
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in score.parameters())


def test_the_vae_does_not_run_in_float16(load: Load) -> None:
    for family in ("sdxl", "flux dev"):
        prior = load(family, dtype="float16")
        codec = prior.family.codec
        assert isinstance(codec, Latents)
        assert codec.vae.dtype == torch.float32
        assert prior.denoiser.dtype == torch.float16
    x = load("sdxl", dtype="float16").encode_image(pictures(prior))
    torch.testing.assert_close(x, load("sdxl").encode_image(pictures(prior)))


@pytest.mark.parametrize("family", ["sd", "flux dev"])
def test_offloaded_layers_give_the_same_results(load: Load, family: str) -> None:
    prior, offloaded = load(family), load(family, offload=True)
    assert all(p.device.type == "meta" for p in offloaded.network.parameters())
    assert torch.equal(predicted(offloaded).eps, predicted(prior).eps)
    t, cond, grads = torch.tensor([0.3, 0.8]), prior.encode_text(["a red mug"] * 2), []
    for one in (prior, offloaded):
        x = prior.encode_image(pictures(prior)).detach().requires_grad_()
        one.predict(x, t, cond, None).eps.square().mean().backward()
        grads.append(x.grad)
    assert torch.equal(*grads)
    with pytest.raises(PriorError, match="offload=false"):
        offloaded.trainable_score(torch.Generator())


@pytest.mark.parametrize("setting", ["vae_slicing", "vae_tiling"])
def test_slices_and_tiles_give_the_same_results(load: Load, setting: str) -> None:
    """Pictures as small as here have only one tile."""
    prior, other = load("sdxl"), load("sdxl", **{setting: True})
    x = prior.encode_image(pictures(prior))
    torch.testing.assert_close(other.encode_image(pictures(prior)), x, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(other.decode(x), prior.decode(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_chunks_give_the_same_results(load: Load, family: str) -> None:
    whole, chunked = load(family), load(family, chunk=1)
    rows: list[int] = []
    chunked.network.register_forward_pre_hook(
        lambda _, args, kwargs: rows.append(len(args[0] if args else kwargs["hidden_states"])), with_kwargs=True
    )
    expected, found = predicted(whole), predicted(chunked)
    assert rows == [1] * len(found.eps)
    torch.testing.assert_close(found.eps, expected.eps, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.x0, expected.x0, atol=1e-5, rtol=1e-5)


def test_chunks_of_a_multi_view_model_are_whole_objects() -> None:
    whole, chunked = DiffusersConfig().load(), DiffusersConfig(chunk=2).load()
    rows: list[int] = []
    chunked.network.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    shape = whole.encode_image(torch.full((8, 64, 64, 3), 0.5)).shape
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    t, cond, cameras = torch.full((8,), 0.7), whole.encode_text(["a red mug"] * 8), turntable(8)
    expected, found = whole.predict(x, t, cond, cameras), chunked.predict(x, t, cond, cameras)
    assert rows == [4, 4]
    torch.testing.assert_close(found.eps, expected.eps, atol=1e-4, rtol=1e-4)
    # A trainable copy starts as the prior and uses the same chunks. The hook is copied too.
    copied = chunked.trainable_score(torch.Generator()).predict(x, t, cond, cameras)
    assert rows == [4, 4] * 2
    torch.testing.assert_close(copied.eps, expected.eps, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("family", "blocks"), [("sd", 7), ("flux dev", 2)])
def test_blocks_are_compiled(load: Load, family: str, blocks: int) -> None:
    """Only checks that blocks are marked for compilation. They run eagerly here, so no compiler is needed."""
    prior = load(family, compile=True)
    compiled = [module for module in prior.network.modules() if module._compiled_call_impl is not None]
    assert len(compiled) >= blocks
    with torch.compiler.set_stance("force_eager"):
        assert torch.equal(predicted(prior).eps, predicted(load(family)).eps)
        prior.trainable_score(torch.Generator().manual_seed(0)).predict(
            prior.encode_image(pictures(prior)), torch.tensor([0.3, 0.8]), prior.encode_text(["a", ""]), turntable(2)
        )


def test_the_embedded_prior_equals_direct_calls_of_its_networks() -> None:
    """Its results equal those of direct calls of its U-Net and autoencoder, in float32 on a CPU.

    Bit for bit, but for the encoder, which is folded into one convolution.
    """
    prior, folder = DiffusersConfig().load(), str(toybox_folder())
    options: dict[str, Any] = {"torch_dtype": torch.float32, "use_safetensors": True}
    unet: Any = UNet2DConditionModel.from_pretrained(folder, subfolder="unet", **options)
    vae: Any = AutoencoderTiny.from_pretrained(folder, subfolder="vae", **options)
    unet.eval().to(memory_format=torch.channels_last).set_attn_processor(ViewAttention())
    vae.eval().to(memory_format=torch.channels_last)
    encoder = CameraEncoder.load(toybox_folder() / "camera_encoder")
    rgb = torch.rand(4, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    cameras, t, cond = turntable(4), torch.tensor([0.1, 0.4, 0.7, 1.0]), prior.encode_text(["a red mug"] * 4)
    with torch.no_grad():
        channels_last = (2 * rgb.permute(0, 3, 1, 2) - 1).contiguous(memory_format=torch.channels_last)
        x = vae.encode(channels_last).latents * vae.config["scaling_factor"]
        torch.testing.assert_close(prior.encode_image(rgb), x, rtol=1e-5, atol=1e-5)
        with camera_embedding(unet, encoder(camera_features(cameras))):
            out = unet(x, (t * 999).round().long(), cond.hidden, cross_attention_kwargs={"n_views": 4}).sample
        alpha, sigma = prior.alpha(t).reshape(4, 1, 1, 1), prior.sigma(t).reshape(4, 1, 1, 1)
        ours = prior.predict(x, t, cond, cameras)
    assert torch.equal(ours.eps, alpha * out + sigma * x)
    assert torch.equal(ours.x0, alpha * x - sigma * out)
    together = prior.encode_text(["a red mug", "", "a blue chair"]).hidden
    assert torch.equal(together[0], cond.hidden[0])
    assert torch.equal(DiffusersConfig().load().encode_text([""]).hidden[0], together[1])
