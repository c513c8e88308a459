"""A load of visitors on a real studio, and whether its memory, threads, files and processes come back.

The studio runs in a process of its own, with runs of few steps. Visitors first warm it up and fill what it remembers
on purpose, so that neither counts as a leak. It is measured at rest before and after the load.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from sds3d.evaluation.results import markdown_table, write_results
from sds3d.evaluation.studio_visitor import Diary, visit
from sds3d.files import RunError
from sds3d.jobs.queue import runs_in, stop

SMALL = (
    "representation=voxel_grid",
    "representation.resolution=24",
    "representation.samples=24",
    "export.resolution=32",
    "export.texture_size=128",
    "export.picture_size=64",
    "export.frames=8",
)
"""Settings of a scene, of exports and of pictures that take little time."""
QUICK = ("steps=20", "preview_every=0.5", *SMALL)
"""Settings of runs that take seconds."""

WARM_UP = 200
"""Visitors before the measurement, twice as many as the studio keeps forms and results of. The first half fills what
it keeps; the second half replaces that, which leaves gaps in the heap that later visitors use."""
EVERY = 2.0
"""Seconds between two samples."""
SETTLE = 30.0
"""Seconds of rest before a measurement: idle threads end after 10, lost connections are noticed after 15."""
START = 180.0
"""Seconds that the studio may take to start, and its last run to end."""
MB = 1e6
GROWTH = {"memory, MB": 32.0, "threads": 2.0, "files": 2.0, "processes": 0.0, "workers' memory, MB": 64.0}
"""How much more the studio may have after the load than before it."""


@dataclass(frozen=True)
class Sample:
    """What the studio has. at: seconds since the start of the load. figures: by the names of GROWTH."""

    at: float
    figures: dict[str, float]


@dataclass(frozen=True)
class Load:
    """The result of a load. before, after: at rest. during: samples under load. traceback: the first in its log."""

    visitors: int
    seconds: float
    before: Sample
    during: list[Sample]
    after: Sample
    diary: Diary
    traceback: str

    def peak(self, name: str) -> float:
        """Return the largest value of a figure."""
        return max(sample.figures[name] for sample in (self.before, *self.during, self.after))

    @property
    def problems(self) -> list[str]:
        """What is wrong, a line each."""
        grown = [
            f"{name}: {self.before.figures[name]:.0f} before, {self.after.figures[name]:.0f} after"
            for name, limit in GROWTH.items()
            if self.after.figures[name] - self.before.figures[name] > limit
        ]
        logged = [f"the studio's log has a traceback:\n{self.traceback}"] if self.traceback else []
        return [*grown, *logged, *self.diary.errors]


def sample_of(process: psutil.Process, began: float) -> Sample:
    """Measure the studio and its workers now. began: the start of the load, see `time.monotonic`. Raises RunError."""
    try:
        own = process.memory_info().rss / MB, process.num_threads(), process.num_fds()
        children, workers = process.children(recursive=True), 0
    except psutil.NoSuchProcess:
        raise RunError("the studio ended under load") from None
    for child in children:
        with suppress(psutil.NoSuchProcess):
            workers += child.memory_info().rss
    values = (*own, 1 + len(children), workers / MB)
    return Sample(time.monotonic() - began, dict(zip(GROWTH, map(float, values), strict=True)))


def bench(
    root: Path, visitors: int, minutes: float, report: Callable[[str, int, int], None] = lambda name, step, total: None
) -> Load:
    """Measure a studio under load. Write studio.json and studio.md into `root`. Raises RunError if it does not start.

    visitors: who are there at the same time; each is followed by another one until the minutes are over.
    """
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        load = asyncio.run(_measure(Path(folder), visitors, 60 * minutes, report))
    details = {**asdict(load), "problems": load.problems, "load_of_machine": os.getloadavg()[0]}
    write_results(root, "studio", details, markdown(load))
    return load


async def _measure(folder: Path, visitors: int, seconds: float, report: Callable[[str, int, int], None]) -> Load:
    mesh, diary, during = _tetrahedron(), Diary(), list[Sample]()
    async with _studio(folder) as (url, process):
        warm = Diary()
        for first in range(0, WARM_UP, visitors):
            count = min(visitors, WARM_UP - first)
            await asyncio.gather(*(visit(url, first + place, mesh, warm) for place in range(count)))
            report("warming up", first + count, WARM_UP)
        await _settle(url, folder)
        began = time.monotonic()
        before = sample_of(process, began)

        async def one_after_another(place: int) -> None:
            number = WARM_UP + place
            while time.monotonic() - began < seconds:
                await visit(url, number, mesh, diary)
                number += visitors

        load = asyncio.gather(*map(one_after_another, range(visitors)))
        while not load.done():
            during.append(sample_of(process, began))
            report("load", min(int(during[-1].at), int(seconds)), int(seconds))
            await asyncio.wait([load], timeout=EVERY)
        await load
        lasted = time.monotonic() - began
        await _settle(url, folder)
        after = sample_of(process, began)
    diary.errors[:0] = [f"warm-up: {error}" for error in warm.errors]
    log = (folder / "studio.log").read_text(errors="replace")
    return Load(visitors, lasted, before, during, after, diary, first_traceback(log))


def first_traceback(log: str) -> str:
    """Return the first traceback of a log, up to its error; "" if there is none."""
    found = re.search(r"^.*Traceback .*\n(?:[ \t].*\n)*.*", log, re.MULTILINE)
    return found[0].rstrip() if found else ""


@asynccontextmanager
async def _studio(folder: Path) -> AsyncIterator[tuple[str, psutil.Process]]:
    """Run a studio on a free port, with its files in a folder; its workers end with it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with (folder / "studio.log").open("wb") as log:
        command = [sys.executable, "-m", "sds3d", "app", "--out", str(folder / "runs"), "--port", str(port), *QUICK]
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    process = psutil.Process(server.pid)
    try:
        await _until(lambda: _answers(url) or server.poll() is not None)
        if server.poll() is not None:
            raise RunError(f"the studio did not start: {(folder / 'studio.log').read_text()[-500:]}")
        yield url, process
    finally:
        with suppress(psutil.NoSuchProcess):
            for child in process.children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    child.terminate()
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


