"""Writes the pages of the site that are made from code: methods, examples, commands and the API reference."""

from pathlib import Path


def write(path: Path, text: str) -> None:
    """Write a page unless it already has this text, so that Sphinx rebuilds only what changed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def remove_others(folder: Path, pattern: str, kept: set[Path]) -> None:
    """Remove generated pages whose source is gone."""
    for path in set(folder.glob(pattern)) - kept:
        path.unlink()
