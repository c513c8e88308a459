"""How well materials are recovered from pictures: fits of toy objects whose albedo, roughness and metallic are known.

The shape is given. Pictures from all sides in several lights are fitted by the very shading that runs use. One fit gets
all pictures with their lights, one the pictures in a single light with that light, and one all pictures without their
lights, so that it assumes the studio's, as a run with one fixed environment does. Scores are those of unseen views,
relit by unseen lamps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sds3d.cameras import Cameras, orbit
from sds3d.config import build
from sds3d.evaluation.results import markdown_table, write_results
from sds3d.geometry.mesh import Mesh
from sds3d.rendering.shading import Environment, prefilter, studio
from sds3d.representations.mesh_scene import MeshConfig, MeshScene
from sds3d.toybox.material_views import MaterialViews, lamps, render_materials
from sds3d.toybox.materials import build_look, parse

PROMPTS = (
    "a shiny metal teapot with a red rubber lid",
    "a red rubber mug with a blue mirror handle",
    "a green plastic car with a metal roof",
    "a mirror rocket with orange ceramic fins",
    "a yellow metal duck with a black plastic beak",
    "a blue ceramic chair with shiny metal legs",
    "a purple rubber robot with a chrome head",
    "a brown plastic table with white ceramic legs",
)
UNSEEN_LIGHTS = 8

_BEHIND = (0.5, 0.5, 0.5)
_SEEN, _UNSEEN = 0, 10_000  # seeds of the lamps
_VIEWS, _VIEWS_AT_ONCE = 12, 4


@dataclass(frozen=True)
class Score:
    """Scores of a fit, or means over objects.

    albedo: PSNR in dB of the sRGB base colour. roughness, metallic: mean absolute errors. seen: PSNR in dB of unseen
    views in the lights of the fit; relit: in unseen lights.
    """

    albedo: float
    roughness: float
    metallic: float
    seen: float
    relit: float


HEADER = ["fit", "albedo, dB", "roughness error", "metallic error", "known lights, dB", "unseen lights, dB"]


def measure(
    prompts: Sequence[str], lights: int, steps: int, size: int, report: Callable[[int, int], None]
) -> dict[str, Score]:
    """Return the scores of each kind of fit. report: called with fits done and all."""
    kinds = {f"{lights} known lights": lights, "one known light": 1, f"{lights} lights, the studio assumed": 0}
    scores: dict[str, list[Score]] = {kind: [] for kind in kinds}
    for number, prompt in enumerate(prompts):
        look = parse(prompt)
        assert look is not None
        mesh = build_look(look, np.random.default_rng(number))
        for place, (kind, told) in enumerate(kinds.items()):
            scores[kind].append(_fitted(mesh, lights, told, steps, size))
            report(len(kinds) * number + place + 1, len(kinds) * len(prompts))
    return {kind: _mean(each) for kind, each in scores.items()}


def bench(
    root: Path, prompts: Sequence[str], lights: int, steps: int, size: int, report: Callable[[int, int], None]
) -> dict[str, Score]:
    """Measure, and write materials.md and materials.json into a folder."""
    scores = measure(prompts, lights, steps, size, report)
    figures = {kind: asdict(score) for kind, score in scores.items()}
    details = {"prompts": list(prompts), "lights": lights, "steps": steps, "size": size, "scores": figures}
    write_results(root, "materials", details, markdown_table(HEADER, (cells(*row) for row in scores.items())))
    return scores


def cells(kind: str, score: Score) -> list[str]:
    """Return a row of the table."""
    errors = [f"{score.roughness:.3f}", f"{score.metallic:.3f}"]
    return [kind, f"{score.albedo:.1f}", *errors, f"{score.seen:.1f}", f"{score.relit:.1f}"]


def _fitted(mesh: Mesh, lights: int, told: int, steps: int, size: int) -> Score:
    """Fit one object. told: how many of the lights are known and seen; 0: all are seen, and taken for the studio."""
    seen = [lamps(_SEEN + i) for i in range(told or lights)]
    assumed = seen if told else [prefilter(studio())] * lights
    cameras = orbit([30.0 * i for i in range(_VIEWS)], torch.tensor([-20.0, 20.0, 60.0] * (_VIEWS // 3)), size=size)
    targets = [torch.from_numpy(render_materials(mesh, cameras, light, _BEHIND).pictures) for light in seen]
    scene = _start(mesh)
    optimizer = torch.optim.Adam(scene.parameter_groups(), eps=1e-15)
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        light = int(torch.randint(len(seen), (), generator=generator))
        some = torch.randperm(_VIEWS, generator=generator)[:_VIEWS_AT_ONCE]
        scene.appearance.environment = assumed[light]
        rendering = scene.render(cameras[some], torch.tensor(_BEHIND))
        data = 0.5 * (rendering.rgb - targets[light][some]).square().sum() / len(some)
        extra = scene.regularisers(rendering, step / steps).values()
        (data + torch.stack(list(extra)).sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
        scene.after_step(step, optimizer)
    found = scene.to_mesh(64)
    unseen = orbit([15.0, 105.0, 195.0, 285.0], 10.0, size=size)
    new = [lamps(_UNSEEN + i) for i in range(UNSEEN_LIGHTS)]
    return _compared(found, mesh, unseen, seen, new)


def _start(mesh: Mesh) -> MeshScene:
    """Return a grey scene of a mesh's shape."""
    config = build(
        MeshConfig,
        {
            "geometry": {"name": "fixed", "vertices_lr": 0},
            "appearance": {"name": "voxels", "resolution": 64, "material": {"name": "pbr", "lr": 0.1}},
        },
    )
    bare = Mesh(mesh.vertices, mesh.faces, roughness=0.5)
    return MeshScene.from_mesh(bare, config, torch.Generator().manual_seed(0))


def _compared(
    found: Mesh, true: Mesh, cameras: Cameras, seen: Sequence[Environment], new: Sequence[Environment]
) -> Score:
    """Compare two meshes of one shape on the pixels that both cover entirely."""

    def views(light: Environment) -> tuple[MaterialViews, MaterialViews, Tensor]:
        one, other = (render_materials(mesh, cameras, light, _BEHIND) for mesh in (found, true))
        return one, other, torch.from_numpy((one.alpha[..., 0] == 1) & (other.alpha[..., 0] == 1))

    def psnr(one: np.ndarray, other: np.ndarray, solid: Tensor) -> float:
        error = np.square(one[solid.numpy()] - other[solid.numpy()]).mean()
        return -10 * math.log10(max(float(error), 1e-10))

    def error(one: np.ndarray, other: np.ndarray, solid: Tensor) -> float:
        return float(np.abs(one[solid.numpy()] - other[solid.numpy()]).mean())

    one, other, solid = views(seen[0])
    relit = [psnr(a.pictures, b.pictures, both) for a, b, both in map(views, new)]
    lit = [psnr(a.pictures, b.pictures, both) for a, b, both in map(views, seen)]
    return Score(
        albedo=psnr(one.albedo, other.albedo, solid),
        roughness=error(one.roughness, other.roughness, solid),
        metallic=error(one.metallic, other.metallic, solid),
        seen=float(np.mean(lit)),
        relit=float(np.mean(relit)),
    )


def _mean(scores: Sequence[Score]) -> Score:
    return Score(**{field.name: float(np.mean([getattr(s, field.name) for s in scores])) for field in fields(Score)})