async def _settle(url: str, folder: Path) -> None:
    """Cancel what runs, rest, and open the page once more: with that, the server ends the threads that are idle."""
    runs = runs_in(folder / "runs")
    for run in runs:
        with suppress(RunError):
            stop(run, "cancel")
    await _until(lambda: not any(run.busy() for run in runs))
    await asyncio.sleep(SETTLE)
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=START) as client:
        await client.get("/")
    await asyncio.sleep(1)


async def _until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + START
    while not condition():
        if time.monotonic() > end:
            raise RunError(f"the studio needs more than {START:.0f} s to start, or to end its runs")
        await asyncio.sleep(0.5)


def _answers(url: str) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(url, trust_env=False).is_success
    return False


def _tetrahedron() -> bytes:
    """Return a tetrahedron of 10 cm as a binary .stl file."""
    corners = ((0, 0, 0), (100, 0, 0), (0, 100, 0), (0, 0, 100))
    faces = ((0, 2, 1), (0, 1, 3), (0, 3, 2), (1, 2, 3))
    triangles = (struct.pack("<12fH", 0, 0, 0, *(x for i in face for x in corners[i]), 0) for face in faces)
    return bytes(80) + struct.pack("<I", len(faces)) + b"".join(triangles)


HEADER = ("of the studio", "before", "peak", "after", "may grow by")
ANSWERS = ("answer", "number", "median, s", "95 %, s", "longest, s")


def rows(load: Load) -> list[list[str]]:
    """Return the rows of the table of what the studio has."""
    return [
        [name, *(f"{value:.0f}" for value in (load.before.figures[name], load.peak(name), load.after.figures[name])),
         f"{limit:.0f}"]
        for name, limit in GROWTH.items()
    ]  # fmt: skip


def answer_rows(load: Load) -> list[list[str]]:
    """Return the rows of the table of answer times."""
    table: list[list[str]] = []
    for what, times in load.diary.seconds.items():
        seconds = (statistics.median(times), percentile(times), max(times))
        table.append([what, str(len(times)), *(f"{value:.2f}" for value in seconds)])
    return table


def percentile(times: list[float], share: float = 0.95) -> float:
    """Return the smallest of the times that at least this share of them does not exceed."""
    return sorted(times)[math.ceil(share * len(times)) - 1]


def summary(load: Load) -> str:
    """Return what was done, in a line."""
    return (
        f"{load.visitors} visitors at a time for {load.seconds / 60:.1f} minutes: {load.diary.visits} visits, "
        f"{sum(map(len, load.diary.seconds.values()))} answers, {len(load.diary.errors)} errors"
    )


def markdown(load: Load) -> str:
    """Return the results as Markdown."""
    problems = "".join(f"- {problem}\n" for problem in load.problems)
    tables = f"{markdown_table(HEADER, rows(load))}\n{markdown_table(ANSWERS, answer_rows(load))}"
    return f"{summary(load)}.\n\n{tables}" + (f"\n{problems}" if problems else "")
