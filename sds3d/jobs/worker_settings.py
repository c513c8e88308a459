"""The settings of the workers that process a queue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class WorkerSettings:
    """The workers of a queue.

    devices: one worker each, "cpu", "cuda:1" and so on. threads: CPU threads per worker; 0: an equal share of the
    cores. retries: how often a run is retried after its worker died. together: number of runs with equal settings that
    are optimised together. idle: seconds that workers wait for more runs. log: file for the output of workers and their
    libraries; None: this process's streams.
    """

    devices: Sequence[str] = ("",)
    threads: int = 0
    retries: int = 2
    together: int = 1
    idle: float = 0.0
    log: Path | None = None
