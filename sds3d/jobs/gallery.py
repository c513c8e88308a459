"""The files of a batch next to its run folders: a manifest, contact sheets and a gallery page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sds3d.files import RunError, write_atomically
from sds3d.formats.pictures import contact_sheet, png
from sds3d.jobs.batch import Batch, clipped, progress_of
from sds3d.jobs.gallery_page import Row, page
from sds3d.run.folder import Run, RunState
from sds3d.run.outputs import PREVIEW_VIEWS

FEW = 40
"""Largest number of assets with a row of views each on the contact sheet; more assets get one front view each."""
COLUMNS, SHEET_ROWS = 16, 25
"""Front views per row, and rows per sheet."""
FEW_SIZE, MANY_SIZE = 128, 96  # pixels of a view


def rows_of(batch: Batch) -> list[Row]:
    """Return the rows of the manifest, in the order of the file."""
    rows = []
    for job in batch.jobs:
        seen, state, name = progress_of(job.run), _state(job.run), job.run.folder.name
        exports = [f"{name}/exports/{file}" for file in _files(job.run.exports)]
        for entry in job.entries:
            asked = entry.line, entry.config.prompt, entry.config.seed, entry.preset
            rows.append(Row(*asked, seen.status, seen.error, round(state.seconds, 2), seen.step, name, exports))
    return sorted(rows, key=lambda row: row.line)


def write_gallery(batch: Batch, title: str) -> list[Path]:
    """Write the manifest, the page and contact sheets of finished assets. Return their paths. Raises OSError."""
    index, count = batch.shard
    mark = f"-{index}-of-{count}" if count > 1 else ""
    rows = rows_of(batch)
    lines = "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(row.run, row)
    unique = list(first.values())
    return [
        write_atomically(batch.root / f"manifest{mark}.jsonl", lines.encode()),
        write_atomically(batch.root / f"index{mark}.html", page(unique, title, batch.root).encode()),
        *_write_sheets(batch.root, f"contact_sheet{mark}", [row for row in unique if row.status == "done"], title),
    ]


def _write_sheets(root: Path, stem: str, rows: Sequence[Row], title: str) -> list[Path]:
    few = len(rows) <= FEW
    pages = [rows[i : i + COLUMNS * SHEET_ROWS] for i in range(0, len(rows), COLUMNS * SHEET_ROWS)]
    paths = [
        root / (f"{stem}.png" if number == 1 else f"{stem}-page-{number}.png") for number in range(1, len(pages) + 1)
    ]
    for number, (path, part) in enumerate(zip(paths, pages, strict=True), start=1):
        heading = title if len(pages) == 1 else f"{title}, {number} of {len(pages)}"
        sheet = _sheet_of_views(part, root, heading) if few else _sheet_of_fronts(part, root, heading)
        write_atomically(path, png(sheet))
    for old in root.glob(f"{stem}-page-*.png"):  # from a time with more assets
        if old not in paths:
            old.unlink()
    return paths


def _sheet_of_views(rows: Sequence[Row], root: Path, title: str) -> Image.Image:
    """Draw a row of views for each asset."""
    headings = [f"{360 * i / PREVIEW_VIEWS:.0f}°" for i in range(PREVIEW_VIEWS)]
    labelled = [(f"{row.line}: {clipped(row.prompt, 100)}", _views(root / row.run, FEW_SIZE)) for row in rows]
    return contact_sheet(labelled, headings, title, FEW_SIZE)


def _sheet_of_fronts(rows: Sequence[Row], root: Path, title: str) -> Image.Image:
    """Draw the front views of many assets; each row is labelled with its first and last line number."""
    labelled = []
    for begin in range(0, len(rows), COLUMNS):
        part = rows[begin : begin + COLUMNS]
        fronts = np.stack([_views(root / row.run, MANY_SIZE)[0] for row in part])
        labelled.append((f"{part[0].line} - {part[-1].line}", fronts))
    return contact_sheet(labelled, title=title, size=MANY_SIZE)


def _views(folder: Path, size: int) -> NDArray[np.float32]:
    """Read a run's preview as views, (PREVIEW_VIEWS, size, size, 3) in [0, 1]; grey if it cannot be read."""
    nothing = np.full((PREVIEW_VIEWS, size, size, 3), 0.8, dtype=np.float32)
    if (path := Run(folder).preview) is None:
        return nothing
    try:
        with Image.open(path) as picture:
            side = picture.width // PREVIEW_VIEWS
            views = [picture.convert("RGB").crop((i * side, 0, (i + 1) * side, side)) for i in range(PREVIEW_VIEWS)]
            filters = Image.Resampling.NEAREST if side < size else Image.Resampling.LANCZOS
            pictures = np.stack([np.asarray(view.resize((size, size), filters)) for view in views]).astype(np.float32)
            pictures /= 255
            return pictures
    except OSError:
        return nothing


def _state(run: Run) -> RunState:
    try:
        return run.state
    except RunError:
        return RunState(status="failed")


def _files(folder: Path) -> list[str]:
    """Return the paths of finished files in a folder, relative to it."""
    paths = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return sorted(path.relative_to(folder).as_posix() for path in paths)
