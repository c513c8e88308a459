"""Pictures of the toy world: orthogonal views for training, and views of a prompt.

An object is rendered from four cameras 90 degrees apart, at one elevation and distance, as in MVDream (Shi et al. 2023,
arXiv:2308.16512). Everything about object i of a set is drawn from the seed pair (seed, i). A set therefore does not
depend on the number of workers, and a longer set begins with the shorter one.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from sds3d.cameras import Cameras, orbit
from sds3d.devices import set_threads
from sds3d.formats.pictures import to_uint8
from sds3d.geometry.mesh import FloatArray, Mesh
from sds3d.prompts.conditioning import Structure
from sds3d.prompts.prompt import view_name
from sds3d.rendering.mesh_zbuffer import antialiased, rasterize
from sds3d.rendering.shading import Environment, Light, headlight, shade_mesh
from sds3d.rendering.structure import light_maps, lit_by, stacked, structure_of
from sds3d.toybox.captions import caption, parse, sample_spec
from sds3d.toybox.objects import build
from sds3d.toybox.varied import varied
from sds3d.toybox.world import Spec

VIEWS = 4
FOVY = 30.0
CHUNK = 16  # objects that a worker renders per message: 3 MB at 64 px

Pictures = NDArray[np.uint8]
T = TypeVar("T")
SampleSpec = Callable[[np.random.Generator], Spec]


@dataclass(frozen=True)
class ObjectViews:
    """One object from VIEWS cameras 90 degrees apart.

    pictures: (4, S, S, 3) uint8 sRGB over one constant background. spec: what the object is.
    azimuth: (4,) float32 degrees in [0, 360). elevation: degrees. distance: metres. The field of view is FOVY.
    background: (3,) float32 sRGB in [0, 1]. structure: (4, C, M, M) int8, 127 for 1: depth, normal and opacity, and for
    objects with materials the light, see `Structure`; or None. varied: whether the shape is not the usual one, see
    `sds3d.toybox.varied`.
    """

    pictures: Pictures
    spec: Spec
    azimuth: FloatArray
    elevation: float
    distance: float
    background: FloatArray
    structure: NDArray[np.int8] | None = None
    varied: bool = False


@dataclass(frozen=True)
class Dataset:
    """`n` objects as stacked arrays; the fields are those of `ObjectViews`.

    pictures: (n, 4, S, S, 3) uint8. specs: n specs. azimuth: (n, 4) float32. elevation, distance: (n,) float32.
    structure: (n, 4, C, M, M) int8, or None. varied: (n,) bool.
    """

    pictures: Pictures
    specs: list[Spec]
    azimuth: FloatArray
    elevation: FloatArray
    distance: FloatArray
    structure: NDArray[np.int8] | None
    varied: NDArray[np.bool_]


def sample_views(rng: np.random.Generator, size: int = 64) -> Cameras:
    """Draw four cameras: a random azimuth + 90 i, one elevation and one distance.

    The elevation is in [-3, 38] degrees, for 5 % of the objects in [38, 80]. The distance is 2.1 m +- 4 %.
    """
    azimuth = (rng.uniform(0.0, 360.0) + 90.0 * np.arange(VIEWS)) % 360.0
    elevation = rng.uniform(38.0, 80.0) if rng.random() < 0.05 else rng.uniform(-3.0, 38.0)
    distance = 2.1 * rng.uniform(0.96, 1.04)
    return orbit(torch.from_numpy(azimuth), float(elevation), float(distance), FOVY, size)


def sample_background(rng: np.random.Generator) -> FloatArray:
    """Draw a grey in [0.35, 1] with a slight tint, (3,) float32."""
    return np.clip(rng.uniform(0.35, 1.0) + rng.uniform(-0.06, 0.06, 3), 0.0, 1.0).astype(np.float32)


def sample_light(rng: np.random.Generator, cameras: Cameras) -> Light:
    """Draw a light: half of the objects get one fixed in the world, from the front, upper right; half one per camera.

    A light that moves with the camera lets a model separate the colour of a surface from its shading. With fixed
    lights, the strong ambient share keeps the backs from getting dark.
    """
    ambient = float(rng.uniform(0.6, 0.75))
    if rng.random() < 0.5:
        direction = np.array([0.45, 0.75, 0.6]) + rng.uniform(-0.3, 0.3, 3)
        return Light((direction / np.linalg.norm(direction)).astype(np.float32), ambient, 1.0 - ambient)
    side = 1.0 if rng.random() < 0.5 else -1.0
    return headlight(cameras, (side * rng.uniform(0.2, 0.7), rng.uniform(0.4, 0.9), 0.7), ambient)


def render_object(
    spec: Spec, rng: np.random.Generator, size: int = 64, supersampling: int = 2, maps: int = 0
) -> ObjectViews:
    """Build the object of a spec and draw its views, light and background from `rng`.

    maps: height and width of the maps of its structure. With these, half of the objects get another shape; 0: none.
    """
    mesh = build(spec, rng)
    cameras = sample_views(rng, size)
    light = sample_light(rng, cameras)
    background = sample_background(rng)
    other = maps > 0 and bool(rng.random() < 0.5)
    mesh = varied(mesh, rng) if other else mesh
    pictures, _ = shade_mesh(mesh, cameras, background, light, supersampling)
    structure = in_bytes(mesh_structure(mesh, cameras.resized(maps, maps), supersampling)) if maps else None
    return ObjectViews(
        to_uint8(pictures),
        spec,
        cameras.azimuth.numpy(),
        float(cameras.elevation[0]),
        float(cameras.distance[0]),
        background,
        structure,
        other,
    )


def mesh_structure(mesh: Mesh, cameras: Cameras, supersampling: int = 2, light: Environment | None = None) -> Structure:
    """Return the structure of views of a mesh with normals, at the cameras' size. light: tells that the views are seen
    in the first light of this environment."""
    normals = mesh.normals if mesh.normals is not None else np.zeros_like(mesh.vertices)

    def render(large: Cameras) -> FloatArray:
        hits = rasterize(mesh.vertices, mesh.faces, normals, large)
        hit = (hits.face >= 0)[..., None]
        return np.concatenate([hit.astype(np.float32), hits.depth[..., None], hits.attributes], axis=-1)

    alpha, depth, normal = torch.from_numpy(antialiased(render, cameras, supersampling)).split([1, 1, 3], dim=-1)
    normal = torch.nn.functional.normalize(normal, dim=-1)
    structure = structure_of(alpha, depth, normal, cameras, cameras.height)
    return lit_by(structure, None if light is None else light_maps(alpha, normal, cameras, light))


def in_bytes(structure: Structure) -> NDArray[np.int8]:
    """Return the maps in one array (B, C, H, W) int8, 127 for 1, see `stacked`."""
    return (127 * stacked(structure)).round().to(torch.int8).numpy()


def iterate_objects(
    n_objects: int,
    seed: int = 0,
    workers: int = 1,
    *,
    size: int = 64,
    supersampling: int = 2,
    sample: SampleSpec = sample_spec,
    start: int = 0,
    maps: int = 0,
) -> Iterator[ObjectViews]:
    """Yield objects start .. start + n_objects - 1 of the endless set of `seed`, in order.

    workers: processes; 1 renders in this one. Workers are spawned, so a script that uses several needs the usual
    `if __name__ == "__main__":` guard. sample: draws a spec; with several workers it must be importable (a module's
    function or a `functools.partial` of one). maps: see `render_object`.
    """
    render = partial(_render_chunk, seed=seed, size=size, supersampling=supersampling, sample=sample, maps=maps)
    return in_chunks(render, range(start, start + n_objects), workers)


def in_chunks(work: Callable[[range], Sequence[T]], indices: range, workers: int, chunk: int = CHUNK) -> Iterator[T]:
    """Yield what `work` returns for these indices, in order, `chunk` of them at a time.

    workers: processes, see `iterate_objects`. Raises ValueError for less than one.
    """
    if workers < 1:
        raise ValueError(f"workers must be 1 or more, got {workers}")
    chunks = [indices[i : i + chunk] for i in range(0, len(indices), chunk)]
    if workers == 1 or len(chunks) <= 1:
        for some in chunks:
            yield from work(some)
        return
    context = multiprocessing.get_context("spawn")
    # One thread per worker: the processes already run in parallel.
    with ProcessPoolExecutor(workers, mp_context=context, initializer=set_threads, initargs=(1,)) as pool:
        # A bounded window keeps finished pictures from piling up if the consumer is slow.
        pending = [pool.submit(work, some) for some in chunks[: 2 * workers]]
        try:
            for i in range(len(chunks)):
                done = pending.pop(0).result()
                if i + 2 * workers < len(chunks):
                    pending.append(pool.submit(work, chunks[i + 2 * workers]))
                yield from done
        finally:
            for future in pending:
                future.cancel()


def _render_chunk(
    indices: range, seed: int, size: int, supersampling: int, sample: SampleSpec, maps: int
) -> list[ObjectViews]:
    objects = []
    for index in indices:
        rng = np.random.default_rng([seed, index])
        objects.append(render_object(sample(rng), rng, size, supersampling, maps))
    return objects


def stack(
    objects: Iterable[ObjectViews], n_objects: int, progress: Callable[[int, int], None] | None = None
) -> Dataset:
    """Gather `n_objects` objects with pictures of one size in memory (49 kB per object at 64 px).

    progress: called with (objects gathered, n_objects) after each object.
    """
    pictures = np.empty((n_objects, VIEWS, 0, 0, 3), np.uint8)
    azimuth = np.empty((n_objects, VIEWS), np.float32)
    elevation, distance = np.empty(n_objects, np.float32), np.empty(n_objects, np.float32)
    structure, other = [], np.empty(n_objects, np.bool_)
    specs: list[Spec] = []
    for i, views in enumerate(objects):
        if i == 0:
            pictures = np.empty((n_objects, *views.pictures.shape), np.uint8)
        pictures[i], azimuth[i] = views.pictures, views.azimuth
        elevation[i], distance[i] = views.elevation, views.distance
        other[i] = views.varied
        if views.structure is not None:
            structure.append(views.structure)
        specs.append(views.spec)
        if progress is not None:
            progress(i + 1, n_objects)
    maps = np.stack(structure) if structure else None
    return Dataset(pictures, specs, azimuth, elevation, distance, maps, other)


def save_dataset(
    folder: str | Path, objects: Iterable[ObjectViews], seed: int = 0, progress: Callable[[int], None] | None = None
) -> int:
    """Write objects as PNG files and a metadata.jsonl with one line per picture. Return the number of pictures.

    The layout is Hugging Face's "imagefolder" (`file_name` relative to the folder). seed: of the captions; each object
    gets one caption, worded for each of its views. progress: called with the number of objects written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    with (folder / "metadata.jsonl").open("w", encoding="utf-8") as lines:
        for i, views in enumerate(objects):
            for j, picture in enumerate(views.pictures):
                azimuth = float(views.azimuth[j])
                view = view_name(azimuth, views.elevation)
                name = f"{i:06d}_{j}.png"
                Image.fromarray(picture).save(folder / name)
                line = {
                    "file_name": name,
                    "prompt": caption(views.spec, np.random.default_rng([seed, i]), view),
                    **asdict(views.spec),
                    "object": i,
                    "view": view,
                    "azimuth": azimuth,
                    "elevation": views.elevation,
                    "distance": views.distance,
                    "fovy": FOVY,
                }
                lines.write(json.dumps(line) + "\n")
                count += 1
            if progress is not None:
                progress(i + 1)
    return count


def render_prompt(
    prompt: str | Spec,
    azimuths: Sequence[float] = (0.0, 90.0, 180.0, 270.0),
    seed: int = 0,
    *,
    size: int = 64,
    elevation: float = 15.0,
    background: Sequence[float] = (1.0, 1.0, 1.0),
    supersampling: int = 3,
) -> Pictures:
    """Render true views of one object of a prompt or spec, under headlights, (len(azimuths), size, size, 3) uint8.

    seed: chooses one of the many objects that the prompt describes. Raises ValueError for a prompt outside the toy
    world.
    """
    rng = np.random.default_rng(seed)
    spec = parse(prompt) if isinstance(prompt, str) else prompt
    if spec is None:
        raise ValueError(f"{prompt!r} does not name one toy object and its colour; write for example 'a red mug'")
    cameras = orbit(azimuths, elevation, fovy=FOVY, size=size)
    pictures, _ = shade_mesh(build(spec, rng), cameras, background, supersampling=supersampling)
    return to_uint8(pictures)
