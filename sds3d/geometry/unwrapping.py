"""Unwrapping by xatlas, of a mesh in pieces and, for a large one, in a process of its own.

xatlas's time grows with the square of a mesh's faces, and while it works nothing else in its process does: no progress
is shown and Ctrl-C has no effect. In pieces the time grows with the faces; charts then end where a piece does.

Run as a program (`python unwrapping.py`), this reads a mesh from standard input and writes the result to standard
output. It imports nothing of this package, so that it starts quickly.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import xatlas
from numpy.typing import NDArray

Unwrapped = tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]
"""The original vertex of each new one (V',), faces (F, 3) and uv (V', 2) in [0, 1]."""

PIECE = 5_000
"""Faces of a piece. A mesh with at most twice as many is one piece."""

_GUTTER = 4  # texels between islands, so that the first two mipmap levels do not mix them


def unwrapped(vertices: NDArray[np.float32], faces: NDArray[np.int32], max_chart_area: float, size: int) -> Unwrapped:
    """Make an atlas of size x size texels without overlaps, in this process."""
    atlas = xatlas.Atlas()
    rows = pieces(vertices, faces)
    origins = []
    for row in rows:
        origin, corners = np.unique(faces[row], return_inverse=True)
        atlas.add_mesh(vertices[origin], corners.reshape(-1, 3).astype(np.uint32))
        origins.append(origin)
    charts = xatlas.ChartOptions()
    charts.max_chart_area = max_chart_area
    packing = xatlas.PackOptions()
    packing.resolution = size
    packing.padding = _GUTTER
    packing.bilinear = True
    atlas.generate(charts, packing)
    start = 0
    new_origin, new_uv, new_faces = [], [], np.empty(faces.shape, np.int32)
    for i, (row, origin) in enumerate(zip(rows, origins, strict=True)):
        local, corners, uv = atlas[i]
        new_origin.append(origin[local])
        new_uv.append(uv)
        new_faces[row] = corners.astype(np.int64) + start
        start += len(local)
    uv = np.clip(np.concatenate(new_uv), 0.0, 1.0).astype(np.float32)
    return np.concatenate(new_origin).astype(np.int64), new_faces, uv


def pieces(vertices: NDArray[np.float32], faces: NDArray[np.int32]) -> list[NDArray[np.int64]]:
    """Return the faces of each piece, in ascending order: halves of halves along the longest side of their box."""
    centres = vertices[faces].mean(axis=1)
    waiting, done = [np.arange(len(faces))], []
    limit = PIECE if len(faces) > 2 * PIECE else 2 * PIECE
    while waiting:
        row = waiting.pop()
        if len(row) <= limit:
            done.append(np.sort(row))
            continue
        axis = np.ptp(centres[row], axis=0).argmax()
        row = row[np.argsort(centres[row, axis], kind="stable")]
        waiting += [row[len(row) // 2 :], row[: len(row) // 2]]
    return done


def unwrapped_apart(
    vertices: NDArray[np.float32],
    faces: NDArray[np.int32],
    max_chart_area: float,
    size: int,
    waiting: Callable[[float], object],
) -> Unwrapped:
    """Return the same as `unwrapped`, from a process of its own.

    waiting: called a few times a second with the seconds that have passed. What it raises, and Ctrl-C, end the process.
    Raises RuntimeError if the process fails.
    """
    # -P: the folder of this file, with modules named as others' are, stays out of the path.
    command = [sys.executable, "-P", str(Path(__file__).resolve())]
    with ExitStack() as stack:
        # A file, since `communicate` loses what a pipe has not taken before a timeout, and the process waits for it.
        data = stack.enter_context(tempfile.TemporaryFile())
        _write(data, vertices, faces, np.array([max_chart_area]), np.array([size]))
        data.seek(0)
        process = stack.enter_context(
            subprocess.Popen(
                command, stdin=data, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
            )
        )
        try:
            began = time.monotonic()
            while True:
                try:
                    out, errors = process.communicate(timeout=0.2)
                    break
                except subprocess.TimeoutExpired:
                    waiting(time.monotonic() - began)
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        why = errors.decode(errors="replace").strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
        raise RuntimeError(f"unwrapping {len(faces)} faces failed: {why[0]}")
    file = io.BytesIO(out)
    origin, corners, uv = (np.load(file, allow_pickle=False) for _ in range(3))
    return origin, corners, uv


def _write(file: BinaryIO, *arrays: NDArray[Any]) -> None:
    for array in arrays:
        np.save(file, array, allow_pickle=False)


def _main() -> None:
    data = io.BytesIO(sys.stdin.buffer.read())
    vertices, faces, max_chart_area, size = (np.load(data, allow_pickle=False) for _ in range(4))
    _write(sys.stdout.buffer, *unwrapped(vertices, faces, float(max_chart_area[0]), int(size[0])))


if __name__ == "__main__":
    _main()
