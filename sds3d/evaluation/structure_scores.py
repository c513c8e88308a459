"""Painting shapes that their names do not tell, with and without structure: are the parts painted right?

Toy objects are built in other shapes (a mug with two handles, a rocket that lies), stripped of their colours and
painted by the preset `texture`. The truth is known: which part of the shape has which colour.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from sds3d.cameras import Cameras, turntable
from sds3d.devices import pick_device, set_threads
from sds3d.evaluation.results import markdown_table, write_results
from sds3d.files import PriorError
from sds3d.formats.pictures import contact_sheet
from sds3d.geometry.mesh import Mesh
from sds3d.priors.base import Prior
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.rendering.mesh_zbuffer import rasterize
from sds3d.rendering.shading import Light, shade_mesh
from sds3d.representations.contents import source_of
from sds3d.run.config import RunConfig, make_config
from sds3d.run.drive import optimize_work, start_work
from sds3d.toybox.captions import prompt
from sds3d.toybox.objects import BUILDERS
from sds3d.toybox.paint import Paint
from sds3d.toybox.shapes import Shape, merge
from sds3d.toybox.varied import fitted
from sds3d.toybox.world import COLORS, Spec

SIZE, AZIMUTHS, ELEVATION = 256, 8, 15.0
BLOCK = 4
"""Edges between colours are looked for among averages of BLOCK x BLOCK pixels: pixels of the embedded prior."""
SHADES = (1.0, 0.85, 0.7)
"""Factors by which a colour may be darker and keep its name, because priors paint shading."""

Change = Callable[[list[Shape]], list[Shape]]
Picture = NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """An object in a shape that its prompt does not tell. change: makes its parts of those of the usual one."""

    name: str
    spec: Spec
    change: Change

    def mesh(self) -> Mesh:
        """Return the object in its true colours."""
        paint = Paint(COLORS[self.spec.color], COLORS[self.spec.accent or ""], np.random.default_rng(0))
        return fitted(merge(self.change(BUILDERS[self.spec.category](paint))), 0.48)


def all_parts(change: Callable[[Shape], Shape]) -> Change:
    """Return a change of every part."""
    return lambda parts: [change(part) for part in parts]


def two_heads(parts: list[Shape]) -> list[Shape]:
    """Give a duck a second head in place of its tail."""
    head = [parts[i] for i in (2, 3, 4, 5, 7, 8, 10, 11)]
    return [part for i, part in enumerate(parts) if i != 1] + [part.rotate("y", 180) for part in head]


def long_legs(parts: list[Shape]) -> list[Shape]:
    """Give a chair legs of twice their length."""
    top = max(leg.vertices[:, 1].max() for leg in parts[1:5])
    return [part.scale(1, 2, 1) if 1 <= i < 5 else part.move(0, top) for i, part in enumerate(parts)]


CASES = (
    Case("mug with two handles", Spec("mug", "blue", "yellow"), lambda parts: [*parts, parts[2].rotate("y", 180)]),
    Case("duck twice as tall", Spec("duck", "blue", "orange"), all_parts(lambda part: part.scale(1, 2, 1))),
    Case("duck with two heads", Spec("duck", "green", "orange"), two_heads),
    Case("snowman upside down", Spec("snowman", "pink", "green"), all_parts(lambda part: part.rotate("x", 180))),
    Case("rocket that lies", Spec("rocket", "yellow", "blue"), all_parts(lambda part: part.rotate("z", 90))),
    Case("chair with long legs", Spec("chair", "green", "orange"), long_legs),
    Case("mushroom upside down", Spec("mushroom", "purple", "yellow"), all_parts(lambda part: part.rotate("x", 180))),
    Case("car from its side", Spec("car", "pink", "blue"), all_parts(lambda part: part.rotate("y", 90))),
)


@dataclass(frozen=True)
class PaintScore:
    """How well a shape is painted, over all views.

    main, accent: shares of the pixels of these parts that have the part's colour. edges: mean distance of edges between
    colours from the nearest edge of the shape, in pixels of 64 x 64.
    """

    main: float
    accent: float
    edges: float

    @property
    def parts(self) -> float:
        """The mean of both shares."""
        return (self.main + self.accent) / 2


@dataclass(frozen=True)
class Truth:
    """Views of a shape: colours (B, H, W, 3), whether pixels are covered, and the edges of the shape (B, H, W)."""

    colors: Picture
    covered: NDArray[np.bool_]
    edges: NDArray[np.bool_]


def cameras_of_scores() -> Cameras:
    """Return the cameras of the measured pictures."""
    return turntable(AZIMUTHS, ELEVATION, size=SIZE)


def truth_of(mesh: Mesh, cameras: Cameras) -> Truth:
    """Return the true views of a mesh with vertex colours, without light."""
    flat = Light(np.array([0, 0, 1], np.float32), 1.0, 0.0)
    colors, alpha = shade_mesh(mesh, cameras, light=flat, supersampling=1)
    assert mesh.normals is not None
    hits = rasterize(mesh.vertices, mesh.faces, mesh.normals, cameras)
    return Truth(colors, alpha[..., 0] > 0.5, shape_edges(hits.depth, hits.attributes))


def shape_edges(depth: Picture, normal: Picture, jump: float = 0.02, bend: float = 0.8) -> NDArray[np.bool_]:
    """Return where depth (B, H, W) jumps by more than `jump` metres to a neighbour, or the cosine between normals (B,
    H, W, 3) is below `bend`.
    """
    lengths = np.linalg.norm(normal, axis=-1, keepdims=True)
    unit = normal / np.maximum(lengths, 1e-6)
    found = np.zeros(depth.shape, np.bool_)
    for axis in (1, 2):
        here, there = _neighbours(axis)
        edge = np.abs(depth[here] - depth[there]) > jump
        edge |= ((unit[here] * unit[there]).sum(axis=-1) < bend) & (depth[here] > 0) & (depth[there] > 0)
        found[here] |= edge
        found[there] |= edge
    return found


def color_edges(colors: Picture, covered: NDArray[np.bool_], contrast: float = 0.15) -> NDArray[np.bool_]:
    """Return where colours (B, H, W, 3) differ by more than `contrast` from a neighbour's, both being covered."""
    found = np.zeros(covered.shape, np.bool_)
    for axis in (1, 2):
        here, there = _neighbours(axis)
        edge = np.linalg.norm(colors[here] - colors[there], axis=-1) > contrast
        edge &= covered[here] & covered[there]
        found[here] |= edge
        found[there] |= edge
    return found


