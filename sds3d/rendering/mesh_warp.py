"""Differentiable meshes on CUDA: choose faces and silhouette edges with NVIDIA Warp.

The rules are those of `mesh_zbuffer_numba` and `mesh_antialias_numba`. Where several faces or edges compete for a
pixel, the largest 64-bit key wins. Its upper half is the float that decides (the bits of positive floats are ordered
as the floats are). Its lower half is the negated index, so that the first of equals wins, as on the CPU. No gradient
passes through a choice; the differentiable part is in `mesh_surface_warp` and `mesh_silhouettes_warp`.
"""

# Kernels are Warp's language: pyright reads them as Python and finds errors where there are none.
# pyright: reportInvalidTypeForm=false, reportMissingImports=false, reportOperatorIssue=false
# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# pyright: reportOptionalMemberAccess=false

import torch
import warp as wp
from torch import Tensor

from sds3d.rendering.launch_warp import launch
from sds3d.rendering.mesh_edges import MeshEdges

_LAST = 0x7FFFFFFF
_LANES = 8  # threads that share a face's or an edge's lines of pixels

# Warp finds these by name in the signatures of kernels.
_Vectors, _Ints, _Floats = wp.array2d(dtype=wp.vec3), wp.array2d(dtype=wp.int32), wp.array3d(dtype=wp.float32)


def nearest_faces(screen: Tensor, faces: Tensor, height: int, width: int) -> Tensor:
    """Return the nearest face of each pixel, -1 where empty: (B, H, W) int32. screen: (B, V, 3). faces: (F, 3)."""
    keys = torch.full((len(screen), height, width), -1, dtype=torch.int64, device=screen.device)
    launch(_nearest_faces, (len(screen), len(faces), _LANES), _floats(screen), _ints(faces), keys)
    return _indices(keys)


