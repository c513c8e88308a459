"""Splatting with NVIDIA Warp, step 1 of 2: project Gaussians, with an analytic backward pass.

The formulas are those of `splatting._project_reference`. In the forward pass a thread takes a Gaussian in a picture. In
the backward pass it takes a Gaussian in all pictures, so sums need no atomics and their order is fixed.
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

_MARGIN = 0.15  # fraction of the picture beyond its edge where the Jacobian is clamped
_FAR = 1e6  # pixels; radii are clamped to it


@wp.struct
class Camera:
    """A picture's size in pixels, near and far planes in metres, blur in pixels^2 and the radius left out in pixels."""

    width: wp.float32
    height: wp.float32
    near: wp.float32
    far: wp.float32
    blur: wp.float32
    radius_clip: wp.float32


@wp.struct
class _Seen:
    """A Gaussian in a picture.

    at: its centre in the camera's frame. slope: x / z and y / z, clamped. free: 1 where the slope is not clamped.
    focal: focal lengths / z. rotation: of the camera. axes_z: depth of the Gaussian's three axes.
    p, q: x and y of its axes in the picture. xx, xy, yy: covariance before the blur, pixels^2.
    """

    at: wp.vec3
    slope: wp.vec2
    free: wp.vec2
    focal: wp.vec2
    rotation: wp.mat33
    axes_z: wp.vec3
    p: wp.vec3
    q: wp.vec3
    xx: wp.float32
    xy: wp.float32
    yy: wp.float32


@wp.func
def _rotation(unit: wp.vec4):
    """Return the rotation matrix of a unit quaternion w, x, y, z."""
    w = unit[0]
    x = unit[1]
    y = unit[2]
    z = unit[3]
    return wp.mat33(
        1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y - w * z), 2.0 * (x * z + w * y),
        2.0 * (x * y + w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z - w * x),
        2.0 * (x * z - w * y), 2.0 * (y * z + w * x), 1.0 - 2.0 * (x * x + y * y),
    )  # fmt: skip


@wp.func
def _row(matrix: wp.mat33, i: int):
    return wp.vec3(matrix[i, 0], matrix[i, 1], matrix[i, 2])


@wp.func
def _clamped(slope: wp.float32, focal: wp.float32, center: wp.float32, extent: wp.float32):
    """Clamp a slope to what is seen up to a margin beyond the picture's edge."""
    margin = _MARGIN * extent
    return wp.clamp(slope, -(center + margin) / focal, (extent - center + margin) / focal)


@wp.func
def _see(mean: wp.vec3, own_axes: wp.mat33, view: wp.mat44, intrinsics: wp.mat33, camera: Camera):
    """Project a Gaussian. own_axes: the columns are its axes in the world, one standard deviation long."""
    seen = _Seen()
    seen.rotation = wp.mat33(
        view[0, 0], view[0, 1], view[0, 2],
        view[1, 0], view[1, 1], view[1, 2],
        view[2, 0], view[2, 1], view[2, 2],
    )  # fmt: skip
    at = seen.rotation @ mean + wp.vec3(view[0, 3], view[1, 3], view[2, 3])
    seen.at = at
    seen.focal = wp.vec2(intrinsics[0, 0] / at[2], intrinsics[1, 1] / at[2])
    slope = wp.vec2(at[0] / at[2], at[1] / at[2])
    seen.slope = wp.vec2(
        _clamped(slope[0], intrinsics[0, 0], intrinsics[0, 2], camera.width),
        _clamped(slope[1], intrinsics[1, 1], intrinsics[1, 2], camera.height),
    )
    seen.free = wp.vec2(wp.where(slope[0] == seen.slope[0], 1.0, 0.0), wp.where(slope[1] == seen.slope[1], 1.0, 0.0))
    axes = seen.rotation @ own_axes
    seen.axes_z = _row(axes, 2)
    seen.p = seen.focal[0] * (_row(axes, 0) - seen.slope[0] * seen.axes_z)
    seen.q = seen.focal[1] * (_row(axes, 1) - seen.slope[1] * seen.axes_z)
    seen.xx = wp.dot(seen.p, seen.p)
    seen.xy = wp.dot(seen.p, seen.q)
    seen.yy = wp.dot(seen.q, seen.q)
    return seen


