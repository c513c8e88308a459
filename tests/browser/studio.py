"""What the browser tests share: a studio on a free port of this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATIENCE = 120  # seconds; nothing takes as long unless the machine is busy with other things

SERVER = """
import sys
from pathlib import Path
from app import launch
launch(Path(sys.argv[1]), "127.0.0.1", int(sys.argv[2]), sys.argv[3:])
"""

# A run of seconds. Everything else, the prior's class and the kernels among it, is what users have.
QUICK = (
    "steps=4",
    "preview_every=0.1",
    "representation.resolution=24",
    "representation.samples=24",
    "export.resolution=32",
    "export.texture_size=128",
    "export.picture_size=64",
    "export.frames=8",
)


@dataclass(frozen=True)
class Studio:
    """A running studio."""

    url: str
    runs: Path
    overrides: list[str]
    """What lies over its presets."""


@contextmanager
def serve(folder: Path, overrides: list[str]) -> Iterator[Studio]:
    """A studio in a process of its own, its files in `folder`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log_path = folder / "server.log"
    with log_path.open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(folder / "runs"), str(port), *overrides],
            cwd=ROOT,
            env={**os.environ, "GRADIO_TEMP_DIR": str(folder / "served")},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: answers(url) or server.poll() is not None)
        assert server.poll() is None, log_path.read_text()
        yield Studio(url, folder / "runs", overrides)
    finally:
        server.terminate()
        server.wait()
    assert "Traceback" not in log_path.read_text()


def answers(url: str) -> bool:
    """Whether a server is there."""
    try:
        with urllib.request.urlopen(url):
            return True
    except (urllib.error.URLError, ConnectionError):
        return False


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until something is so; fails when it takes too long."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.1)
