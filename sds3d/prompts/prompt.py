"""Prompts: their checks, the texts of each view, their embeddings, and names for folders."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Self, get_args

import torch
from pydantic import Field, model_validator
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.config import Config, FileName
from sds3d.prompts.conditioning import Conditioning, TextEncoder
from sds3d.prompts.perp_neg import Neighbours, PerpNegConfig, between, negative_weights, quarter

View = Literal["front", "side", "back", "overhead"]
VIEWS: tuple[View, ...] = get_args(View)

MAX_LENGTH = 1000  # characters


class PromptConfig(Config):
    """How a prompt becomes the conditioning of each view."""

    view_dependent: Literal["auto", True, False] = "auto"
    """Add words such as ", front view" by the camera (DreamFusion, arXiv:2209.14988). auto: if the prior takes no
    cameras. Without words and cameras, every side becomes a front."""
    negative: str = ""
    """Text of the negative branch of classifier-free guidance."""
    image: FileName = ""
    """A PNG, JPEG or WebP picture beside the text, for its style or its object, if the prior takes pictures: with
    `prior.ip_adapter`, or a model of image variations. The negative text has none."""
    category: str = ""
    """Category of the object, for example "a mug", for rules that compare with it (C-SDS)."""
    debias: str = ""
    """A masked language model that removes words that contradict a view from its text (arXiv:2303.15413): a local
    folder or an id such as bert-base-uncased. Empty: texts stay as they are."""
    debias_offline: bool = False
    """Never use the network for `debias`. An id must then be in the local cache."""
    front_threshold: float = Field(default=45.0, gt=0.0, le=90.0)
    """Half the width of the front view and of the back view, in degrees of azimuth; ProlificDreamer and MVDream use
    30."""
    overhead_threshold: float = Field(default=60.0, gt=0.0, le=90.0)
    """Elevation in degrees above which a view is overhead."""
    interpolate: bool = False
    """Blend the texts of front, side and back by the azimuth (LucidDreamer) instead of choosing one of them."""
    perp_neg: PerpNegConfig = PerpNegConfig()
    """Perp-Neg (arXiv:2304.04968): guide away from the words of neighbouring views, which prevents second faces. It
    blends texts, too."""

    @model_validator(mode="after")
    def _words_are_there(self) -> Self:
        if self.view_dependent is False and (self.interpolate or self.perp_neg.strength):
            name = "perp_neg.strength" if self.perp_neg.strength else "interpolate"
            raise ValueError(f"{name} needs view words: set view_dependent=true")
        return self


def view_name(azimuth: float, elevation: float, threshold: float = 45.0, overhead: float = 60.0) -> View:
    """Return the word for a view from (azimuth, elevation) in degrees: above `overhead`, or by the azimuth."""
    if elevation > overhead:
        return "overhead"
    from_front = abs(180.0 - (180.0 - azimuth) % 360.0)  # azimuth wrapped to (-180, 180]
    if from_front < threshold:
        return "front"
    return "back" if from_front > 180.0 - threshold else "side"


def view_rows(cameras: Cameras, threshold: float = 45.0, overhead: float = 60.0) -> Tensor:
    """Return the places in `VIEWS` of the words of B views, (B,) int64, as `view_name` does, on the cameras' device."""
    # On a CPU that of `view_name`; Apple's GPUs have no float64.
    exact = torch.float64 if cameras.azimuth.device.type == "cpu" else torch.float32
    from_front = (180.0 - (180.0 - cameras.azimuth.to(exact)) % 360.0).abs()
    rows = torch.where(from_front > 180.0 - threshold, VIEWS.index("back"), VIEWS.index("side"))
    rows = rows.masked_fill(from_front < threshold, VIEWS.index("front"))
    return rows.masked_fill(cameras.elevation.to(exact) > overhead, VIEWS.index("overhead"))


def view_dependent(prompt: str) -> dict[View, str]:
    """Return the prompt with the word of each view."""
    return {view: prompt + view_words(view) for view in VIEWS}


def view_words(view: View) -> str:
    """Return what is added to a prompt for a view."""
    return f", {view} view"