def blocks(pictures: np.ndarray) -> np.ndarray:
    """Return pictures (B, H, W, ...) in blocks of pixels, (B, H / BLOCK, BLOCK, W / BLOCK, BLOCK, ...)."""
    count, height, width, *channels = pictures.shape
    return pictures.reshape(count, height // BLOCK, BLOCK, width // BLOCK, BLOCK, *channels)


def _neighbours(axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    before, behind = [slice(None)] * 3, [slice(None)] * 3
    before[axis], behind[axis] = slice(None, -1), slice(1, None)
    return tuple(before), tuple(behind)


def named_colors(colors: Picture) -> NDArray[np.int64]:
    """Return the place in COLORS of the colour that each of colours (..., 3) looks like, in light or shade."""
    palette = np.array([np.multiply(color, shade) for color in COLORS.values() for shade in SHADES])
    return ((colors[..., None, :] - palette) ** 2).sum(axis=-1).argmin(axis=-1) // len(SHADES)


def score(truth: Truth, painted: Picture, spec: Spec) -> PaintScore:
    """Compare painted views (B, H, W, 3) with the true ones."""
    names = named_colors(painted)

    def share(name: str) -> float:
        exact = np.array(COLORS[name], np.float32)
        there = truth.covered & (np.abs(truth.colors - exact).max(axis=-1) < 2e-3)
        return float((names[there] == list(COLORS).index(name)).mean())

    edges, covered = (blocks(whole) for whole in (truth.edges, truth.covered))
    distance = np.stack([np.asarray(ndimage.distance_transform_edt(~one)) for one in np.any(edges, axis=(2, 4))])
    found = color_edges(blocks(painted).mean(axis=(2, 4)), np.all(covered, axis=(2, 4)))
    return PaintScore(
        share(spec.color),
        share(spec.accent or ""),
        float(distance[found].mean()) if found.any() else float("nan"),
    )


def paint(case: Case, config: RunConfig, prior: Prior, report: Callable[[int, int], None]) -> Picture:
    """Paint the shape of a case, and return its views (B, H, W, 3) on white."""
    bare = replace(case.mesh(), colors=None)
    work = start_work(config, [prior], before=source_of(bare))
    for step in optimize_work(work):
        report(step.step, step.total)
    with torch.no_grad():
        views = cameras_of_scores().to(prior.device)
        pictures = [
            work.scene.render(views[i : i + 1], torch.ones(3, device=prior.device)).rgb for i in range(len(views))
        ]
    return torch.cat(pictures).cpu().numpy()


def contenders(model: str, against: str) -> dict[str, DiffusersConfig]:
    """Return the priors that paint. Raises PriorError if `model` takes no structure."""
    found = {
        "with structure": DiffusersConfig(model=model),
        "without structure": DiffusersConfig(model=model, structure=False),
    }
    return found | ({against: DiffusersConfig(model=against)} if against else {})


def bench(
    root: Path,
    model: str,
    against: str = "",
    cases: Sequence[Case] = CASES,
    overrides: Sequence[str] = (),
    device: str = "",
    threads: int = 0,
    report: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> dict[str, dict[str, PaintScore]]:
    """Paint every case with each prior from the same seed, and write structure.json, .md and .png into `root`.

    Returns the scores by contender and case. Raises PriorError if `model` takes no structure.
    """
    set_threads(threads)
    settings = contenders(model, against)
    priors = {name: config.load(pick_device(device)) for name, config in settings.items()}
    if not priors["with structure"].takes_structure:
        raise PriorError(f"{model!r} takes no structure: make one that does, sds3d toybox train --structure")
    results: dict[str, dict[str, PaintScore]] = {name: {} for name in priors}
    truths = {case.name: truth_of(case.mesh(), cameras_of_scores()) for case in cases}
    rows = []
    for case in cases:
        truth = truths[case.name]
        shown = [truth.colors[[1, 5]]]
        for name, prior in priors.items():
            given = {"start_from": case.name, "prior": settings[name].model_dump()}
            config = make_config(prompt(case.spec), "texture", overrides, given)
            painted = paint(
                case,
                config,
                prior,
                lambda done, total, name=name, case=case: report(f"{case.name}, {name}", done, total),
            )
            results[name][case.name] = score(truth, painted, case.spec)
            shown.append(painted[[1, 5]])
        rows.append((f"{case.name}: {prompt(case.spec)}", np.concatenate(shown)))
    results["truth"] = {case.name: score(truths[case.name], truths[case.name].colors, case.spec) for case in cases}
    root.mkdir(parents=True, exist_ok=True)
    columns = [word for name in ("truth", *priors) for word in (name, "")]
    contact_sheet(rows, columns, size=128).save(root / "structure.png")
    scores = {name: {case: asdict(one) for case, one in of.items()} for name, of in results.items()}
    write_results(root, "structure", {"model": model, "scores": scores}, markdown_table(HEADER, table(results)))
    return results


HEADER = ("", "main part", "accent part", "both", "colour edges from edges of the shape, px")


def mean(scores: Mapping[str, PaintScore]) -> PaintScore:
    """Return the mean over all cases."""
    return PaintScore(
        *(float(np.nanmean([getattr(one, name) for one in scores.values()])) for name in ("main", "accent", "edges"))
    )


def table(results: Mapping[str, Mapping[str, PaintScore]]) -> list[tuple[str, ...]]:
    """Return the rows of the table: the means of each contender, then each case."""
    rows = [cells(name, mean(scores)) for name, scores in results.items()]
    for case in next(iter(results.values())):
        rows += [cells(f"{case}, {name}", scores[case]) for name, scores in results.items()]
    return rows


def cells(name: str, one: PaintScore) -> tuple[str, ...]:
    """Return a row of the table."""
    return name, f"{one.main:.0%}", f"{one.accent:.0%}", f"{one.parts:.0%}", f"{one.edges:.2f}"