@wp.kernel
def _project(
    means: wp.array(dtype=wp.vec3),
    quats: wp.array(dtype=wp.vec4),
    scales: wp.array(dtype=wp.vec3),
    opacities: wp.array(dtype=wp.float32),
    views: wp.array(dtype=wp.mat44),
    intrinsics: wp.array(dtype=wp.mat33),
    camera: Camera,
    means2d: wp.array2d(dtype=wp.vec2),
    depths: wp.array2d(dtype=wp.float32),
    conics: wp.array2d(dtype=wp.vec3),
    compensations: wp.array2d(dtype=wp.float32),
    radii: wp.array2d(dtype=wp.vec2i),
):
    c, i = wp.tid()
    unit = quats[i] / wp.max(wp.length(quats[i]), 1e-12)  # wp.normalize would hide NaN
    axes = _rotation(unit) @ wp.diag(scales[i])
    seen = _see(means[i], axes, views[c], intrinsics[c], camera)
    xx = seen.xx + camera.blur
    yy = seen.yy + camera.blur
    determinant = xx * yy - seen.xy * seen.xy
    x = seen.focal[0] * seen.at[0] + intrinsics[c][0, 2]
    y = seen.focal[1] * seen.at[1] + intrinsics[c][1, 2]
    # How far from its mean a Gaussian reaches alpha = 1/255, in standard deviations.
    reach = wp.sqrt(wp.max(2.0 * wp.log(wp.max(opacities[i] * 255.0, 1e-6)), 0.0))
    rx = wp.ceil(reach * wp.sqrt(xx))
    ry = wp.ceil(reach * wp.sqrt(yy))
    z = seen.at[2]
    depths[c, i] = z
    # These comparisons also leave out NaN.
    visible = z > camera.near and z < camera.far and determinant > 0.0 and reach > 0.0
    visible = visible and wp.max(rx, ry) > camera.radius_clip
    visible = visible and x + rx > 0.0 and x - rx < camera.width and y + ry > 0.0 and y - ry < camera.height
    if visible:
        means2d[c, i] = wp.vec2(x, y)
        conics[c, i] = wp.vec3(yy, -seen.xy, xx) / determinant
        sharp = seen.xx * seen.yy - seen.xy * seen.xy
        compensations[c, i] = wp.sqrt(wp.max(sharp / determinant, 0.0))
        radii[c, i] = wp.vec2i(wp.int32(wp.min(rx, _FAR)), wp.int32(wp.min(ry, _FAR)))
    else:
        means2d[c, i] = wp.vec2()
        conics[c, i] = wp.vec3()
        compensations[c, i] = 0.0
        radii[c, i] = wp.vec2i()


@wp.func
def _covariance_gradient(
    seen: _Seen,
    blur: wp.float32,
    conic: wp.vec3,
    d_conic: wp.vec3,
    compensation: wp.float32,
    d_compensation: wp.float32,
):
    """Return d loss / d (xx, xy, yy), given those in the conic and in the compensation."""
    inverse = wp.mat22(conic[0], conic[1], conic[1], conic[2])
    given = wp.mat22(d_conic[0], 0.5 * d_conic[1], 0.5 * d_conic[1], d_conic[2])
    through = inverse @ given @ inverse  # d loss / d covariance = -conic (d loss / d conic) conic
    result = wp.vec3(-through[0, 0], -through[0, 1] - through[1, 0], -through[1, 1])
    if d_compensation != 0.0 and compensation > 0.0:
        # compensation^2 = det(covariance before the blur) / det(covariance after it)
        xx = seen.xx + blur
        yy = seen.yy + blur
        ratio = compensation * compensation
        h = 0.5 * d_compensation / (compensation * (xx * yy - seen.xy * seen.xy))
        result += h * wp.vec3(seen.yy - ratio * yy, 2.0 * (ratio - 1.0) * seen.xy, seen.xx - ratio * xx)
    return result


