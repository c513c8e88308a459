"""What a prior knows that was trained with a small vocabulary, and how it reads a prompt.

A file in the prior's folder tells its words. Its text encoder has learnt nothing else, so plurals and other words for
the same thing are put into these words, and of several objects one is kept.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from sds3d.files import PriorError
from sds3d.prompts.prompt import without_view
from sds3d.prompts.synonyms import COUNTS, SYNONYMS, singulars

FILE = "toybox.json"

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_ARTICLES = ("a", "an", "the")
_REACH = 5  # tokens between a noun and the word that counts it
_LONGEST = 3  # words of a phrase with a synonym


@dataclass(frozen=True)
class Reading:
    """How a vocabulary reads a prompt.

    text: what the text encoder gets: known words for one object, and unknown ones as they are. kinds: the objects that
    are named, each once; the first is made. colors: the colours of the first object and of its part, by noun, in order.
    several: the words that ask for more than one of it, or "". unknown: words that stay unknown, in lower case and in
    order, each once.
    """

    prompt: str
    text: str
    kinds: tuple[str, ...]
    colors: Mapping[str, list[str]]
    several: str
    unknown: tuple[str, ...]

    def remark(self) -> str:
        """Return in a sentence what is made if it is not what was asked for in words; "" if it is."""
        _, *others = self.kinds or ("",)
        if others:
            return f"One object is made at a time: “{self.text}”, without the {' and the '.join(others)}."
        if self.several:
            return f"One object is made at a time: “{self.text}”."
        return f"The prompt is read as “{self.text}”." if self.text != self.prompt else ""


@dataclass(frozen=True)
class _Token:
    """A word or phrase of a prompt.

    before: what stands between it and the token before. typed: as the prompt has it. said: in the vocabulary's words,
    or "" if it is left out. several: whether it is a plural.
    """

    before: str
    typed: str
    said: str
    several: bool = False


@dataclass(frozen=True)
class Vocabulary:
    """The words of a prior's training.

    kinds: its kinds of object, each with the part that may have a colour of its own. colors: its colours. words: all
    words of its captions, those included.
    """

    kinds: Mapping[str, str]
    colors: tuple[str, ...]
    words: frozenset[str]

    def write(self, folder: Path) -> None:
        """Write the file into a prior's folder."""
        data = {"kinds": dict(self.kinds), "colors": list(self.colors), "words": sorted(self.words)}
        (folder / FILE).write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")

    def read(self, prompt: str) -> Reading:
        """Read a prompt. If all its words are known and it names one object, its text stays as it is."""
        tokens, end = self._translated(prompt)
        tokens = self._counted(tokens)
        kinds = self._objects(tokens)
        made = kinds[0] if kinds else ""
        colors = self._colors(tokens, kinds)
        unknown = dict.fromkeys(t.typed.lower() for t in tokens if t.said and t.said.lower() not in self.words)
        several = next((t.typed for t in tokens if t.said.lower() == made and t.several), "") if made else ""
        text = "".join(t.before + t.said for t in self._agreeing(tokens)) + end
        if len(kinds) > 1:
            text = self.describe(made, *colors.values()) + prompt[len(without_view(prompt)) :]
        return Reading(prompt, text, kinds, colors, several, tuple(unknown))

    def describe(self, kind: str, colors: list[str], accents: list[str]) -> str:
        """Return a prompt: "a red mug", "a white snowman with a green hat"."""
        text = " ".join(["a", *" and ".join(colors).split(), kind])
        if accents:
            part = self.kinds[kind]
            text += " ".join([" with", *["a"] * (not part.endswith("s")), " and ".join(accents), part])
        return re.sub(r"\ba (?=[aeiou])", "an ", text)

    def _translated(self, prompt: str) -> tuple[list[_Token], str]:
        """Split a prompt into tokens in the vocabulary's words, and what stands after the last."""
        found = list(_WORD.finditer(prompt))
        starts = [0, *(match.end() for match in found)]
        tokens = []
        i = 0
        while i < len(found):
            before = prompt[starts[i] : found[i].start()]
            for n in range(min(_LONGEST, len(found) - i), 0, -1):
                typed = prompt[found[i].start() : found[i + n - 1].end()]
                said, several = self._word(typed.lower())
                if said:
                    break
            else:
                n, typed, said, several = 1, found[i][0], found[i][0], False
            tokens.append(_Token(before, typed, typed if said == typed.lower() else said, several))
            i += n
        return tokens, prompt[starts[-1] :]

    def _word(self, typed: str) -> tuple[str, bool]:
        """Return the vocabulary's word for a text in lower case, or "", and whether the text is its plural."""
        if typed in self.words:
            return typed, False
        phrase = re.sub(r"[\s'’-]+", " ", typed)
        if re.search(r"[^\w ]", phrase):  # a phrase does not go over a comma
            return "", False
        for one in (phrase, *singulars(phrase)):
            word = SYNONYMS.get(one, one)
            if word in self.kinds or (one == phrase and word in self.words):
                return word, one != phrase
        parts = self.kinds.values()
        return next((word for word in (f"{phrase}s", *singulars(phrase)) if word in parts), ""), False

    def _counted(self, tokens: list[_Token]) -> list[_Token]:
        """Leave out the words that count an object: "two red mugs" becomes "a red mug"."""
        tokens = list(tokens)
        for i, noun in enumerate(tokens):
            if noun.said.lower() not in self.kinds:
                continue
            for j in range(i - 1, max(-1, i - _REACH), -1):
                word = tokens[j].said.lower()
                after = tokens[j + 1]
                joins = word == "and" and after.said.lower() not in self.colors
                if joins or word in self.kinds or word in self.kinds.values() or "," in after.before:
                    break
                if word in COUNTS or (word.isdecimal() and int(word) > 1):
                    before = tokens[j - 1].said.lower() if j else ""
                    tokens[j] = replace(tokens[j], said="" if before in _ARTICLES else "a")
                    if after.said == "of":
                        tokens[j + 1] = replace(after, said="")
                    typed = "".join(t.before + t.typed for t in tokens[j : i + 1]).strip()
                    tokens[i] = replace(noun, typed=typed, several=True)
                    break
        return tokens

    def _objects(self, tokens: list[_Token]) -> tuple[str, ...]:
        """Return the kinds that are named, the one that is made first.

        A noun before a noun tells of it: an apple tree is a tree. A hat is the part of a snowman.
        """
        named = [t.said.lower() for t in tokens if t.said.lower() in self.kinds]
        parts = {self.kinds[kind] for kind in named}
        heads = [t.said.lower() for t in self._without_modifiers(tokens) if t.said.lower() in self.kinds]
        return tuple(kind for kind in dict.fromkeys([*heads, *named]) if kind not in parts)

    def _without_modifiers(self, tokens: list[_Token]) -> list[_Token]:
        """Leave out nouns right before nouns."""
        followed = [
            after.before.isspace() and {token.said.lower(), after.said.lower()} <= self.kinds.keys()
            for token, after in pairwise([*tokens, _Token("", "", "")])
        ]
        return [token for token, modifies in zip(tokens, followed, strict=True) if not modifies]

    def _colors(self, tokens: list[_Token], kinds: tuple[str, ...]) -> dict[str, list[str]]:
        """Return the colours of the first kind and of its part, by noun, in order, each once.

        A colour belongs to the noun right after it, otherwise to the last noun before it. In "a red and blue duck",
        the noun right after the last colour counts for all.
        """
        if not kinds:
            return {}
        words: list[str] = []
        for token in self._without_modifiers(tokens):
            words += [","] * ("," in token.before)
            words += [token.said.lower()] * (token.said.lower() not in ("", "toy", "colored"))
        part = self.kinds[kinds[0]]
        found: dict[str, list[str]] = {noun: [] for noun in (kinds[0], part, *kinds[1:])}
        last = kinds[0]
        for i, word in enumerate(words):
            if word in found:
                last = word
            elif word in self.colors:
                after = words[i + 1 :]
                while (
                    len(after) > 2
                    and words[max(0, i - 1)] in _ARTICLES
                    and after[0] == "and"
                    and after[1] in self.colors
                ):
                    after = after[2:]
                noun = after[0] if after and after[0] in found else last
                if word not in found[noun]:
                    found[noun].append(word)
        return {noun: found[noun] for noun in (kinds[0], part)}

    def _agreeing(self, tokens: list[_Token]) -> list[_Token]:
        """Leave out what has no words, and make articles agree with the new words."""
        if all(token.said == token.typed for token in tokens):
            return tokens
        kept = [token for token in tokens if token.said]
        for i, token in reversed(list(enumerate(kept))):
            if token.said in self.kinds.values() and token.said.endswith("s"):  # "a red wing" becomes "red wings"
                first = next((k for k in range(i - 1, -1, -1) if kept[k].said.lower() not in self.colors), i)
                if kept[first].said.lower() in ("a", "an"):
                    kept[first + 1] = replace(kept[first + 1], before=kept[first].before)
                    del kept[first]
        for i, (article, noun) in enumerate(pairwise(kept)):
            if article.said.lower() in ("a", "an") and noun.said.lower() in self.words:
                right = "an" if noun.said[0].lower() in "aeiou" else "a"
                kept[i] = replace(article, said=right.capitalize() if article.said[0] == "A" else right)
        if kept:
            kept[0] = replace(kept[0], before=tokens[0].before)
        return kept


def read_vocabulary(folder: Path) -> Vocabulary | None:
    """Read the file of a prior's folder. None if there is none: such a prior may know any word.

    Raises PriorError if the file is not what `Vocabulary.write` writes.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        kinds = {str(kind): str(part) for kind, part in data["kinds"].items()}
        return Vocabulary(kinds, tuple(map(str, data["colors"])), frozenset(map(str, data["words"])))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PriorError(f"{path} is damaged ({error!r}): copy it from the prior again") from None
