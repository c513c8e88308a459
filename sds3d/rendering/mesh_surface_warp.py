"""Differentiable meshes with NVIDIA Warp: project, locate and interpolate, forward and backward.

The rules are those of `mesh_raster_numba`. `mesh_warp` chooses the faces. A thread takes a pixel, or a vertex in all
views. In the backward pass pixels add to the gradients of vertices by atomics. On the CPU, Warp runs one thread after
the other: sums have a fixed order there, and on CUDA they do not.
"""

# Kernels are Warp's language: pyright reads them as Python and finds errors where there are none.
# pyright: reportInvalidTypeForm=false, reportMissingImports=false, reportOperatorIssue=false
# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# pyright: reportCallIssue=false, reportIndexIssue=false, reportAttributeAccessIssue=false

from typing import Any

import torch
import warp as wp
from torch import Tensor

from sds3d.rendering import mesh_warp
from sds3d.rendering.launch_warp import launch

wp.set_module_options({"enable_backward": False})

_Screen = wp.array2d(dtype=wp.vec3)  # (B, V), x and y in pixels and 1/z, 0 for vertices before the near plane
_Faces = wp.array(dtype=wp.vec3i)
_Ints, _Floats, _Vectors = wp.array3d(dtype=wp.int32), wp.array3d(dtype=wp.float32), wp.array3d(dtype=wp.vec3)
_Pictures, _Table = wp.array4d(dtype=wp.float32), wp.array2d(dtype=wp.float32)


# ---- vertices ----


@wp.kernel
def _project(
    vertices: wp.array(dtype=wp.vec3),
    views: wp.array(dtype=wp.mat44),
    focal: wp.array(dtype=wp.float32),
    width: wp.float32,
    height: wp.float32,
    near: wp.float32,
    screen: _Screen,
):
    view, i = wp.tid()
    at = wp.transform_point(views[view], vertices[i])
    if at[2] > near:
        scale = focal[view] / at[2]
        screen[view, i] = wp.vec3(scale * at[0] + 0.5 * width, scale * at[1] + 0.5 * height, 1.0 / at[2])
    else:
        screen[view, i] = wp.vec3()


@wp.kernel
def _project_backward(
    views: wp.array(dtype=wp.mat44),
    focal: wp.array(dtype=wp.float32),
    width: wp.float32,
    height: wp.float32,
    screen: _Screen,
    d_screen: _Screen,
    d_vertices: wp.array(dtype=wp.vec3),
):
    i = wp.tid()
    total = wp.vec3()
    for view in range(views.shape[0]):
        place = screen[view, i]
        if place[2] > 0.0:
            given = d_screen[view, i]
            offset = (place[0] - 0.5 * width) * given[0] + (place[1] - 0.5 * height) * given[1]
            scale = focal[view] * place[2]
            d_at = wp.vec3(scale * given[0], scale * given[1], -place[2] * (offset + place[2] * given[2]))
            total += wp.transform_vector(wp.transpose(views[view]), d_at)
    d_vertices[i] = total


class Project(torch.autograd.Function):
    """Project vertices (V, 3) into B views: screen positions (B, V, 3). Differentiable in the vertices."""

    @staticmethod
    def forward(ctx: Any, vertices: Tensor, viewmats: Tensor, focal: Tensor, size: tuple[int, int], near: float) -> Any:
        """viewmats: (B, 4, 4) world to OpenCV camera. focal: (B,) pixels. size: height and width. near: metres."""
        vertices = vertices.detach().contiguous()
        screen = vertices.new_empty(len(viewmats), *vertices.shape)
        launch(_project, screen.shape[:2], vertices, viewmats, focal, size[1], size[0], near, screen)
        ctx.save_for_backward(viewmats, focal, screen)
        ctx.size = size
        return screen

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the vertices."""
        viewmats, focal, screen = ctx.saved_tensors
        d_vertices = torch.empty_like(screen[0])
        sizes = ctx.size[1], ctx.size[0]
        launch(
            _project_backward, len(d_vertices), viewmats, focal, *sizes, screen, gradients[0].contiguous(), d_vertices
        )  # fmt: skip
        return d_vertices, None, None, None, None


# ---- faces, barycentrics, depth ----


@wp.struct
class _Seen:
    """A face from a pixel's centre. a, b, c: x and y from there, and 1/z. areas: twice those opposite the corners."""

    a: wp.vec3
    b: wp.vec3
    c: wp.vec3
    areas: wp.vec3
    total: wp.float32
    ray: wp.float32