@wp.kernel
def _project_backward(
    means: wp.array(dtype=wp.vec3),
    quats: wp.array(dtype=wp.vec4),
    scales: wp.array(dtype=wp.vec3),
    views: wp.array(dtype=wp.mat44),
    intrinsics: wp.array(dtype=wp.mat33),
    camera: Camera,
    conics: wp.array2d(dtype=wp.vec3),
    compensations: wp.array2d(dtype=wp.float32),
    d_means2d: wp.array2d(dtype=wp.vec2),
    d_depths: wp.array2d(dtype=wp.float32),
    d_conics: wp.array2d(dtype=wp.vec3),
    d_compensations: wp.array2d(dtype=wp.float32),
    d_means: wp.array(dtype=wp.vec3),
    d_quats: wp.array(dtype=wp.vec4),
    d_scales: wp.array(dtype=wp.vec3),
):
    i = wp.tid()
    norm = wp.max(wp.length(quats[i]), 1e-12)
    unit = quats[i] / norm
    rotation = _rotation(unit)
    scale = scales[i]
    own_axes = rotation @ wp.diag(scale)
    d_mean = wp.vec3()
    d_axes = wp.mat33()
    for c in range(views.shape[0]):
        if conics[c, i][0] > 0.0:
            seen = _see(means[i], own_axes, views[c], intrinsics[c], camera)
            g = _covariance_gradient(
                seen, camera.blur, conics[c, i], d_conics[c, i], compensations[c, i], d_compensations[c, i]
            )
            # p = focal_x (axes_x - slope_x axes_z), and q likewise; xx = p p, xy = p q, yy = q q.
            dp = 2.0 * g[0] * seen.p + g[1] * seen.q
            dq = 2.0 * g[2] * seen.q + g[1] * seen.p
            dx = seen.focal[0] * dp  # d loss / d axes_x
            dy = seen.focal[1] * dq
            dz = -(seen.slope[0] * dx + seen.slope[1] * dy)
            d_axes += wp.transpose(seen.rotation) @ wp.matrix_from_rows(dx, dy, dz)
            # The mean moves the point in the picture, focal / z, and the slopes where they are not clamped.
            z = seen.at[2]
            d_x = seen.focal[0] * d_means2d[c, i][0]
            d_y = seen.focal[1] * d_means2d[c, i][1]
            d_z = d_depths[c, i] - (seen.at[0] * d_x + seen.at[1] * d_y + wp.dot(dp, seen.p) + wp.dot(dq, seen.q)) / z
            along_x = -seen.free[0] * wp.dot(dx, seen.axes_z) / z
            along_y = -seen.free[1] * wp.dot(dy, seen.axes_z) / z
            d_at = wp.vec3(d_x + along_x, d_y + along_y, d_z - seen.slope[0] * along_x - seen.slope[1] * along_y)
            d_mean += wp.transpose(seen.rotation) @ d_at
    d_means[i] = d_mean
    in_own_axes = wp.transpose(rotation) @ d_axes
    d_scales[i] = wp.vec3(in_own_axes[0, 0], in_own_axes[1, 1], in_own_axes[2, 2])
    m = d_axes @ wp.diag(scale)  # d loss / d rotation
    w = unit[0]
    x = unit[1]
    y = unit[2]
    z = unit[3]
    d_unit = 2.0 * wp.vec4(
        x * (m[2, 1] - m[1, 2]) + y * (m[0, 2] - m[2, 0]) + z * (m[1, 0] - m[0, 1]),
        y * (m[0, 1] + m[1, 0]) + z * (m[0, 2] + m[2, 0]) + w * (m[2, 1] - m[1, 2]) - 2.0 * x * (m[1, 1] + m[2, 2]),
        x * (m[0, 1] + m[1, 0]) + z * (m[1, 2] + m[2, 1]) + w * (m[0, 2] - m[2, 0]) - 2.0 * y * (m[0, 0] + m[2, 2]),
        x * (m[0, 2] + m[2, 0]) + y * (m[1, 2] + m[2, 1]) + w * (m[1, 0] - m[0, 1]) - 2.0 * z * (m[0, 0] + m[1, 1]),
    )
    # The quaternion's length does not matter: remove the gradient along it.
    d_quats[i] = (d_unit - wp.dot(d_unit, unit) * unit) / norm


# ---- torch ----


class Project(torch.autograd.Function):
    """Project N Gaussians into C pinhole cameras, like `splatting_projection_numba.project`.

    Takes means (N, 3), quats (N, 4), scales (N, 3), opacities (N,), viewmats (C, 4, 4), intrinsics (C, 3, 3) and the
    camera's numbers, all float32. Returns means2d (C, N, 2), depths (C, N), conics (C, N, 3), compensations (C, N) and
    radii (C, N, 2) int32. Differentiable in means, quats and scales.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        """See the class. The last input is a tuple: width, height, near, far, blur, radius_clip."""
        *tensors, numbers = inputs
        means, quats, scales, opacities, views, intrinsics = (tensor.float().contiguous() for tensor in tensors)
        size = (len(views), len(means))
        outputs = (
            means.new_empty(*size, 2),
            means.new_empty(size),
            means.new_empty(*size, 3),
            means.new_empty(size),
            means.new_empty(*size, 2, dtype=torch.int32),
        )
        camera = _camera(numbers)
        launch(_project, size, means, quats, scales, opacities, views, intrinsics, camera, *outputs)
        ctx.save_for_backward(means, quats, scales, views, intrinsics, outputs[2], outputs[3])
        ctx.numbers = numbers
        ctx.mark_non_differentiable(outputs[4])
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of means, quats and scales."""
        *inputs, conics, compensations = ctx.saved_tensors
        results = [torch.empty_like(tensor) for tensor in inputs[:3]]
        given = (gradient.contiguous() for gradient in gradients[:4])
        camera = _camera(ctx.numbers)
        launch(_project_backward, len(inputs[0]), *inputs, camera, conics, compensations, *given, *results)
        return (*results, None, None, None, None)


def _camera(numbers: tuple[float, ...]) -> Any:
    camera = Camera()
    camera.width, camera.height, camera.near, camera.far, camera.blur, camera.radius_clip = numbers
    return camera