def without_view(text: str) -> str:
    """Return the text without the words that `view_dependent` added."""
    words = next((view_words(view) for view in VIEWS if text.endswith(view_words(view))), "")
    return text.removesuffix(words)


def checked_prompt(prompt: str) -> str:
    """Return the prompt without surrounding space.

    Raises ValueError if it is empty, longer than 1000 characters, or contains control characters (such as line breaks
    and tabs).
    """
    text = prompt.strip()
    if not text:
        raise ValueError('the prompt is empty: describe an object, for example "a red mug"')
    if len(text) > MAX_LENGTH:
        raise ValueError(f"the prompt has {len(text)} characters: shorten it to {MAX_LENGTH} or fewer")
    for position, character in enumerate(text):
        if unicodedata.category(character) in ("Cc", "Cs"):  # controls, unpaired surrogates
            raise ValueError(f"the prompt has the control character U+{ord(character):04X} at {position}: remove it")
    return text


def slug(prompt: str, max_length: int = 40) -> str:
    """Return a folder name: lower-case ASCII words joined by '-', up to `max_length`; "prompt" if there are none."""
    ascii_text = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode()
    words = re.findall(r"[a-z0-9]+", ascii_text.lower())
    name = ""
    for word in words:
        longer = f"{name}-{word}" if name else word[:max_length]
        if len(longer) > max_length:
            break
        name = longer
    return name or "prompt"


OFF = PerpNegConfig()


@dataclass(frozen=True)
class PromptTexts:
    """The texts that a prior's text encoder encodes.

    views: the prompt for each of `VIEWS`. plain: the prompt itself. negative: the text of the negative branch of
    classifier-free guidance. extra: further texts of a rule, by names that the rule chooses. view_dependent: whether
    views are guided to `views` or to `plain`; "auto": if the encoder takes no cameras. front_threshold,
    overhead_threshold, perp_neg: see `PromptConfig`. interpolate: whether the texts of views are blended.
    """

    views: tuple[str, ...]
    plain: str
    negative: str
    view_dependent: Literal["auto", True, False]
    front_threshold: float
    overhead_threshold: float
    extra: Mapping[str, str] = field(default_factory=dict)
    interpolate: bool = False
    perp_neg: PerpNegConfig = OFF

    def all(self) -> list[str]:
        """Return every text, the empty one included, in the order of `EncodedPrompt`."""
        return [*self.views, self.plain, self.negative, "", *self.extra.values()]


@dataclass(frozen=True)
class EncodedPrompt:
    """The embeddings of `PromptTexts`, each text encoded once.

    views: one row per word of `VIEWS`. plain, negative and each of extra: one row. null: the empty text's row.
    """

    texts: PromptTexts
    views: Conditioning
    plain: Conditioning
    negative: Conditioning
    null: Conditioning
    extra: Mapping[str, Conditioning]

    def of_views(self, cameras: Cameras) -> Conditioning:
        """Return the prompt with the word of each of B views, or blended between two of them, B rows."""
        if self.texts.interpolate:
            return self._blended(cameras)
        rows = view_rows(cameras, self.texts.front_threshold, self.texts.overhead_threshold)
        return self.views[rows.to(self.views.hidden.device)]

    def positive(self, cameras: Cameras) -> Conditioning:
        """Return the text that each of B views is guided to, B rows, with view words if texts are view-dependent."""
        return self.of_views(cameras) if self.texts.view_dependent else self.plain.repeat(len(cameras))

    def neighbours(self, cameras: Cameras) -> Neighbours:
        """Return the negatives of each of B views by Perp-Neg. Views from above have weights of 0."""
        perp_neg, device = self.texts.perp_neg, self.views.hidden.device
        if not (self.texts.view_dependent and perp_neg.strength):
            return Neighbours((), torch.zeros(len(cameras), 0, device=device))
        first, _, above = self._places(cameras)
        weights = negative_weights(perp_neg, cameras.azimuth).masked_fill(above[:, None], 0.0)
        second = torch.where(quarter(cameras.azimuth)[0], VIEWS.index("side"), VIEWS.index("front"))
        return Neighbours((self.views[first.to(device)], self.views[second.to(device)]), weights.to(device))

    def _blended(self, cameras: Cameras) -> Conditioning:
        """Return the texts of B views, interpolated by the azimuth; those from above have one word."""
        first, second, _ = (place.to(self.views.hidden.device) for place in self._places(cameras))
        return between(self.views[first], self.views[second], quarter(cameras.azimuth)[1].to(first.device))

    def _places(self, cameras: Cameras) -> tuple[Tensor, Tensor, Tensor]:
        """Return the places in `VIEWS` of the two views that each of B views is between, and whether it is above."""
        ahead, above = quarter(cameras.azimuth)[0], cameras.elevation > self.texts.overhead_threshold
        front, side, back, overhead = (VIEWS.index(view) for view in VIEWS)
        first = torch.where(ahead, front, side).masked_fill(above, overhead)
        return first, torch.where(ahead, side, back).masked_fill(above, overhead), above


