"""What a prior with a small vocabulary cannot draw of a prompt, said while it is typed."""

from __future__ import annotations

from sds3d.config import nearest
from sds3d.prompts.vocabulary import Reading, Vocabulary

WORDS = 8  # at most this many unknown words are listed
KINDS = 5  # kinds that are named as examples
READ = 1000  # characters of a prompt


def hint(prompt: str, vocabulary: Vocabulary | None) -> str:
    """Return what a prior does not know of a prompt, as sentences; "" if it knows it all, or may know any word."""
    text = prompt[:READ].strip()
    if not text or vocabulary is None:
        return ""
    reading = vocabulary.read(text)
    if len(reading.kinds) > 1:  # words between two objects, such as "next to", are no use once there is one object
        return reading.remark()
    sentences = [reading.remark()] if reading.remark() else []
    if reading.unknown:
        verb = "does not know the word" if len(reading.unknown) == 1 else "does not know the words"
        words = [_guess(word, vocabulary) for word in reading.unknown[:WORDS]]
        more = ", …" if len(reading.unknown) > WORDS else ""
        sentences.append(f"The embedded prior {verb} {', '.join(words)}{more}.")
    elif not reading.kinds:
        sentences.append("The prompt names no object that the embedded prior knows.")
    else:
        sentences += _colors(reading, vocabulary)
    if reading.unknown or not reading.kinds:
        sentences.append(f"It knows {known(vocabulary)}. For anything else use a large model: Advanced, Prior, Model.")
    return " ".join(sentences)


def known(vocabulary: Vocabulary) -> str:
    """Return what a prior can draw, as the end of a sentence, with some kinds from all over its list."""
    kinds = list(vocabulary.kinds)
    some = kinds[:: max(1, -(-len(kinds) // KINDS))]
    return f"{len(kinds)} kinds of object, such as {_listed(some)}, in {_listed(vocabulary.colors)}"


def _colors(reading: Reading, vocabulary: Vocabulary) -> list[str]:
    """Return a sentence if a part has several colours."""
    for part, colors in reading.colors.items():
        if len(colors) > 1:
            main, other = colors[:2]
            example = vocabulary.describe(reading.kinds[0], [main], [other])
            return [f"Each part has one colour, and the {part} has {_listed(colors)}: try “{example}”."]
    return []


def _guess(word: str, vocabulary: Vocabulary) -> str:
    close = nearest(word, (*vocabulary.kinds, *vocabulary.colors, *vocabulary.kinds.values()))
    return f"“{word}”" + (f" (“{close[0]}”?)" if close else "")


def _listed(words: list[str] | tuple[str, ...]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
