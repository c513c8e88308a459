"""How benchmarks write their results: all figures as JSON, and a table as Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sds3d.files import write_atomically


def write_results(root: Path, name: str, details: Mapping[str, Any], markdown: str) -> None:
    """Write `<name>.json` and `<name>.md` into `root`."""
    write_atomically(root / f"{name}.json", (json.dumps(details, indent=2) + "\n").encode())
    write_atomically(root / f"{name}.md", markdown.encode())


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table with one line per row of cells."""
    lines = [header, ("---",) * len(header), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
