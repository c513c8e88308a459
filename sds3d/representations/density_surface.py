"""Extract a clean triangle mesh from a density grid, with the isovalue found by comparing silhouettes.

Marching cubes: Lewiner et al., "Efficient Implementation of Marching Cubes' Cases with Topological Guarantees"
(Journal of Graphics Tools 2003). Smoothing: Taubin, "A Signal Processing Approach to Fair Surface Design"
(SIGGRAPH 1995). Isovalue without silhouettes: Otsu, "A Threshold Selection Method from Gray-Level Histograms" (1979).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import scipy
import skimage
import torch
from numpy.typing import ArrayLike, NDArray

from sds3d.cameras import Cameras, orbit
from sds3d.geometry.mesh import EmptySurfaceError, FloatArray, IntArray, Mesh
from sds3d.geometry.triangles import ColorFn, decimate, sample_colors, vertex_normals
from sds3d.rendering.mesh_zbuffer import rasterize

_CANDIDATES = 24
_DECADES = 3.5  # candidate isovalues span this many powers of ten below the highest density
_COARSE = 64  # samples per side of the grid on which candidates are compared
_EQUAL = 1e-3  # candidates whose IoU is this close to the highest count as equally good
_SLACK = 0.01  # IoU by which a candidate may exceed its bound, since dust that is dropped can come back
_DUST = 0.01  # a component with a smaller share of the surface area is dropped


def grid_points(resolution: int, bounds: tuple[float, float] = (-0.5, 0.5)) -> FloatArray:
    """Return the points at which `extract_surface` expects densities: (N^3, 3) float32 metres, z varying fastest.

    On each axis, sample 0 is at bounds[0] and sample N - 1 at bounds[1].
    """
    axis = np.linspace(bounds[0], bounds[1], resolution, dtype=np.float32)
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)


def extract_surface(
    density: FloatArray,
    color_fn: ColorFn,
    bounds: tuple[float, float] = (-0.5, 0.5),
    *,
    alpha_of: Callable[[Cameras], FloatArray] | None = None,
    isovalue: float | None = None,
    max_faces: int = 20_000,
) -> Mesh:
    """Return the closed surface of a density grid, with vertex colours and normals.

    density: (N, N, N) float32 >= 0 per metre, axes x, y, z, sampled at `grid_points(N, bounds)`.
    color_fn: maps world points (P, 3) to sRGB (P, 3) in [0, 1]. bounds: lowest and highest coordinate of the grid in
    metres. alpha_of: renders the opacity (B, H, W) of given cameras; the isovalue whose silhouettes match it best is
    used. isovalue: the density at the surface if it is known. Without either, it is Otsu's threshold on log density.
    max_faces: largest number of triangles.

    The mesh is watertight, wound outwards and inside `bounds`, without specks and hidden cavities.
    Raises EmptySurfaceError if nothing is dense enough, ValueError for arrays of the wrong shape or with NaN.
    """
    density = np.asarray(density, dtype=np.float32)
    if density.ndim != 3 or len(set(density.shape)) != 1 or density.shape[0] < 4:
        raise ValueError(f"density must be a cube of at least 4 samples a side, got shape {density.shape}")
    if not np.isfinite(density).all():
        raise ValueError("density holds NaN or infinite values: the scene has diverged; lower its learning rate")
    if bounds[0] >= bounds[1]:
        raise ValueError(f"bounds must be (lowest, highest), got {bounds}")
    if max_faces < 4:
        raise ValueError(f"max_faces must be at least 4, got {max_faces}")
    if density.max() <= 0:
        raise EmptySurfaceError(
            "the density grid is zero everywhere, so there is no surface: train longer, start from a denser "
            "initialisation, or lower the weight of the sparsity regulariser"
        )
    if isovalue is None:
        isovalue = _isovalue_by_silhouette(density, bounds, alpha_of) if alpha_of else _isovalue_by_otsu(density)
    # Decimating a sponge can make it non-manifold. Coarser grids close its pores; the coarsest need no decimation.
    for divisor in (1.0, 1.5, 2.0, 3.0, 4.0, 6.0):
        vertices, faces = _surface(density, isovalue, bounds, int(density.shape[0] / divisor))
        vertices, faces = decimate(_taubin(vertices, faces), faces, max_faces)
        if _is_closed_manifold(faces):
            break
    if not len(faces):
        raise EmptySurfaceError(
            f"no surface at density {isovalue:.3g} (the grid's highest is {density.max():.3g}): the scene is empty or "
            "a thin fog; train longer, or raise the weight of the opacity regulariser"
        )
    vertices = np.clip(vertices, *bounds)
    mesh = Mesh(vertices, faces, normals=vertex_normals(vertices, faces))
    return replace(mesh, colors=sample_colors(color_fn, vertices))


def _isovalue_by_silhouette(
    density: FloatArray, bounds: tuple[float, float], alpha_of: Callable[[Cameras], FloatArray]
) -> float:
    """Return the isovalue whose silhouettes have the highest IoU with the rendered ones, by a coarse-to-fine search."""
    cameras = orbit(
        [0.0, 60.0, 120.0, 180.0, 240.0, 300.0],
        elevation=torch.tensor([5.0, 35.0] * 3),
        distance=2.1 * (bounds[1] - bounds[0]),
        size=96,
    )
    alpha = np.asarray(alpha_of(cameras), dtype=np.float32)
    expected = (len(cameras), cameras.height, cameras.width)
    if alpha.shape != expected:
        raise ValueError(f"alpha_of must return shape {expected}, got {alpha.shape}")
    if alpha.max() < 0.1:
        raise EmptySurfaceError(
            f"the renders are almost empty (highest opacity {alpha.max():.2f}): train longer, or lower the weight of "
            "the sparsity regulariser"
        )
    target = alpha > alpha.max() / 2
    coarse = _resample(density, _COARSE)

    @cache
    def outlines(log: float) -> NDArray[np.bool_]:
        vertices, faces = _surface(coarse, 10**log, bounds, _COARSE)
        return rasterize(vertices, faces, np.zeros((len(vertices), 0), np.float32), cameras).face >= 0

    top = np.log10(0.9 * float(coarse.max()))
    logs = np.linspace(top - _DECADES, top, _CANDIDATES)
    best = _plateau(logs, outlines, target)
    step = logs[1] - logs[0]
    logs = np.linspace(best - step, min(best + step, top), 9)
    return 10 ** _plateau(logs, outlines, target)


def _plateau(
    logs: NDArray[np.float64], outlines: Callable[[float], NDArray[np.bool_]], target: NDArray[np.bool_]
) -> float:
    """Return the middle of the candidates with the highest IoU, since a field with hard edges has a wide range of them.

    logs: (N,) ascending. outlines: returns the silhouettes of a candidate, in the shape of `target`. They shrink as the
    isovalue rises, so those of two candidates bound the IoU of all between. What cannot be the best is not drawn.
    """
    drawn: dict[int, NDArray[np.bool_]] = {}
    scores = np.full(len(logs), -np.inf)
    gaps: list[tuple[float, int, int]] = []  # negative bound, and the drawn candidates at both ends

    def draw(number: int) -> None:
        drawn[number] = outlines(logs[number])
        scores[number] = (drawn[number] & target).sum() / (drawn[number] | target).sum()

    def bound(low: int, high: int) -> None:
        if high > low + 1:
            most = (drawn[low] & target).sum() / (drawn[high] | target).sum()
            heapq.heappush(gaps, (-float(most), low, high))

    draw(0)
    draw(len(logs) - 1)
    bound(0, len(logs) - 1)
    while gaps and -gaps[0][0] >= scores.max() - _EQUAL - _SLACK:
        _, low, high = heapq.heappop(gaps)
        middle = (low + high) // 2
        draw(middle)
        bound(low, middle)
        bound(middle, high)
    return float(logs[scores >= scores.max() - _EQUAL].mean())


def _isovalue_by_otsu(density: FloatArray) -> float:
    """Return Otsu's threshold on log density. A floor keeps empty space from stretching the range."""
    highest = float(density.max())
    logs = np.log(np.maximum(density, highest * 10.0**-_DECADES))
    if logs.min() == logs.max():
        return highest / 2  # a solid block: any threshold below its density gives the same surface
    return float(np.exp(skimage.filters.threshold_otsu(logs)))


