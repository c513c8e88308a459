"""A studio on a free port of this machine, for browser tests."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sds3d.evaluation.studio_load import SMALL
from sds3d.jobs.supervisor import supervised
from sds3d.run.config import RunConfig, make_config, new_run, total_steps
from sds3d.run.folder import Run

ROOT = Path(__file__).parents[2]
PATIENCE = 300  # seconds after which a test counts as hung, on a busy machine too

SERVER = """
import json, sys
from pathlib import Path
from sds3d.app import launch
launch(Path(sys.argv[1]), "127.0.0.1", int(sys.argv[2]), sys.argv[4:], auth=json.loads(sys.argv[3]))
"""

# Settings of runs that take seconds. Everything else is as users have it, including the prior and the kernels.
QUICK = ("steps=4", "preview_every=0.1", *SMALL)


@dataclass
class Studio:
    """A studio that can be stopped and started again, as if the machine restarted."""

    folder: Path
    overrides: tuple[str, ...] = QUICK
    auth: str = "[]"
    port: int = 0
    server: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    def start(self) -> None:
        """Start the server and wait until it responds."""
        if not self.port:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.port = probe.getsockname()[1]
        with self.log.open("ab") as log:
            self.server = subprocess.Popen(
                [sys.executable, "-c", SERVER, str(self.runs), str(self.port), self.auth, *self.overrides],
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        running = self.server
        wait_for(lambda: answers(self.url) or running.poll() is not None)
        assert running.poll() is None, self.log.read_text()

    def stop(self) -> None:
        """Stop the server, but not the workers."""
        assert self.server is not None
        self.server.kill()
        self.server.wait()

    def end_workers(self) -> None:
        """Stop the process that supervises the workers, and wait until it has ended. The workers end with it."""
        try:
            pid = int((self.runs / ".workers.lock").read_text())
        except (OSError, ValueError):
            return
        if supervised(self.runs):
            os.kill(pid, signal.SIGTERM)
            wait_for(lambda: not supervised(self.runs))

    def config(self, prompt: str, *more: str) -> RunConfig:
        """Return the settings that the studio uses for a prompt."""
        return make_config(prompt, overrides=[*self.overrides, *more])

    def put(self, prompt: str, *more: str, **state: object) -> Run:
        """Make a run with no finished step, in any state."""
        run = new_run(self.runs, self.config(prompt, *more))
        run.update(**{"status": "cancelled", "total": total_steps(self.config(prompt, *more)), **state})
        return run


@contextmanager
def serve(folder: Path, overrides: tuple[str, ...] = QUICK, auth: str = "[]") -> Iterator[Studio]:
    """Run a studio in its own process, with its files in `folder`. Its workers end with it."""
    studio = Studio(folder, overrides, auth)
    try:
        studio.start()
        yield studio
    finally:
        if studio.server is not None:
            studio.stop()
        studio.end_workers()
    assert "Traceback" not in studio.log.read_text(), studio.log.read_text()


def answers(url: str) -> bool:
    """Return whether a server responds."""
    try:
        with urllib.request.urlopen(url):
            return True
    except urllib.error.HTTPError:
        return True
    except (urllib.error.URLError, ConnectionError):
        return False


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until a condition holds. Fails after `PATIENCE` seconds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.1)
