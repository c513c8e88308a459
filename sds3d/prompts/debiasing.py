"""Prompt debiasing (D-SDS, Hong et al. 2023, arXiv:2303.15413, sec. 4.2).

"A smiling dog, back view" requests a face at the back. A masked language model gives the probability of each view's
word in a sentence about the prompt. A word that makes a view less probable is removed from that view's text. (The
paper's score debiasing is the gradient transform `clamp`.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sds3d.files import PriorError

ViewProbabilities = Callable[[Sequence[str]], Tensor]
"""Maps N prompts to the probabilities (N, V) of the V view words in a sentence about each."""

THRESHOLD = 0.95
"""A word is removed below this ratio of the view's probability with the word to the mean with and without it."""


def debiased(prompt: str, views: Sequence[str], probabilities: ViewProbabilities) -> list[str]:
    """Return the prompt for each of the V views without the words that contradict it; unchanged if all would go."""
    words = prompt.split()
    without = [" ".join(words[:i] + words[i + 1 :]) for i in range(len(words))]
    whole, *parts = probabilities([" ".join(words), *without])  # (V,) each
    texts = []
    for view in range(len(views)):
        kept = [
            word
            for word, part in zip(words, parts, strict=True)
            if whole[view] >= THRESHOLD * (whole[view] + part[view]) / 2
        ]
        texts.append(" ".join(kept or words))
    return texts


class MaskedLanguageModel:
    """Probabilities of view words by a BERT-like model in a local folder or on the Hugging Face hub.

    Local folders never use the network; with `offline`, an id must be in the local cache. Only safetensors are read.
    Raises PriorError if the model cannot be loaded or has no single token for one of the views.
    """

    def __init__(self, source: str, views: Sequence[str], *, offline: bool = False) -> None:
        from transformers import AutoModelForMaskedLM, AutoTokenizer

        local = Path(source).expanduser().is_dir()
        source = str(Path(source).expanduser()) if local else source
        try:
            options = {"local_files_only": local or offline}
            self._tokenizer: Any = AutoTokenizer.from_pretrained(source, **options)
            model: Any = AutoModelForMaskedLM.from_pretrained(source, use_safetensors=True, **options)
        except Exception as error:  # the libraries raise many kinds
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            hint = "check the folder" if local else "check the id, your network, or give a local folder"
            raise PriorError(f"can't load the masked language model {source!r}: {reason} ({hint})") from error
        self._model = model.eval()
        self._tokens = self._tokenizer.convert_tokens_to_ids(list(views))
        for view, token in zip(views, self._tokens, strict=True):
            if token in (None, self._tokenizer.unk_token_id):
                raise PriorError(f'the masked language model {source!r} has no token for "{view}": use an English one')

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """Return probabilities (N, V) of the views in a sentence about each of N prompts; each row sums to 1."""
        mask = self._tokenizer.mask_token
        sentences = [f"The picture shows the {mask} view of {prompt}." for prompt in prompts]
        inputs = self._tokenizer(sentences, return_tensors="pt", padding=True, truncation=True)
        logits = self._model(**inputs).logits  # (N, L, vocabulary)
        masked = logits[inputs["input_ids"] == self._tokenizer.mask_token_id]  # (N, vocabulary)
        return masked[:, self._tokens].softmax(dim=-1)