def _resample(grid: FloatArray, resolution: int) -> FloatArray:
    """Return the grid with at most `resolution` samples per side over the same bounds, trilinearly interpolated."""
    n = grid.shape[0]
    if n <= resolution:
        return grid
    # Average first: plain subsampling would miss thin parts.
    averaged = scipy.ndimage.uniform_filter(grid, size=round(n / resolution), mode="nearest")
    return np.asarray(scipy.ndimage.zoom(averaged, resolution / n, order=1, grid_mode=False), np.float32)


def _surface(
    density: FloatArray, isovalue: float, bounds: tuple[float, float], resolution: int
) -> tuple[FloatArray, IntArray]:
    """Return the surface by marching cubes, cleaned, closed and wound outwards, in metres; empty if there is none.

    resolution: samples per side of the grid for marching cubes.
    """
    # Saturate on both sides of the isovalue, like log density: the surface of a hard edge between 0 and 1000 is then
    # interpolated near the middle of a voxel instead of forming steps at its foot.
    field = np.divide(density, density + np.float32(isovalue), dtype=np.float32)
    field = _resample(field, max(resolution, 8))
    # The outermost samples are empty, so that the surface closes inside the bounds.
    field[[0, -1]] = 0
    field[:, [0, -1]] = 0
    field[:, :, [0, -1]] = 0
    field = _without_dust_and_cavities(field)
    if field.max() <= 0.5:
        return np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32)
    # A sample exactly on the level would give triangles without area.
    field = np.where(np.abs(field - 0.5) < 1e-3, np.float32(0.501), field)
    crossed = _crossed(field > 0.5)
    vertices, faces, _, _ = skimage.measure.marching_cubes(field, level=0.5, allow_degenerate=False, mask=crossed)
    scale = (bounds[1] - bounds[0]) / (field.shape[0] - 1)
    return (vertices * scale + bounds[0]).astype(np.float32), _outwards(vertices, faces.astype(np.int32))