def crossings(screen: Tensor, faces: Tensor, edges: MeshEdges, distance: Tensor) -> Tensor:
    """Return the silhouette edge or -1 between pixels and their right [:, 0] and lower [:, 1] neighbours, (B, 2, H, W).

    screen: (B, V, 3). faces: (F, 3). distance: (B, H, W), z of what each pixel shows, infinite where it is empty.
    """
    batch, height, width = distance.shape
    keys = torch.full((batch, 2, height, width), -1, dtype=torch.int64, device=screen.device)
    opposite = faces.reshape(-1)[edges.corners.long()]  # (S,)
    arrays = [_ints(tensor) for tensor in (edges.vertices, edges.starts, opposite)]
    size = (batch, len(edges.vertices), _LANES)
    launch(_crossings, size, _floats(screen), *arrays, _floats(distance), keys)
    index = _indices(keys)
    return torch.where(index % 2 == 0, index // 2, -1)  # odd: an edge that hides others but does not count


def _floats(tensor: Tensor) -> Tensor:
    return tensor.detach().float().contiguous()


def _ints(tensor: Tensor) -> Tensor:
    return tensor.to(torch.int32).contiguous()


def _indices(keys: Tensor) -> Tensor:
    return torch.where(keys < 0, -1, _LAST - (keys & _LAST)).int()


@wp.func
def _key(decides: wp.float32, index: wp.int32):
    return (wp.int64(wp.cast(decides, wp.int32)) << wp.int64(32)) | wp.int64(_LAST - index)


@wp.func
def _ordered_edge(a: wp.vec3, dx: wp.float32, dy: wp.float32, x: wp.float32, y: wp.float32):
    return dx * (y - a[1]) - dy * (x - a[0])


@wp.func
def _edge(a: wp.vec3, b: wp.vec3, x: wp.float32, y: wp.float32):
    """Return twice the signed area of a, b and (x, y); exactly negated when a and b are exchanged."""
    dx = b[0] - a[0]
    dy = b[1] - a[1]
    if dx < 0.0 or (dx == 0.0 and dy < 0.0):
        return -_ordered_edge(b, -dx, -dy, x, y)
    return _ordered_edge(a, dx, dy, x, y)


@wp.kernel(enable_backward=False)
def _nearest_faces(screen: _Vectors, faces: _Ints, keys: wp.array3d(dtype=wp.int64)):
    view, f, lane = wp.tid()
    a = screen[view, faces[f, 0]]
    b = screen[view, faces[f, 1]]
    c = screen[view, faces[f, 2]]
    if wp.min(a[2], wp.min(b[2], c[2])) <= 0.0:
        return  # at least one vertex is closer than the near plane
    area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
    if not (wp.abs(area) > 0.0 and wp.isfinite(area)):
        return
    sign = wp.sign(area)
    height = keys.shape[1]
    width = keys.shape[2]
    left = wp.int32(wp.max(wp.ceil(wp.min(a[0], wp.min(b[0], c[0])) - 0.5), 0.0))
    right = wp.int32(wp.min(wp.floor(wp.max(a[0], wp.max(b[0], c[0])) - 0.5), wp.float32(width - 1)))
    top = wp.int32(wp.max(wp.ceil(wp.min(a[1], wp.min(b[1], c[1])) - 0.5), 0.0))
    bottom = wp.int32(wp.min(wp.floor(wp.max(a[1], wp.max(b[1], c[1])) - 0.5), wp.float32(height - 1)))
    for row in range(top + lane, bottom + 1, _LANES):
        y = wp.float32(row) + 0.5
        for column in range(left, right + 1):
            x = wp.float32(column) + 0.5
            u = sign * _edge(b, c, x, y)
            v = sign * _edge(c, a, x, y)
            w = sign * _edge(a, b, x, y)
            if u >= 0.0 and v >= 0.0 and w >= 0.0:
                inverse = (u * a[2] + v * b[2] + w * c[2]) / wp.abs(area)
                wp.atomic_max(keys, view, row, column, _key(inverse, f))


@wp.kernel(enable_backward=False)
def _crossings(
    screen: _Vectors,
    ends: _Ints,
    starts: wp.array(dtype=wp.int32),
    opposite: wp.array(dtype=wp.int32),
    distance: _Floats,
    keys: wp.array4d(dtype=wp.int64),
):
    view, e, lane = wp.tid()
    start = screen[view, ends[e, 0]]
    step = screen[view, ends[e, 1]] - start
    if wp.min(start[2], start[2] + step[2]) <= 0.0 or not wp.isfinite(wp.abs(step[0]) + wp.abs(step[1])):
        return
    left = wp.int32(0)  # on which sides of the edge its faces are
    right = wp.int32(0)
    for i in range(starts[e], starts[e + 1]):
        third = screen[view, opposite[i]]
        if third[2] > 0.0:
            side = step[0] * (third[1] - start[1]) - step[1] * (third[0] - start[0])
            if side < 0.0:
                left += 1
            if side > 0.0:
                right += 1
    if (left > 0) == (right > 0):
        return  # not a silhouette, or seen edge-on
    steep = wp.abs(step[1]) >= wp.abs(step[0])
    for axis in range(2):
        s0 = start[1 - axis]
        ds = step[1 - axis]
        # Whether the surface covers the first of the two pixels (the one with the smaller column or row).
        surface_first = (left > 0) == wp.where(axis == 0, ds < 0.0, ds > 0.0)
        # Steep edges separate pixels of a row, others pixels of a column, so that none counts twice. In either case
        # the outermost edge hides the others.
        index = 2 * e + wp.where(steep == (axis == 0), 0, 1)
        lines = distance.shape[1 + axis]
        across = distance.shape[2 - axis]
        first = wp.int32(wp.max(wp.ceil(wp.min(s0, s0 + ds) - 0.5), 0.0))
        last = wp.int32(wp.min(wp.ceil(wp.max(s0, s0 + ds) - 0.5), wp.float32(lines)))
        for line in range(first + lane, last, _LANES):
            along = (wp.float32(line) + 0.5 - s0) / ds
            place = start[axis] + along * step[axis] - 0.5
            pixel = wp.floor(place)
            if pixel >= 0.0 and pixel < wp.float32(across - 1):
                k = wp.int32(pixel)
                row = wp.where(axis == 0, line, k)
                column = wp.where(axis == 0, k, line)
                here = distance[view, row, column]
                there = distance[view, row + axis, column + 1 - axis]
                inside = wp.where(surface_first, here, there)
                outside = wp.where(surface_first, there, here)
                # One pixel must show the surface, and the other something behind the edge.
                if inside < outside and (start[2] + along * step[2]) * outside > 1.0:
                    outwards = wp.where(surface_first, place - pixel, 1.0 - (place - pixel))
                    wp.atomic_max(keys, view, axis, row, column, _key(outwards, index))
