"""What a prior that was trained on a small vocabulary knows. A file in its folder tells it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FILE = "toybox.json"


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


def read_vocabulary(folder: Path) -> Vocabulary | None:
    """Read the file of a prior's folder. None if there is none: such a prior may know any word.

    Raises ValueError if the file is not what `Vocabulary.write` writes.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        kinds = {str(kind): str(part) for kind, part in data["kinds"].items()}
        return Vocabulary(kinds, tuple(map(str, data["colors"])), frozenset(map(str, data["words"])))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}): copy it from the prior again") from None
