"""Negative-away steer attention against an attention processor written out, and as a setting of a prior."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sds3d.files import PriorError
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.priors.network import DiffusionPrior
from tests.guidance.exact import seeded
from tests.priors.test_diffusers import tiny_pipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pipeline")
    tiny_pipeline("v_prediction").save_pretrained(path)
    return path


def predicted(prior: DiffusionPrior, text: str = "a red mug") -> Tensor:
    x_t = torch.randn(2, 4, 16, 16, generator=seeded(1))
    with torch.no_grad():
        return prior.predict(x_t, torch.tensor([0.3, 0.8]), prior.encode_text([text] * 2), None).eps


class WrittenOut:
    """Self-attention as usual; cross-attention gives Z - a Z_neg before its projection, by explicit softmax."""

    def __init__(self, tokens: Tensor, scale: float) -> None:
        self.tokens, self.scale = tokens, scale

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any
    ) -> Tensor:
        def found(context: Tensor) -> Tensor:
            context = context.expand(len(hidden_states), -1, -1)
            q, k, v = (
                x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
                for x in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
            )
            weights = torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, dim=-1)
            return (weights @ v).transpose(1, 2).flatten(2)

        if encoder_hidden_states is None:
            return attn.to_out[0](found(hidden_states))
        return attn.to_out[0](found(encoder_hidden_states) - self.scale * found(self.tokens))


def test_cross_attention_gives_what_the_text_finds_without_what_the_words_find(folder: Path):
    ours = predicted(
        DiffusersConfig(
            model=str(folder), negative_attention="a blue chair", negative_attention_scale=0.7
        ).load()
    )  # fmt: skip
    prior = DiffusersConfig(model=str(folder)).load()
    plain = predicted(prior)
    tokens = prior.encode_text(["a blue chair"]).hidden
    prior.network.set_attn_processor(WrittenOut(tokens, 0.7))
    torch.testing.assert_close(ours, predicted(prior), atol=1e-5, rtol=1e-5)
    assert (ours - plain).abs().max() > 1e-3


def test_no_weight_is_the_plain_model(folder: Path):
    prior = DiffusersConfig(model=str(folder)).load()
    without = DiffusersConfig(model=str(folder), negative_attention="a chair", negative_attention_scale=0.0).load()
    assert torch.equal(predicted(without), predicted(prior))


def test_models_of_other_kinds_refuse_it(tmp_path: Path):
    other = tmp_path / "flux"
    other.mkdir()
    (other / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(
        PriorError, match=r"prior\.negative_attention: not for FluxPipeline; use Stable Diffusion or XL"
    ):
        DiffusersConfig(model=str(other), negative_attention="blurry").load()
