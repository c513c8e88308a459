"""How well surfaces are polished: true objects that were made uneven, before and after, against those very objects.

The stage of the preset `polish` is compared with the same stage without its estimator, and with Laplacian smoothing
that moves the vertices as far.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import KDTree
from torch.nn import functional

from sds3d.cameras import orbit
from sds3d.devices import pick_device
from sds3d.evaluation.asset_scores import bench_prompts
from sds3d.evaluation.likeness import chamfer
from sds3d.evaluation.results import markdown_table, write_results
from sds3d.files import write_atomically
from sds3d.formats.export import asset_files
from sds3d.formats.load import load_asset
from sds3d.formats.pictures import contact_sheet, png
from sds3d.geometry.mesh import FloatArray, Mesh
from sds3d.geometry.sampling import mesh_colors, sample_surface
from sds3d.geometry.triangles import vertex_normals
from sds3d.prompts.prompt import slug
from sds3d.rendering.mesh_differentiable import mesh_edges
from sds3d.rendering.shading import shade_mesh
from sds3d.rendering.volume import BOUND
from sds3d.representations.fields import trilinear
from sds3d.representations.isosurface import dmtet
from sds3d.representations.signed_distance import mesh_to_sdf
from sds3d.run.config import make_config, new_run
from sds3d.run.drive import Priors, drive, prior_settings
from sds3d.toybox.captions import prompt
from sds3d.toybox.objects import build
from sds3d.toybox.world import CATEGORIES

GRID = 48
"""Samples per side of the grid on which objects are made uneven."""
LUMPS = 0.003
"""Standard deviation in metres of the unevenness."""
SEED = 71
"""Seed of the objects and of their unevenness."""
SHARP = 40.0
"""Degrees between two faces from which on their edge is sharp."""
NEAR = 0.025
"""Metres around a point of a true sharp edge within which the surface must turn by SHARP for the edge to be kept."""
POINTS = 20_000
_VIEWS = orbit([30.0, 120.0, 210.0, 300.0], 20.0, size=160)


@dataclass(frozen=True)
class Surface:
    """What is measured of a mesh against a true object.

    degrees: mean angle between its normals and those of the nearest true points. chamfer: centimetres. kept: share of
    the true sharp edges at which it has an edge, too. moved: see `displacement`, in millimetres.
    """

    degrees: float
    chamfer: float
    kept: float
    moved: float


def measure(mesh: Mesh, true: Mesh, before: Mesh) -> Surface:
    """Measure a mesh against a true object. before: the mesh that it was made from."""
    ours, theirs = sample_surface(mesh, POINTS), sample_surface(true, POINTS)
    _, nearest = KDTree(theirs.points).query(ours.points)
    cosines = np.abs((ours.normals * theirs.normals[nearest]).sum(axis=1)).clip(0, 1)
    degrees, moved = float(np.rad2deg(np.arccos(cosines)).mean()), 1000 * displacement(mesh, before)
    return Surface(degrees, 100 * chamfer(mesh, true), edges_kept(mesh, true), moved)


def displacement(mesh: Mesh, before: Mesh) -> float:
    """Return the mean distance in metres of a mesh's surface from the planes of the nearest points of another one."""
    ours, theirs = sample_surface(mesh, POINTS // 4), sample_surface(before, POINTS)
    _, nearest = KDTree(theirs.points).query(ours.points)
    return float(np.abs(((ours.points - theirs.points[nearest]) * theirs.normals[nearest]).sum(axis=1)).mean())


def edges_kept(mesh: Mesh, true: Mesh) -> float:
    """Return the share of the points on true sharp edges around which the surface of a mesh turns as much."""
    points = sharp_points(true)
    at = sample_surface(mesh, POINTS)
    found = KDTree(at.points).query_ball_point(points, NEAR)
    limit = np.cos(np.deg2rad(SHARP))
    return float(np.mean([len(near) > 1 and (at.normals[near] @ at.normals[near].T).min() < limit for near in found]))


def sharp_points(mesh: Mesh, spacing: float = 0.01) -> NDArray[np.float64]:
    """Return points (P, 3) on the visible sharp convex edges of a mesh."""
    import trimesh

    welded = trimesh.Trimesh(mesh.vertices.astype(np.float64), mesh.faces, process=True)
    sharp = (welded.face_adjacency_angles > np.deg2rad(SHARP)) & welded.face_adjacency_convex
    ends = np.asarray(welded.vertices)[welded.face_adjacency_edges[sharp]]  # (E, 2, 3)
    parts = np.ceil(np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1) / spacing).astype(int).clip(min=1)
    edge = np.repeat(np.arange(len(parts)), parts)
    share = ((np.arange(len(edge)) - np.repeat(np.cumsum(parts) - parts, parts) + 0.5) / parts[edge])[:, None]
    points = ends[edge, 0] * (1 - share) + ends[edge, 1] * share
    # Parts of an object overlap: edges inside of others are not on its surface.
    outside = trilinear(torch.from_numpy(mesh_to_sdf(mesh, 96))[..., None], torch.from_numpy(points).float())[:, 0]
    return points[outside.numpy() > -0.004]


