"""Prompt debiasing with known probabilities, with a handmade model, and compared with transformers' own pipeline."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast, pipeline

from sds3d.cameras import orbit
from sds3d.files import PriorError
from sds3d.priors.gaussian import Gaussian, GaussianPrior
from sds3d.prompts.debiasing import MaskedLanguageModel, debiased
from sds3d.prompts.prompt import VIEWS, PromptConfig, encode_prompt

WORDS = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] the picture shows view of a smiling red dog with big eyes . "
    "front side back overhead"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny random BERT on disk with strongly varying probabilities."""
    vocabulary = tmp_path / "words.txt"
    vocabulary.write_text("\n".join(WORDS.split()))
    BertTokenizerFast(str(vocabulary)).save_pretrained(tmp_path / "bert")
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(WORDS.split()), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32, initializer_range=0.8,
    )  # fmt: skip
    BertForMaskedLM(config).save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def known(table: dict[str, Sequence[float]], otherwise: Sequence[float]):
    """Return a function that looks up probabilities by the word that is missing from a prompt."""

    def probabilities(prompts: Sequence[str]) -> Tensor:
        rows = [next((p for word, p in table.items() if word not in prompt.split()), otherwise) for prompt in prompts]
        return torch.tensor(rows)

    return probabilities


def test_words_that_contradict_a_view_are_removed_from_its_text():
    # Without "smiling" the back is twice as probable: 0.1 / ((0.1 + 0.2) / 2) = 0.67 is below 0.95.
    probabilities = known({"smiling": [0.5, 0.2, 0.2, 0.1]}, [0.6, 0.2, 0.1, 0.1])
    assert debiased("a smiling dog", VIEWS, probabilities) == [
        "a smiling dog",
        "a smiling dog",
        "a dog",
        "a smiling dog",
    ]


@pytest.mark.parametrize(("without", "stays"), [(0.1104, True), (0.1106, False)])
def test_threshold(without: float, stays: bool):
    # 0.1 / ((0.1 + q) / 2) = 0.95 at q = 0.11053.
    probabilities = known({"big": [0.6, 0.2, without, 0.2 - without]}, [0.6, 0.2, 0.1, 0.1])
    assert ("big" in debiased("a dog with big eyes", VIEWS, probabilities)[2].split()) == stays


def test_a_text_is_never_emptied():
    probabilities = known({"dog": [0.0, 0.0, 1.0, 0.0]}, [0.97, 0.01, 0.01, 0.01])
    assert debiased("dog", VIEWS, probabilities) == ["dog"] * 4


def test_repeated_words_are_treated_separately():
    seen: list[str] = []

    def probabilities(prompts: Sequence[str]) -> Tensor:
        seen.extend(prompts)
        return torch.full((len(prompts), 4), 0.25)

    assert debiased("red  dog red", VIEWS, probabilities) == ["red dog red"] * 4
    assert seen == ["red dog red", "dog red", "red red", "red dog"]


def test_probabilities_of_a_handmade_model(folder: Path):
    # A head with only a bias gives the same logits for every sentence.
    model = BertForMaskedLM.from_pretrained(folder)
    bias = torch.linspace(-3, 2, model.config.vocab_size)
    with torch.no_grad():
        model.cls.predictions.transform.LayerNorm.weight.zero_()
        model.cls.predictions.transform.LayerNorm.bias.zero_()
        model.cls.predictions.bias.copy_(bias)
    model.save_pretrained(folder)
    got = MaskedLanguageModel(str(folder), VIEWS)(["a red dog", "a dog with big eyes"])
    views = bias[[WORDS.split().index(view) for view in VIEWS]]
    torch.testing.assert_close(got, (views.exp() / views.exp().sum()).expand(2, 4))


def test_probabilities_agree_with_transformers(folder: Path):
    prompt = "a smiling red dog with big eyes"
    words = prompt.split()
    fill = pipeline("fill-mask", model=str(folder), tokenizer=str(folder))

    def probabilities(prompts: Sequence[str]) -> Tensor:
        rows = []
        for text in prompts:
            found = fill(f"The picture shows the [MASK] view of {text}.", targets=list(VIEWS), top_k=len(VIEWS))
            scores = {guess["token_str"]: guess["score"] for guess in found}
            rows.append([scores[view] / sum(scores.values()) for view in VIEWS])
        return torch.tensor(rows)

    mine = MaskedLanguageModel(str(folder), VIEWS)
    prompts = [prompt, *(" ".join(words[:i] + words[i + 1 :]) for i in range(len(words)))]
    torch.testing.assert_close(mine(prompts), probabilities(prompts), atol=1e-5, rtol=1e-4)
    texts = debiased(prompt, VIEWS, mine)
    assert texts == debiased(prompt, VIEWS, probabilities)
    assert len(set(texts)) > 1  # its probabilities vary enough to drop a word


class RecordingPrior(GaussianPrior):
    """Records the texts that it encodes."""

    def encode_text(self, prompts: Sequence[str]):
        self.texts = list(prompts)
        return super().encode_text(["" for _ in prompts])


def test_the_setting_changes_only_the_texts_of_views(folder: Path):
    prior = RecordingPrior({"": Gaussian(0.0, 1.0)})
    prompt = "a smiling red dog with big eyes"
    encode_prompt(prior, prompt, PromptConfig())
    plain = prior.texts
    encoded = encode_prompt(prior, prompt, PromptConfig(debias=str(folder)))
    expected = debiased(prompt, VIEWS, MaskedLanguageModel(str(folder), VIEWS))
    assert prior.texts == [*(f"{text}, {view} view" for text, view in zip(expected, VIEWS, strict=True)), *plain[4:]]
    assert plain[:4] == [f"{prompt}, {view} view" for view in VIEWS]
    assert len(encoded.of_views(orbit([0.0, 90.0, 180.0]))) == 3


def test_errors_are_one_line_that_names_the_cure(folder: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    for source, hint in ((str(tmp_path / "empty"), "check the folder"), ("nobody/no-such-model", "check the id")):
        with pytest.raises(PriorError, match=hint) as caught:
            MaskedLanguageModel(source, VIEWS, offline=True)
        assert "\n" not in str(caught.value)
    with pytest.raises(PriorError, match='no token for "sideways"'):
        MaskedLanguageModel(str(folder), ["front", "sideways"])
