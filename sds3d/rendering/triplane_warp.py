"""Sums of bilinear look-ups in three feature planes with NVIDIA Warp, forward and backward.

The rules are those of `triplane_numba`. A thread takes a channel of a point, so that neighbours read neighbouring
addresses. In the backward pass threads add to the planes' gradient by atomics, on the CPU in a fixed order.
"""

# Kernels are Warp's language: pyright reads them as Python and finds errors where there are none.
# pyright: reportInvalidTypeForm=false, reportMissingImports=false, reportOperatorIssue=false
# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# pyright: reportCallIssue=false, reportIndexIssue=false, reportAttributeAccessIssue=false

from typing import Any

import torch
import warp as wp
from torch import Tensor

from sds3d.rendering.launch_warp import launch

wp.set_module_options({"enable_backward": False})

_Planes = wp.array4d(dtype=wp.float32)  # (3, N, N, C)


@wp.func
def _axes(plane: wp.int32):
    """Return the coordinates that index a plane's rows and columns; see `triplane_numba.AXES`."""
    return wp.where(plane == 2, 1, 0), wp.where(plane == 0, 1, 2)


@wp.func
def _scaled(place: wp.float32, size: wp.int32):
    return wp.clamp(place, 0.0, 1.0) * wp.float32(size - 1)


@wp.func
def _cell(scaled: wp.float32, size: wp.int32):
    return wp.clamp(wp.int32(scaled), 0, size - 2)  # NaN also gives a valid cell


@wp.kernel
def _encode(points: wp.array(dtype=wp.vec3), planes: _Planes, out: wp.array2d(dtype=wp.float32)):
    p, k = wp.tid()
    size = planes.shape[1]
    total = wp.float32(0.0)
    for plane in range(3):
        u, v = _axes(plane)
        su = _scaled(points[p][u], size)
        sv = _scaled(points[p][v], size)
        iu = _cell(su, size)
        iv = _cell(sv, size)
        fu = su - wp.float32(iu)
        fv = sv - wp.float32(iv)
        total += (1.0 - fu) * (1.0 - fv) * planes[plane, iu, iv, k]
        total += (1.0 - fu) * fv * planes[plane, iu, iv + 1, k]
        total += fu * (1.0 - fv) * planes[plane, iu + 1, iv, k]
        total += fu * fv * planes[plane, iu + 1, iv + 1, k]
    out[p, k] = total


@wp.kernel
def _scatter(points: wp.array(dtype=wp.vec3), d_out: wp.array2d(dtype=wp.float32), gradient: _Planes):
    p, k = wp.tid()
    size = gradient.shape[1]
    given = d_out[p, k]
    for plane in range(3):
        u, v = _axes(plane)
        su = _scaled(points[p][u], size)
        sv = _scaled(points[p][v], size)
        iu = _cell(su, size)
        iv = _cell(sv, size)
        fu = su - wp.float32(iu)
        fv = sv - wp.float32(iv)
        wp.atomic_add(gradient, plane, iu, iv, k, (1.0 - fu) * (1.0 - fv) * given)
        wp.atomic_add(gradient, plane, iu, iv + 1, k, (1.0 - fu) * fv * given)
        wp.atomic_add(gradient, plane, iu + 1, iv, k, fu * (1.0 - fv) * given)
        wp.atomic_add(gradient, plane, iu + 1, iv + 1, k, fu * fv * given)


# ---- torch ----


class TriplaneEncode(torch.autograd.Function):
    """Encode points (P, 3) by planes (3, N, N, C): features (P, C), like `triplane_numba.encode`. All float32.

    Differentiable in the planes.
    """

    @staticmethod
    def forward(ctx: Any, points: Tensor, planes: Tensor) -> Tensor:
        """See the class."""
        points, planes = points.detach().contiguous(), planes.detach().contiguous()
        out = points.new_empty(len(points), planes.shape[3])
        launch(_encode, out.shape, points, planes, out)
        ctx.save_for_backward(points)
        ctx.shape = planes.shape
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the planes."""
        (points,) = ctx.saved_tensors
        d_out, gradient = gradients[0].contiguous(), points.new_zeros(ctx.shape)
        launch(_scatter, d_out.shape, points, d_out, gradient)
        return None, gradient
