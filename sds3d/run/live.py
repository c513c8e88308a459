"""Views of a run that is under way: a visitor asks for a camera, and the loop draws the scene between two steps.

    runs/<run>/live/
        <visitor>.json    the camera that a visitor looks through; its time says when the visitor was last there
        <visitor>.jpg     the picture

The folder is no part of the result: it is removed when the run stops, and drawing draws no random numbers.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from sds3d.cameras import orbit
from sds3d.files import NotPlainError, read_plain, replace_file
from sds3d.formats.pictures import to_uint8
from sds3d.representations.base import Scene
from sds3d.run.folder import Run
from sds3d.run.outputs import pictures

FOVY = 30.0  # degrees
NEAR, FAR = 1.0, 4.0
"""Range of distances in metres."""
PRESENT = 5.0
"""Seconds after which a visitor who asks no more is gone."""
DRAWN, KEPT = 4, 32
"""Visitors who get pictures, and visitors whose files are kept."""
SECONDS = 0.06
"""Seconds that a picture may take; its size follows from them."""
SHARE = 0.25
"""Part of the time that drawing may take."""
REST = 1.0
"""Seconds between two pictures of the same view."""
SIZES = (64, 256)
"""Least and largest side of a picture in pixels."""


@dataclass(frozen=True)
class View:
    """A camera that looks at the origin. azimuth, elevation: degrees. distance: metres."""

    azimuth: float
    elevation: float
    distance: float

    @staticmethod
    def of(given: Mapping[str, Any]) -> View:
        """Return the view that a visitor asks for, moved into range. Raises ValueError if it is none."""
        values = [given.get(key) for key in ("azimuth", "elevation", "distance")]
        numbers = [float(value) for value in values if isinstance(value, (int, float)) and math.isfinite(value)]
        if len(numbers) < len(values):
            raise ValueError("a view has an azimuth, an elevation and a distance, which are numbers")
        azimuth, elevation, distance = numbers
        return View(azimuth % 360.0, min(max(elevation, -90.0), 90.0), min(max(distance, NEAR), FAR))


def ask(run: Run, visitor: str, view: View) -> None:
    """Ask for a picture. visitor: any text. Raises OSError, also if the run was deleted."""
    path = _folder(run) / f"{_name(visitor)}.json"
    data = json.dumps(asdict(view)).encode()
    with suppress(OSError):
        if read_plain(path) == data and time.time() - path.stat().st_mtime < REST:
            return
    path.parent.mkdir(exist_ok=True)
    others = 0
    for other in path.parent.glob("*.json"):
        with suppress(OSError):
            if time.time() - other.stat().st_mtime > 2 * PRESENT:
                other.unlink()
                other.with_suffix(".jpg").unlink()
            else:
                others += other != path
    if others < KEPT:
        replace_file(path, data, durable=False)


def answer(run: Run, visitor: str) -> tuple[bytes, str] | None:
    """Return the newest picture of a visitor as a JPEG file, and its time as text; None before the first one."""
    try:
        path = _folder(run) / f"{_name(visitor)}.jpg"
        return read_plain(path), str(path.stat().st_mtime_ns)
    except OSError:
        return None


@dataclass
class Live:
    """Draws what visitors of a run ask for.

    size: side of the next pictures. since: time of the last picture of each visitor, and its view. free: time until
    which nothing is drawn.
    """

    run: Run
    size: int = 96
    since: dict[str, tuple[float, View]] = field(default_factory=dict)
    free: float = -math.inf

    def draw(self, scene: Scene, device: torch.device) -> int:
        """Draw the views that are asked for and due, if there is time. Return their number."""
        began = time.monotonic()
        if began < self.free:
            return 0
        due = {name: view for name, view in self._asked().items() if self._is_due(name, view, began)}
        if not due:
            return 0
        views = list(due.values())
        cameras = orbit(
            [view.azimuth for view in views],
            torch.tensor([view.elevation for view in views]),
            torch.tensor([view.distance for view in views]),
            FOVY,
            self.size,
        )
        for (name, view), picture in zip(due.items(), pictures(scene, cameras, device), strict=True):
            Image.fromarray(to_uint8(picture)).save(data := io.BytesIO(), "JPEG", quality=85)
            with suppress(OSError):  # a full disk stops no run here
                replace_file(_folder(self.run) / f"{name}.jpg", data.getvalue(), durable=False)
            self.since[name] = began, view
        now = time.monotonic()
        self.size = size_for((now - began) / len(due), self.size)
        self.free = now + (now - began) * (1 / SHARE - 1)
        return len(due)

    def close(self) -> None:
        """Remove all requests and pictures."""
        with suppress(OSError):
            shutil.rmtree(_folder(self.run))

    def _is_due(self, name: str, view: View, now: float) -> bool:
        before = self.since.get(name)
        return before is None or before[1] != view or now - before[0] >= REST

    def _asked(self) -> dict[str, View]:
        """Return the views of the visitors who asked last, by name."""
        found: list[tuple[float, str, View]] = []
        try:
            entries = list(os.scandir(_folder(self.run)))
        except OSError:  # there was no request yet
            return {}
        for entry in entries:
            name, ending = os.path.splitext(entry.name)
            with suppress(OSError, ValueError, AttributeError):
                age = time.time() - entry.stat(follow_symlinks=False).st_mtime
                if ending == ".json" and age < PRESENT:
                    found.append((age, name, View.of(json.loads(read_plain(Path(entry.path), 1000)))))
        return {name: view for _, name, view in sorted(found, key=lambda each: each[:2])[:DRAWN]}


def size_for(seconds: float, size: int) -> int:
    """Return the side of pictures that take SECONDS, where one of side `size` took `seconds`; a multiple of 32."""
    side = size * math.sqrt(SECONDS / max(seconds, 1e-6))
    return int(min(max(side // 32 * 32, SIZES[0]), SIZES[1]))


def _folder(run: Run) -> Path:
    folder = run.folder / "live"
    if folder.is_symlink():
        raise NotPlainError(f"{folder} is a symbolic link, which is not followed")
    return folder


def _name(visitor: str) -> str:
    return hashlib.sha256(visitor.encode()).hexdigest()[:16]
