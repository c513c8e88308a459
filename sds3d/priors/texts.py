"""Embeddings of texts. Each text is encoded once and alone; the text encoders are freed afterwards."""

from __future__ import annotations

import gc
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sds3d.prompts.conditioning import Conditioning
from sds3d.prompts.prompt import without_view

KEPT = 64  # texts, of 8 MB each for FLUX

Encode = Callable[[str], Conditioning]
"""Maps a text to one row. It holds the text encoders; they are freed with it."""


class Texts:
    """A cache of the rows of texts, on the CPU. load: loads the encoders when a text is new.

    A row does not depend on the other texts of a call, so a resumed run has the same bits.
    """

    def __init__(self, load: Callable[[], Encode], device: torch.device) -> None:
        self.load = load
        self.device = device
        self._rows: OrderedDict[str, Conditioning] = OrderedDict()

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        """Return embeddings of B texts in float32, B rows."""
        rows = {text: self._rows[text] for text in prompts if text in self._rows}
        if missing := [text for text in dict.fromkeys(prompts) if text not in rows]:
            encode = self.load()
            rows |= {text: _moved(encode(text), "cpu") for text in missing}
            del encode
            gc.collect()  # networks are in reference cycles
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        for text in dict.fromkeys(prompts):
            self._rows[text] = rows[text]
            self._rows.move_to_end(text)
        while len(self._rows) > KEPT:
            self._rows.popitem(last=False)
        return _moved(Conditioning.cat([rows[text] for text in prompts]), self.device)


def tokens_of(tokenizer: Any, text: str, length: int) -> Any:
    """Return input ids and attention mask of a text, (1, length), padded or cut.

    The end of a prompt that is too long is cut, but the words of the view after it stay: without them, all views of a
    long prompt would be the same. A warning tells it, once for all views.
    """
    ids = tokenizer(text, verbose=False).input_ids
    if len(ids) > length:
        prompt = without_view(text)
        prompt_ids = tokenizer(prompt, verbose=False).input_ids
        tail = len(ids) - len(prompt_ids) + 1  # the view's words, and the token that ends every text
        warnings.warn(
            f"the prompt has {len(prompt_ids)} tokens, but a text encoder of this model reads {length}: its end is "
            "left out there (words of the view stay); shorten the prompt",
            stacklevel=2,
        )
        ids = [*ids[: length - tail], *ids[-tail:]] if tail < length else ids[:length]
    return tokenizer.pad({"input_ids": [ids]}, padding="max_length", max_length=length, return_tensors="pt")


def clip_embedding(tokenizer: Any, encoder: Any, text: str) -> tuple[Tensor, Tensor]:
    """Return what SDXL and SD3 use of a CLIP text encoder: states before the last layer (1, L, D), first output."""
    ids = tokens_of(tokenizer, text, tokenizer.model_max_length).input_ids
    out = encoder(ids.to(encoder.device), output_hidden_states=True)
    return out.hidden_states[-2], out[0]


def t5_embedding(tokenizer: Any, encoder: Any, text: str, length: int, *, masked: bool = False) -> Tensor:
    """Return the last hidden states of a T5 encoder, (1, length, D). masked: without attention to padding."""
    tokens = tokens_of(tokenizer, text, length)
    mask = tokens.attention_mask.to(encoder.device) if masked else None
    return encoder(tokens.input_ids.to(encoder.device), attention_mask=mask)[0]


def _moved(cond: Conditioning, device: torch.device | str) -> Conditioning:
    return Conditioning.of({name: value.float().to(device) for name, value in cond.tensors().items()})
