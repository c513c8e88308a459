"""Runs that take a second: tiny settings, and an exactly known prior."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from sds3d.config import build, merge
from sds3d.priors.gaussian import Gaussian, GaussianPrior
from sds3d.run.config import RunConfig
from sds3d.run.drive import drive
from sds3d.run.folder import Run, read_checkpoint

SIZE = 16
TINY = {
    "prompt": "a ball",
    "steps": 12,
    "checkpoint_every": 4,
    "cameras": {"size": SIZE},
    "representation": {"name": "voxel_grid", "resolution": 12, "samples": 16, "warmup": 2},
    "guidance": {"name": "sds", "scale": 3.0},
    "export": {"resolution": 24, "texture_size": 64, "picture_size": 32, "frames": 4},
}


def disc() -> GaussianPrior:
    """Return a prior of one picture: a dark disc on white."""
    axis = torch.linspace(-1, 1, SIZE)
    inside = (axis[:, None] ** 2 + axis**2 < 0.4).float()
    picture = (1 - 0.7 * inside).expand(3, SIZE, SIZE)
    return GaussianPrior({"a ball": Gaussian(picture, 0.1), "": Gaussian(0.5, 0.3)}, (3, SIZE, SIZE))


def tiny(**changes: object) -> RunConfig:
    return build(RunConfig, merge(TINY, changes))


def finish(run: Run, stop: int | None = None) -> list[int]:
    """Drive a run and pause it after step `stop`. Return the finished steps."""
    done = []
    for step in drive(run, threads=1, prior=disc()):
        done.append(step.step)
        if step.step == stop:
            run.request("pause")
    return done


def same(a: Run, b: Run) -> bool:
    """Return whether the last checkpoints of two runs are bit-identical."""
    ours, theirs = read_checkpoint(a.checkpoints[0]), read_checkpoint(b.checkpoints[0])
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


DRIVER = """
import sys
from pathlib import Path
from tests.run.tiny_runs import disc, tiny
from sds3d.run.drive import drive
from sds3d.run.config import new_run

if __name__ == "__main__":
    for step in drive(new_run(Path(sys.argv[1]), tiny()), threads=1, prior=disc()):
        print(step.step, flush=True)
"""


def spawn(root: Path) -> subprocess.Popen[str]:
    """Drive a tiny run below a folder in a process of its own, which prints its steps."""
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(root)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
