"""What the embedded prior cannot draw of a prompt, said while it is typed."""

from __future__ import annotations

from sds3d.config import nearest
from sds3d.toybox.captions import colors_by_part, objects_in, unknown_words
from sds3d.toybox.captions import prompt as prompt_of
from sds3d.toybox.world import ACCENT_PART, CATEGORIES, COLORS, Spec

WORDS = 8  # at most this many unknown words are listed
READ = 1000  # characters of a prompt


def hint(prompt: str) -> str:
    """Return what the embedded prior does not know of a prompt, as sentences; "" if it knows it all."""
    text = prompt[:READ]
    if not text.strip():
        return ""
    plurals = {word: one for word in unknown_words(text) if (one := _singular(word))}
    objects = list(dict.fromkeys([*objects_in(text), *plurals.values()]))
    if len(objects) > 1:
        return f"The embedded prior draws one object at a time, not {_listed([_a(word) for word in objects])} together."
    # Words between two objects, such as "next to", are no use once there is one object.
    unknown = [word for word in unknown_words(text) if word not in plurals]
    sentences = []
    if plurals:
        (plural, one), *_ = plurals.items()
        sentences.append(f"The embedded prior draws one object: write “{one}” instead of “{plural}”.")
    if unknown:
        verb = "does not know the word" if len(unknown) == 1 else "does not know the words"
        words = ", ".join(map(_guess, unknown[:WORDS])) + (", …" if len(unknown) > WORDS else "")
        sentences.append(f"The embedded prior {verb} {words}.")
    elif not objects:
        sentences.append("The prompt names no object that the embedded prior knows.")
    else:
        sentences += _colors(text, objects[0])
    if unknown or not objects:
        sentences.append(f"It knows {known_objects()}. For anything else use a large model: Advanced, Prior, Model.")
    return " ".join(sentences)


def known_objects() -> str:
    """Return what the embedded prior can draw, as the end of a sentence."""
    return f"{_listed(CATEGORIES)}, in {_listed(tuple(COLORS))}"


def _colors(text: str, category: str) -> list[str]:
    """Return a sentence if a part has several colours."""
    for part, colors in colors_by_part(text, category).items():
        if len(colors) > 1:
            main, other = colors[:2]
            example = prompt_of(Spec(category, main, other))
            return [f"Each part has one colour, and the {part} has {_listed(colors)}: try “{example}”."]
    return []


def _singular(word: str) -> str:
    """Return the category of which a word is the plural; "" if there is none."""
    singular = "snowman" if word == "snowmen" else word.removesuffix("s")
    return singular if singular != word and singular in CATEGORIES else ""


def _guess(word: str) -> str:
    close = nearest(word, (*CATEGORIES, *COLORS, *ACCENT_PART.values()))
    return f"“{word}”" + (f" (“{close[0]}”?)" if close else "")


def _a(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def _listed(words: list[str] | tuple[str, ...]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