def prompt_texts(prompt: str, config: PromptConfig) -> PromptTexts:
    """Return the texts of a prompt. A rule may change them or add others, see `RuleConfig.texts`.

    Raises ValueError as `checked_prompt` does, and PriorError if the model of `config.debias` cannot be used.
    """
    prompt = checked_prompt(prompt)
    subjects = [prompt] * len(VIEWS)
    if config.debias:
        from sds3d.prompts.debiasing import MaskedLanguageModel, debiased

        subjects = debiased(prompt, VIEWS, MaskedLanguageModel(config.debias, VIEWS, offline=config.debias_offline))
    views = tuple(view_dependent(subject)[view] for view, subject in zip(VIEWS, subjects, strict=True))
    limits = config.front_threshold, config.overhead_threshold
    return PromptTexts(
        views,
        prompt,
        config.negative,
        config.view_dependent,
        *limits,
        interpolate=config.interpolate or config.perp_neg.strength > 0,
        perp_neg=config.perp_neg,
    )


def encode_texts(encoder: TextEncoder, texts: PromptTexts, pictures: Tensor | None = None) -> EncodedPrompt:
    """Encode all texts in one call of the prior's text encoder. Here "auto" becomes whether views have words.

    pictures: (1, T, D) by the prior's `encode_picture`: a picture that goes with the prompt. It stands beside it,
    with and without the words of views. The negative and the empty text, and further texts of a rule, have no picture.
    """
    return encode_each(encoder, [texts], pictures)[0]


def encode_each(
    encoder: TextEncoder, prompts: Sequence[PromptTexts], pictures: Tensor | None = None
) -> list[EncodedPrompt]:
    """Encode the texts of several prompts in one call of the text encoder, as `encode_texts` does those of one."""
    wanted = [text for texts in prompts for text in texts.all()]
    rows, encoded, first = encoder.encode_text(wanted), [], 0
    for texts in prompts:
        count = len(texts.all())
        encoded.append(_encoded(encoder, texts, rows[first : first + count], pictures))
        first += count
    return encoded


def _encoded(encoder: TextEncoder, texts: PromptTexts, rows: Conditioning, pictures: Tensor | None) -> EncodedPrompt:
    if texts.view_dependent == "auto":
        texts = replace(texts, view_dependent=not encoder.takes_cameras)
    plain, negative, null, *extra = (rows[i : i + 1] for i in range(len(VIEWS), len(rows)))
    views = rows[: len(VIEWS)]
    if pictures is not None:
        plain, views = replace(plain, pictures=pictures), replace(views, pictures=pictures.expand(len(VIEWS), -1, -1))
    return EncodedPrompt(texts, views, plain, negative, null, dict(zip(texts.extra, extra, strict=True)))


def encode_prompt(encoder: TextEncoder, prompt: str, config: PromptConfig) -> EncodedPrompt:
    """Encode the texts of a prompt without those of a rule. Raises as `prompt_texts` does."""
    return encode_texts(encoder, prompt_texts(prompt, config))
