"""Prompts as text: what the text encoder is asked for each view, checks, and names for folders."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from pydantic import Field

from sds3d.cameras import Cameras
from sds3d.config import Config
from sds3d.prompts.conditioning import Conditioning, TextEncoder

View = Literal["front", "side", "back", "overhead"]
VIEWS: tuple[View, ...] = get_args(View)

MAX_LENGTH = 1000  # characters


class PromptConfig(Config):
    """How the text of a prompt becomes the conditioning of each view."""

    view_dependent: bool = True
    """Add ", front view" and the like, by the camera (DreamFusion, 2209.14988); not for camera-conditioned priors."""
    negative: str = ""
    """Prompt of the negative branch of classifier-free guidance."""
    category: str = ""
    """What kind of thing the object is ("a mug"), for rules that compare with it (C-SDS)."""
    debias: str = ""
    """A masked language model that drops words which contradict a view from its text (arXiv:2303.15413): a local folder
    or an id such as bert-base-uncased; empty leaves texts alone."""
    debias_offline: bool = False
    """Never touch the network for it; an id must then be in the local cache. Local folders never do."""
    front_threshold: float = Field(default=45.0, gt=0.0, le=90.0)
    """Half the width of the front and of the back in degrees of azimuth; ProlificDreamer and MVDream take 30."""


def view_name(azimuth: float, elevation: float, threshold: float = 45.0, overhead: float = 60.0) -> View:
    """The word for a view from (azimuth, elevation) in degrees: above `overhead`, or by the azimuth from the front."""
    if elevation > overhead:
        return "overhead"
    from_front = abs(180.0 - (180.0 - azimuth) % 360.0)  # azimuth wrapped to (-180, 180]
    if from_front < threshold:
        return "front"
    return "back" if from_front > 180.0 - threshold else "side"


def view_dependent(prompt: str) -> dict[View, str]:
    """The prompt with the word of each view added."""
    return {view: f"{prompt}, {view} view" for view in VIEWS}


def checked_prompt(prompt: str) -> str:
    """The prompt without space around it.

    Raises ValueError when nothing is left, when it is longer than 1000 characters, or when it holds control
    characters (line breaks and tabs among them).
    """
    text = prompt.strip()
    if not text:
        raise ValueError('the prompt is empty: describe an object, for example "a red mug"')
    if len(text) > MAX_LENGTH:
        raise ValueError(f"the prompt has {len(text)} characters: shorten it to {MAX_LENGTH} or fewer")
    for position, character in enumerate(text):
        if unicodedata.category(character) in ("Cc", "Cs"):  # controls, unpaired surrogates
            raise ValueError(f"the prompt holds the control character U+{ord(character):04X} at {position}: remove it")
    return text


def slug(prompt: str, max_length: int = 40) -> str:
    """A folder name: lower-case ASCII words joined by '-', whole words up to `max_length`; "prompt" if none is left."""
    ascii_text = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode()
    words = re.findall(r"[a-z0-9]+", ascii_text.lower())
    name = ""
    for word in words:
        longer = f"{name}-{word}" if name else word[:max_length]
        if len(longer) > max_length:
            break
        name = longer
    return name or "prompt"


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt whose texts went through the text encoder once.

    views: one row per word of `VIEWS`. plain: the prompt as it is. negative, category: those of the configuration.
    null: the empty text. One row each.
    """

    views: Conditioning
    plain: Conditioning
    negative: Conditioning
    category: Conditioning
    null: Conditioning
    view_dependent: bool
    front_threshold: float

    def of_views(self, cameras: Cameras) -> Conditioning:
        """The prompt with the word of each of B views, B rows."""
        angles = zip(cameras.azimuth.tolist(), cameras.elevation.tolist(), strict=True)
        rows = [VIEWS.index(view_name(azimuth, elevation, self.front_threshold)) for azimuth, elevation in angles]
        return self.views[torch.tensor(rows, device=self.views.hidden.device)]

    def positive(self, cameras: Cameras) -> Conditioning:
        """What each of B views is guided to, B rows: with the words of the views when they are wanted."""
        return self.of_views(cameras) if self.view_dependent else self.plain.repeat(len(cameras))


def prompt_texts(prompt: str, config: PromptConfig) -> list[str]:
    """All texts of a prompt that an encoder is asked for: a text for each of `VIEWS`, the prompt, the negative one, the
    category and the empty text. Raises as `encode_prompt` does.
    """
    prompt = checked_prompt(prompt)
    subjects = [prompt] * len(VIEWS)
    if config.debias:
        from sds3d.prompts.debiasing import MaskedLanguageModel, debiased

        subjects = debiased(prompt, VIEWS, MaskedLanguageModel(config.debias, VIEWS, offline=config.debias_offline))
    views = [view_dependent(subject)[view] for view, subject in zip(VIEWS, subjects, strict=True)]
    return [*views, prompt, config.negative, config.category, ""]


def encode_prompt(encoder: TextEncoder, prompt: str, config: PromptConfig) -> EncodedPrompt:
    """Asks the prior's text encoder once for all texts of a prompt.

    Raises ValueError as `checked_prompt` does, and PriorError when the model of `config.debias` can't be used.
    """
    texts = prompt_texts(prompt, config)
    rows = encoder.encode_text(texts)
    words = len(VIEWS)
    plain, negative, category, null = (rows[i : i + 1] for i in range(words, len(texts)))
    return EncodedPrompt(rows[:words], plain, negative, category, null, config.view_dependent, config.front_threshold)