@wp.func
def _see(screen: _Screen, corners: wp.vec3i, focal: wp.float32, face: _Ints, view: int, row: int, column: int):
    x = wp.float32(column) + 0.5
    y = wp.float32(row) + 0.5
    pixel = wp.vec3(x, y, 0.0)
    seen = _Seen()
    a = screen[view, corners[0]] - pixel
    b = screen[view, corners[1]] - pixel
    c = screen[view, corners[2]] - pixel
    seen.a = a
    seen.b = b
    seen.c = c
    seen.areas = wp.vec3(b[0] * c[1] - b[1] * c[0], c[0] * a[1] - c[1] * a[0], a[0] * b[1] - a[1] * b[0])
    seen.total = seen.areas[0] * a[2] + seen.areas[1] * b[2] + seen.areas[2] * c[2]
    right = (x - 0.5 * wp.float32(face.shape[2])) / focal
    down = (y - 0.5 * wp.float32(face.shape[1])) / focal
    seen.ray = wp.sqrt(1.0 + right * right + down * down)  # length of the ray up to z = 1
    return seen


@wp.kernel
def _locate(
    screen: _Screen,
    faces: _Faces,
    focal: wp.array(dtype=wp.float32),
    face: _Ints,
    barycentric: _Vectors,
    depth: _Floats,
):
    view, row, column = wp.tid()
    f = face[view, row, column]
    if f < 0:
        barycentric[view, row, column] = wp.vec3()
        depth[view, row, column] = 0.0
    else:
        seen = _see(screen, faces[f], focal[view], face, view, row, column)
        if seen.total == 0.0:  # a sliver whose area cancelled to 0: use its first vertex
            barycentric[view, row, column] = wp.vec3(1.0, 0.0, 0.0)
            depth[view, row, column] = seen.ray / seen.a[2]
        else:
            shares = wp.cw_mul(seen.areas, wp.vec3(seen.a[2], seen.b[2], seen.c[2]))
            barycentric[view, row, column] = shares / seen.total
            depth[view, row, column] = seen.ray * (seen.areas[0] + seen.areas[1] + seen.areas[2]) / seen.total


@wp.kernel
def _locate_backward(
    screen: _Screen,
    faces: _Faces,
    focal: wp.array(dtype=wp.float32),
    face: _Ints,
    d_barycentric: _Vectors,
    d_depth: _Floats,
    d_screen: _Screen,
):
    view, row, column = wp.tid()
    f = face[view, row, column]
    if f < 0:
        return
    seen = _see(screen, faces[f], focal[view], face, view, row, column)
    if seen.total == 0.0:
        return
    a = seen.a
    b = seen.b
    c = seen.c
    inverse = wp.vec3(a[2], b[2], c[2])
    given = d_barycentric[view, row, column]
    of_depth = d_depth[view, row, column] * seen.ray / seen.total  # depth = ray (u + v + w) / total
    # barycentric = (u az, v bz, w cz) / total. `mean` is the gradient of dividing by total.
    mean = wp.dot(given, wp.cw_mul(seen.areas, inverse)) / seen.total
    mean += of_depth * (seen.areas[0] + seen.areas[1] + seen.areas[2])
    g = (given - wp.vec3(mean, mean, mean)) / seen.total
    d = wp.cw_mul(g, inverse) + wp.vec3(of_depth, of_depth, of_depth)  # d loss / d areas
    z = wp.cw_mul(g, seen.areas)
    corners = faces[f]
    wp.atomic_add(d_screen, view, corners[0], wp.vec3(b[1] * d[2] - c[1] * d[1], c[0] * d[1] - b[0] * d[2], z[0]))
    wp.atomic_add(d_screen, view, corners[1], wp.vec3(c[1] * d[0] - a[1] * d[2], a[0] * d[2] - c[0] * d[0], z[1]))
    wp.atomic_add(d_screen, view, corners[2], wp.vec3(a[1] * d[1] - b[1] * d[0], b[0] * d[0] - a[0] * d[1], z[2]))


