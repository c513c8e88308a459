"""Shell completion of presets and run folders. They are read from file names, so completion is quick."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sds3d.presets import shipped
from sds3d.run.folder import CONFIGS


def complete_preset(incomplete: str) -> list[str]:
    """Return the names of shipped presets that complete a word."""
    return [name for name in shipped() if name.startswith(incomplete)]


def complete_run(incomplete: str) -> list[str]:
    """Return the run folders in the folder typed so far and, if no folder is typed yet, in `runs`."""
    typed = Path(incomplete) if incomplete.endswith("/") else Path(incomplete).parent
    roots = [typed] if "/" in incomplete else [typed, Path("runs")]
    return sorted(str(run) for root in roots for run in _runs_in(root) if _matches(str(run), incomplete))


def _runs_in(root: Path) -> Iterator[Path]:
    yield from (path.parent for path in root.glob(CONFIGS))


def _matches(run: str, incomplete: str) -> bool:
    return run.startswith(incomplete.removeprefix("./"))