def uneven(true: Mesh, seed: int) -> Mesh:
    """Return an object as a distilled one is: its surface on a grid, with lumps, and its colours at the vertices."""
    generator = torch.Generator().manual_seed(seed)
    sdf = torch.from_numpy(mesh_to_sdf(true, GRID))
    lumps = torch.randn(1, 1, GRID // 3, GRID // 3, GRID // 3, generator=generator)
    lumps = functional.interpolate(lumps, (GRID,) * 3, mode="trilinear", align_corners=True)[0, 0]
    surface = dmtet(sdf + LUMPS * lumps / lumps.std(), bound=BOUND)
    vertices, faces = surface.vertices.numpy().astype(np.float32), surface.faces.numpy().astype(np.int32)
    at = sample_surface(true, POINTS)
    _, nearest = KDTree(at.points).query(vertices)
    colors = mesh_colors(true, at.face[nearest], at.weights[nearest]).astype(np.float32)
    return Mesh(vertices, faces, colors, vertex_normals(vertices, faces))


def smoothed(mesh: Mesh, moved: float) -> Mesh:
    """Return the mesh after Laplacian smoothing by a `displacement` of `moved` metres."""
    made, vertices = mesh, torch.from_numpy(mesh.vertices.astype(np.float64))
    i, j = mesh_edges(torch.from_numpy(mesh.faces).long(), len(vertices)).vertices.long().unbind(1)
    count = torch.zeros(len(vertices), 1).index_add(0, torch.cat([i, j]), torch.ones(2 * len(i), 1)).double()
    for _ in range(200):
        sums = torch.zeros_like(vertices).index_add(0, i, vertices[j]).index_add(0, j, vertices[i])
        vertices = vertices + 0.5 * (sums / count.clamp(min=1) - vertices)
        places = vertices.numpy().astype(np.float32)
        made = replace(mesh, vertices=places, normals=vertex_normals(places, mesh.faces))
        if displacement(made, mesh) >= moved:
            break
    return made


def bench(
    root: Path,
    objects: int,
    overrides: Sequence[str],
    device: str,
    threads: int,
    tell: Callable[[str], None],
    report: Callable[[str, int, int], None],
) -> dict[str, list[Surface]]:
    """Polish the first held-out objects, and return what is measured of each by the names of the rows.

    Runs are kept in `root`, so that a stopped benchmark continues. tell: called with a line after each mesh. report:
    called with the name of a run and its step. Writes polish.json, polish.md and polish.png.
    """
    priors = Priors(pick_device(device))
    results: dict[str, list[Surface]] = {}
    sheet: list[tuple[str, FloatArray]] = []
    for number, spec in enumerate(bench_prompts(objects, _kinds(overrides))):
        true = build(spec, np.random.default_rng([SEED, number]))
        before = uneven(true, SEED + number)
        file = root / "given" / f"{slug(prompt(spec))}.ply"
        write_atomically(file, next(iter(asset_files(["ply"], file.stem, before).values())))
        meshes = {"uneven": before}
        for name, more in {"polished": [], "without the estimator": ["estimators=[]"]}.items():
            settings = [f"start_from={file}", *overrides, *more]
            run = new_run(root / "runs", make_config(prompt(spec), "polish", settings))
            prior = priors.load(prior_settings(make_config(prompt(spec), "polish", settings), lean=False))[0]
            for step in drive(run, device=device, threads=threads, prior=prior):
                report(f"{prompt(spec)}: {name}", step.step, step.total)
            made = load_asset(run.exports / f"{slug(prompt(spec))}.ply")
            assert isinstance(made, Mesh)
            meshes[name] = made
        meshes["Laplacian smoothing"] = smoothed(before, displacement(meshes["polished"], before))
        sheet.append((prompt(spec), shade_mesh(_grey(true), _VIEWS)[0]))
        for name, mesh in meshes.items():
            surface = measure(mesh, true, before)
            results.setdefault(name, []).append(surface)
            tell(f"{prompt(spec)}: {name}: {surface}")
            sheet.append((name, shade_mesh(_grey(mesh), _VIEWS)[0]))
        details = {name: [asdict(surface) for surface in made] for name, made in results.items()}
        write_results(root, "polish", {"surfaces": details, "settings": list(overrides)},
                      markdown_table(HEADER, table(results)))  # fmt: skip
        write_atomically(root / "polish.png", png(contact_sheet(sheet, size=160)))
    return results


HEADER = ("surface", "objects", "error of normals, degrees", "chamfer, cm", "sharp edges kept", "moved, mm")


def table(results: dict[str, list[Surface]]) -> list[list[str]]:
    """Return the rows of the table: means over the objects."""
    rows = []
    for name, made in results.items():
        degrees, distance, kept, moved = np.mean([list(asdict(surface).values()) for surface in made], axis=0)
        rows.append([name, str(len(made)), f"{degrees:.1f}", f"{distance:.2f}", f"{kept:.0%}", f"{moved:.1f}"])
    return rows


def _grey(mesh: Mesh) -> Mesh:
    """Return the mesh without colours and smooth normals, so that every triangle is seen."""
    return Mesh(mesh.vertices, mesh.faces)


def _kinds(overrides: Sequence[str]) -> list[str]:
    vocabulary = make_config("a", "polish", ["start_from=FILE", *overrides]).prior.vocabulary()
    return [kind for kind in CATEGORIES if vocabulary is None or kind in vocabulary.kinds]