class Rasterize(torch.autograd.Function):
    """Return face (B, H, W) int32, barycentric (B, H, W, 3) and depth (B, H, W, 1) of screen positions (B, V, 3)."""

    @staticmethod
    def forward(ctx: Any, screen: Tensor, faces: Tensor, focal: Tensor, size: tuple[int, int]) -> tuple[Tensor, ...]:
        """faces: (F, 3) int32. focal: (B,) pixels. size: height and width."""
        face = mesh_warp.nearest_faces(screen, faces, *size)
        barycentric, depth = screen.new_empty(*face.shape, 3), screen.new_empty(face.shape)
        launch(_locate, face.shape, screen, faces, focal, face, barycentric, depth)
        ctx.save_for_backward(screen, faces, focal, face)
        ctx.mark_non_differentiable(face)
        return face, barycentric, depth[..., None]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the screen positions."""
        screen, faces, focal, face = ctx.saved_tensors
        d_screen = torch.zeros_like(screen)
        given = gradients[1].contiguous(), gradients[2][..., 0].contiguous()
        launch(_locate_backward, face.shape, screen, faces, focal, face, *given, d_screen)
        return d_screen, None, None, None


# ---- interpolation ----


@wp.kernel
def _interpolate(attributes: _Table, faces: _Faces, face: _Ints, barycentric: _Vectors, out: _Pictures):
    view, row, column, k = wp.tid()
    f = face[view, row, column]
    value = wp.float32(0.0)
    if f >= 0 and f < faces.shape[0]:
        corners = faces[f]
        weights = barycentric[view, row, column]
        for i in range(3):
            value += weights[i] * attributes[corners[i], k]
    out[view, row, column, k] = value


@wp.kernel
def _interpolate_backward(
    attributes: _Table,
    faces: _Faces,
    face: _Ints,
    barycentric: _Vectors,
    d_out: _Pictures,
    d_attributes: _Table,
    d_barycentric: _Vectors,
):
    view, row, column = wp.tid()
    f = face[view, row, column]
    d_weights = wp.vec3()
    if f >= 0 and f < faces.shape[0]:
        corners = faces[f]
        weights = barycentric[view, row, column]
        for k in range(attributes.shape[1]):
            given = d_out[view, row, column, k]
            for i in range(3):
                wp.atomic_add(d_attributes, corners[i], k, weights[i] * given)
            d_weights += given * wp.vec3(
                attributes[corners[0], k], attributes[corners[1], k], attributes[corners[2], k]
            )
    d_barycentric[view, row, column] = d_weights


class Interpolate(torch.autograd.Function):
    """Interpolate vertex attributes (V, C) at every pixel: (B, H, W, C)."""

    @staticmethod
    def forward(ctx: Any, attributes: Tensor, barycentric: Tensor, faces: Tensor, face: Tensor) -> Tensor:
        """barycentric: (B, H, W, 3). faces: (F, 3) int32. face: (B, H, W) int32."""
        attributes, barycentric = attributes.detach().contiguous(), barycentric.detach().contiguous()
        out = attributes.new_empty(*face.shape, attributes.shape[1])
        launch(_interpolate, out.shape, attributes, faces, face, barycentric, out)
        ctx.save_for_backward(attributes, faces, face, barycentric)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the attributes and the barycentrics."""
        attributes, faces, face, barycentric = ctx.saved_tensors
        results = torch.zeros_like(attributes), torch.empty_like(barycentric)
        given = gradients[0].contiguous()
        launch(_interpolate_backward, face.shape, attributes, faces, face, barycentric, given, *results)
        return *results, None, None
