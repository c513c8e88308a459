"""How well fields are converted into each other, with draws by error (PVD-AL) and without: PSNR after equal steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from sds3d.cameras import CameraConfig, sample_cameras
from sds3d.config import build
from sds3d.devices import set_threads
from sds3d.evaluation.results import markdown_table, write_results
from sds3d.representations.base import Scene, Start
from sds3d.representations.convert import grid_from_mesh
from sds3d.representations.field_conversion import distil
from sds3d.representations.make import make_scene
from sds3d.representations.voxel_grid import VoxelGridConfig, VoxelGridScene
from sds3d.run.config import RunConfig
from sds3d.toybox.captions import sample_spec
from sds3d.toybox.objects import build as build_object

KINDS = ("mug", "cat", "house")
"""Objects of the toy world that the teachers show: dense grids of the true shapes."""
STUDENTS = ("hash_nerf", "triplane_nerf", "tensor_nerf", "mlp_nerf")
HEADER = ("student", "PSNR, drawn uniformly", "PSNR, drawn by error", "s, uniformly", "s, by error")
_UNSEEN = CameraConfig(views=8, orthogonal=False, stratified=True, elevation=(-60.0, 75.0))
_RESOLUTION = 64


@dataclass(frozen=True)
class Score:
    """PSNR in dB in unseen views, and seconds, uniformly and by error; means over the objects."""

    student: str
    psnr: tuple[float, float]
    seconds: tuple[float, float]


def teacher(kind: str, seed: int) -> VoxelGridScene:
    """Return a dense grid of a random object of the toy world."""
    rng = np.random.default_rng(seed)
    grid = grid_from_mesh(build_object(sample_spec(rng, [kind]), rng), _RESOLUTION)
    return VoxelGridScene.from_grid(grid, VoxelGridConfig(), torch.Generator().manual_seed(seed))


@torch.no_grad()
def psnr(a: Scene, b: Scene, size: int) -> float:
    """Return the PSNR in dB between renders of two scenes in eight views over grey."""
    cameras, grey = sample_cameras(_UNSEEN, torch.Generator().manual_seed(99), size), torch.full((3,), 0.5)
    error = float((a.render(cameras, grey).rgb - b.render(cameras, grey).rgb).square().mean())
    return -10 * math.log10(error) if error else math.inf


def measure(name: str, kinds: Sequence[str], steps: int, size: int, tell: Callable[[], None]) -> Score:
    """Convert grids of toy objects into a student of this representation. size: of the pictures, in pixels."""
    cameras = _UNSEEN.model_copy(update={"views": 2, "size": size})
    found: list[list[tuple[float, float]]] = [[], []]
    for seed, kind in enumerate(kinds):
        grid = teacher(kind, seed)
        for active in (False, True):
            config = build(RunConfig, {"prompt": kind, "representation": {"name": name, "samples": size}})
            student = make_scene(config.representation, Start(torch.Generator().manual_seed(seed), steps))
            begin = time.perf_counter()
            for _ in distil(grid, student, steps, torch.Generator().manual_seed(seed), cameras=cameras, active=active):
                pass
            found[active].append((psnr(grid, student, size), time.perf_counter() - begin))
            tell()
    (psnr0, seconds0), (psnr1, seconds1) = (np.mean(each, axis=0).tolist() for each in found)
    return Score(name, (psnr0, psnr1), (seconds0, seconds1))


def bench(
    root: Path,
    students: Sequence[str],
    kinds: Sequence[str],
    steps: int,
    size: int,
    threads: int,
    report: Callable[[str, int, int], None],
) -> list[Score]:
    """Measure all students, and write conversion.json and conversion.md into `root`."""
    set_threads(threads)
    scores, done, total = [], 0, 2 * len(students) * len(kinds)

    for name in students:

        def tell(name: str = name) -> None:
            nonlocal done
            done += 1
            report(name, done, total)

        scores.append(measure(name, kinds, steps, size, tell))
    details = {"steps": steps, "size": size, "objects": list(kinds), "scores": [asdict(score) for score in scores]}
    write_results(root, "conversion", details, markdown_table(HEADER, map(cells, scores)))
    return scores


def cells(score: Score) -> list[str]:
    """Return the cells of a row of the table."""
    return [score.student, *(f"{x:.1f}" for x in (*score.psnr, *score.seconds))]