def _crossed(solid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the first and the last corner (N, N, N) of the cells that the surface crosses.

    Marching cubes with this mask skips the other cells, which is most of its time.
    """
    every = some = solid
    for _ in range(3):  # pairs along an axis, which then becomes the last one
        every = (every[:-1] & every[1:]).transpose(1, 2, 0)
        some = (some[:-1] | some[1:]).transpose(1, 2, 0)
    cells = some & ~every  # (N - 1, N - 1, N - 1)
    corners = np.zeros(solid.shape, np.bool_)
    corners[:-1, :-1, :-1] = cells
    corners[1:, 1:, 1:] |= cells
    return corners


def _outwards(vertices: FloatArray, faces: IntArray) -> IntArray:
    return faces if Mesh(vertices, faces).volume() >= 0 else np.ascontiguousarray(faces[:, ::-1])


def _without_dust_and_cavities(field: FloatArray) -> FloatArray:
    """Remove components with a negligible surface and fill cavities that no camera outside can see.

    field: (N, N, N), changed in place. Its outermost samples are empty.
    """
    occupied = field > 0.5
    if not occupied.any():
        return field
    spans = (np.flatnonzero(occupied.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1)))
    box = tuple(slice(span[0] - 1, span[-1] + 2) for span in spans)  # with one empty sample on each side
    field[box] = _cleaned(field[box])
    return field


def _cleaned(field: FloatArray) -> FloatArray:
    solid = field > 0.5
    labels, count = _label(solid, np.ones((3, 3, 3)))
    if count > 1:
        shell = solid & np.logical_not(scipy.ndimage.binary_erosion(solid))
        areas = np.bincount(labels[shell], minlength=count + 1)
        dust = areas < _DUST * areas.sum()
        dust[0] = False
        field = np.where(dust[labels], np.float32(0), field)
        solid = field > 0.5
    hollows, count = _label(~solid)
    if count > 1:
        field = np.where((hollows > 0) & (hollows != hollows[0, 0, 0]), np.float32(1), field)
    return field


def _label(mask: NDArray[np.bool_], structure: ArrayLike | None = None) -> tuple[IntArray, int]:
    """Return the connected components: labels in the shape of `mask`, 0 outside, and their number."""
    labels = np.zeros(mask.shape, np.int32)
    scipy.ndimage.label(mask, structure, output=labels)
    return labels, int(labels.max())


def _taubin(vertices: FloatArray, faces: IntArray, iterations: int = 8) -> FloatArray:
    """Smooth without shrinking: step towards the mean of the neighbours, then slightly farther away from it."""
    ends = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    ends = np.concatenate([ends, ends[:, ::-1]])
    n = len(vertices)
    adjacency = scipy.sparse.csr_matrix((np.ones(len(ends), np.float32), (ends[:, 0], ends[:, 1])), shape=(n, n))
    adjacency.data[:] = 1.0
    degree = np.maximum(np.asarray(adjacency.sum(axis=1)), 1.0)  # (V, 1)
    for _ in range(iterations):
        for step in (0.5, -0.53):
            offsets = (adjacency @ vertices / degree - vertices).astype(np.float32)
            vertices = np.add(vertices, np.float32(step) * offsets, dtype=np.float32)
    return vertices


def _is_closed_manifold(faces: IntArray) -> bool:
    """Return whether exactly two faces meet at every edge. Decimating a surface full of tunnels can break this."""
    ends = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1).astype(np.int64)
    return bool((np.unique(ends[:, 0] << 32 | ends[:, 1], return_counts=True)[1] == 2).all())
