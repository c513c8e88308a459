"""Values that the shell completes: presets and run folders. They are read from file names, so completion is quick."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sds3d.presets import shipped
from sds3d.run.folder import CONFIGS


def complete_preset(incomplete: str) -> list[str]:
    """Names of shipped presets."""
    return [name for name in shipped() if name.startswith(incomplete)]


def complete_run(incomplete: str) -> list[str]:
    """Run folders in the folder typed so far and, while no folder is typed, in `runs`."""
    typed = Path(incomplete) if incomplete.endswith("/") else Path(incomplete).parent
    roots = [typed] if "/" in incomplete else [typed, Path("runs")]
    return sorted(str(run) for root in roots for run in _runs_in(root) if _matches(str(run), incomplete))


def _runs_in(root: Path) -> Iterator[Path]:
    yield from (path.parent for path in root.glob(CONFIGS))


def _matches(run: str, incomplete: str) -> bool:
    return run.startswith(incomplete.removeprefix("./"))
