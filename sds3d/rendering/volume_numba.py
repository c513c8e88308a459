"""Volume rendering of a dense grid on the CPU: forward, analytic backward, distances to matter, smoothness.

The grid is a flat float32 array of N^3 voxels with four channels each (density, red, green, blue), x slowest and z
fastest. The two ends of a cell's edge along z are then one vector of eight floats, and a trilinear look-up is four
vector loads and seven vector multiply-adds. Kernels release the GIL and run on plain Python threads. This needs no
threading layer and lets a viewer render while the training loop runs.

Rays stop where their transmittance falls below `MIN_TRANSMITTANCE`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numpy.typing import NDArray

from sds3d.compiled import njit
from sds3d.rendering.llvm import FLOAT, FLOAT8, add, broadcast, lane, lanes, mul, sub
from sds3d.rendering.simd import exp_minus, inlined
from sds3d.rendering.threads import parallel, threads

MIN_TRANSMITTANCE = 1e-4
MAX_SKIP = 12
"""Longest distance to the nearest occupied cell, in cells, that is stored. Larger distances are clamped to it."""

FloatArray = NDArray[np.float32]

_TINY = np.float32(1e-7)
_SHORTEST = np.float32(1e-6)  # metres of a ray in the cube; shorter ones miss it
_BLOCK = 32  # rays that one thread takes at a time: few, so that threads share the object's pixels evenly
_ZERO, _ONE, _MIN_T = np.float32(0), np.float32(1), np.float32(MIN_TRANSMITTANCE)
_CAUTION = np.float32(0.999)  # shortens leaps, so that rounding cannot skip an occupied cell

# ---- the cell of a sample as vectors of eight floats: (density, r, g, b) at its lower z, then at its upper z ----


def _edge_pointers(context: Any, builder: Any, array_type: Any, array: Any, size: Any, voxel: Any) -> list[Any]:
    """Return pointers to the cell's four z-edges, in the order (x, y), (x, y+1), (x+1, y), (x+1, y+1)."""
    data = context.make_array(array_type)(context, builder, array).data
    row = builder.shl(size, ir.Constant(size.type, 2))
    slab = builder.mul(row, size)
    base = builder.shl(voxel, ir.Constant(voxel.type, 2))
    offsets = [base, builder.add(base, row), builder.add(base, slab), builder.add(builder.add(base, slab), row)]
    return [builder.bitcast(builder.gep(data, [offset]), FLOAT8.as_pointer()) for offset in offsets]


@inlined
def _trilinear(typing_context, grid, size, voxel, fx, fy, fz):
    """Return (density, r, g, b, d density/dx, /dy, /dz) at fractions (fx, fy, fz) of the cell at `voxel`, in cells."""
    result = types.UniTuple(types.float32, 7)
    signature = result(grid, types.int64, types.int64, types.float32, types.float32, types.float32)

    def codegen(context, builder, signature, arguments):
        array, size, voxel, *fractions = arguments
        fx, fy, fz = (broadcast(builder, fraction) for fraction in fractions)
        pointers = _edge_pointers(context, builder, signature.args[0], array, size, voxel)
        v00, v01, v10, v11 = (builder.load(pointer, align=4) for pointer in pointers)
        dy0, dy1 = sub(builder, v01, v00), sub(builder, v11, v10)
        low, high = add(builder, v00, mul(builder, fy, dy0)), add(builder, v10, mul(builder, fy, dy1))
        dx = sub(builder, high, low)
        middle = add(builder, low, mul(builder, fx, dx))
        dy = add(builder, dy0, mul(builder, fx, sub(builder, dy1, dy0)))
        near, far = lanes(builder, middle, (0, 1, 2, 3)), lanes(builder, middle, (4, 5, 6, 7))
        dz = sub(builder, far, near)
        value = add(builder, near, mul(builder, lanes(builder, fz, (0, 1, 2, 3)), dz))
        outputs = [lane(builder, value, i) for i in range(4)]
        for slope in (dx, dy):
            start, end = lane(builder, slope, 0), lane(builder, slope, 4)
            outputs.append(add(builder, start, mul(builder, fractions[2], sub(builder, end, start))))
        outputs.append(lane(builder, dz, 0))
        return cgutils.pack_array(builder, outputs)

    return signature, codegen


@inlined
def _scatter(typing_context, gradient, size, voxel, fx, fy, fz, g0, g1, g2, g3):
    """Add the gradient (g0, g1, g2, g3) of a trilinear look-up to the eight corners of its cell."""
    signature = types.void(gradient, types.int64, types.int64, *[types.float32] * 7)

    def codegen(context, builder, signature, arguments):
        array, size, voxel, fx, fy, fz, *channels = arguments
        one = ir.Constant(FLOAT, 1.0)
        four = ir.Constant(ir.VectorType(FLOAT, 4), ir.Undefined)
        for i, channel in enumerate(channels):
            four = builder.insert_element(four, channel, ir.Constant(ir.IntType(32), i))
        far = mul(builder, four, broadcast(builder, fz, 4))
        near = sub(builder, four, far)
        mask = ir.Constant(ir.VectorType(ir.IntType(32), 8), list(range(8)))
        edge = builder.shuffle_vector(near, far, mask)
        ex, ey = sub(builder, one, fx), sub(builder, one, fy)
        pointers = _edge_pointers(context, builder, signature.args[0], array, size, voxel)
        for pointer, wx, wy in zip(pointers, (ex, ex, fx, fx), (ey, fy, ey, fy), strict=True):
            weight = broadcast(builder, mul(builder, wx, wy))
            total = add(builder, builder.load(pointer, align=4), mul(builder, weight, edge))
            builder.store(total, pointer, align=4)
        return context.get_dummy_value()

    return signature, codegen


# ---- rays ----


@njit(inline="always", error_model="numpy")
def _clamp(value: Any, top: Any) -> Any:
    return min(max(value, 0), top)


# Without fastmath: the result is that of plain torch, bit for bit.
@njit(nogil=True, cache=True, error_model="numpy")
def _sample(
    thread, n_threads, origins, directions, bound, scale, density, starts, slopes, near, step, steps,
):  # fmt: skip
    for block in range(thread, (near.size + _BLOCK - 1) // _BLOCK, n_threads):
        for ray in range(block * _BLOCK, min((block + 1) * _BLOCK, near.size)):
            enter, leave, total = _ZERO, np.float32(np.inf), _ZERO
            for axis in range(3):
                origin, direction = origins[ray, axis], directions[ray, axis]
                starts[ray, axis], slopes[ray, axis] = (origin + bound) * scale, direction * scale
                safe = _TINY if abs(direction) < _TINY else direction
                low, high = (-bound - origin) / safe, (bound - origin) / safe
                enter, leave = max(enter, min(low, high)), min(leave, max(low, high))
                total += low + high
            length = leave - enter
            if length > _SHORTEST and total - total == 0:  # False for NaN and infinity
                count = np.ceil(length * density)
                near[ray], step[ray], steps[ray] = enter, length / max(count, _ONE), np.int32(count)
            else:
                near[ray], step[ray], steps[ray] = _ZERO, _ZERO, 0


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "nsz", "arcp", "afn"})
def _forward(
    thread, n_threads, grid, size, scale, skip, starts, slopes, near, step, steps, jitter,
    rgb, alpha, depth, normal, depth_square, span,
):  # fmt: skip
    top = size - 2
    for block in range(thread, (near.size + _BLOCK - 1) // _BLOCK, n_threads):
        for ray in range(block * _BLOCK, min((block + 1) * _BLOCK, near.size)):
            ax, ay, az = starts[ray, 0], starts[ray, 1], starts[ray, 2]
            bx, by, bz = slopes[ray, 0], slopes[ray, 1], slopes[ray, 2]
            t0, dt, u, n = near[ray], step[ray], jitter[ray], steps[ray]
            leap = _CAUTION / (dt * max(abs(bx), abs(by), abs(bz)))  # samples per cell along the steepest axis
            transmittance = _ONE
            red, green, blue, nx, ny, nz = _ZERO, _ZERO, _ZERO, _ZERO, _ZERO, _ZERO
            reach, square = _ZERO, _ZERO
            first, last, i = n, 0, 0
            while i < n:
                t = t0 + (np.float32(i) + u) * dt
                gx, gy, gz = ax + t * bx, ay + t * by, az + t * bz
                ix, iy, iz = _clamp(np.int64(gx), top), _clamp(np.int64(gy), top), _clamp(np.int64(gz), top)
                voxel = (ix * size + iy) * size + iz
                empty = skip[np.uint64(voxel)]
                if empty > 0:
                    i += 1 + np.int64(np.float32(empty - 1) * leap)
                    continue
                fx, fy, fz = gx - np.float32(ix), gy - np.float32(iy), gz - np.float32(iz)
                s, r, g, b, dx, dy, dz = _trilinear(grid, size, voxel, fx, fy, fz)
                after = transmittance * exp_minus(s * dt)
                w = transmittance - after
                transmittance = after
                red, green, blue = red + w * r, green + w * g, blue + w * b
                reach, square = reach + w * t, square + w * t * t
                nx, ny, nz = nx - w * dx, ny - w * dy, nz - w * dz
                first = min(first, i)
                i += 1
                last = i
                if not transmittance > _MIN_T:
                    break
            rgb[ray, 0], rgb[ray, 1], rgb[ray, 2] = red, green, blue
            alpha[ray], depth[ray], depth_square[ray] = _ONE - transmittance, reach, square
            normal[ray, 0], normal[ray, 1], normal[ray, 2] = nx * scale, ny * scale, nz * scale
            span[ray, 0], span[ray, 1] = first, last


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "nsz", "arcp", "afn"})
def _backward(
    thread, n_threads, grid, size, scale, skip, starts, slopes, near, step, jitter,
    rgb, alpha, depth, normal, depth_square, span,
    d_rgb, d_alpha, d_depth, d_normal, d_depth_square, with_geometry, buffers,
):  # fmt: skip
    top = size - 2
    buffer = buffers[thread]
    for block in range(thread, (near.size + _BLOCK - 1) // _BLOCK, n_threads):
        for ray in range(block * _BLOCK, min((block + 1) * _BLOCK, near.size)):
            i, end = span[ray, 0], span[ray, 1]
            if i >= end:
                continue
            ax, ay, az = starts[ray, 0], starts[ray, 1], starts[ray, 2]
            bx, by, bz = slopes[ray, 0], slopes[ray, 1], slopes[ray, 2]
            t0, dt, u = near[ray], step[ray], jitter[ray]
            leap = _CAUTION / (dt * max(abs(bx), abs(by), abs(bz)))
            h0, h1, h2 = d_rgb[ray, 0], d_rgb[ray, 1], d_rgb[ray, 2]
            through = d_alpha[ray] * (_ONE - alpha[ray])
            # Contribution of the remaining samples to the loss, which is linear in the weights.
            rest = rgb[ray, 0] * h0 + rgb[ray, 1] * h1 + rgb[ray, 2] * h2
            hd, hs, hx, hy, hz = _ZERO, _ZERO, _ZERO, _ZERO, _ZERO
            if with_geometry:
                hd, hs = d_depth[ray], d_depth_square[ray]
                hx, hy, hz = d_normal[ray, 0] * scale, d_normal[ray, 1] * scale, d_normal[ray, 2] * scale
                rest += depth[ray] * hd + depth_square[ray] * hs
                rest += normal[ray, 0] * d_normal[ray, 0]
                rest += normal[ray, 1] * d_normal[ray, 1]
                rest += normal[ray, 2] * d_normal[ray, 2]
            transmittance = _ONE
            while i < end:
                t = t0 + (np.float32(i) + u) * dt
                gx, gy, gz = ax + t * bx, ay + t * by, az + t * bz
                ix, iy, iz = _clamp(np.int64(gx), top), _clamp(np.int64(gy), top), _clamp(np.int64(gz), top)
                voxel = (ix * size + iy) * size + iz
                empty = skip[np.uint64(voxel)]
                if empty > 0:
                    i += 1 + np.int64(np.float32(empty - 1) * leap)
                    continue
                fx, fy, fz = gx - np.float32(ix), gy - np.float32(iy), gz - np.float32(iz)
                s, r, g, b, dx, dy, dz = _trilinear(grid, size, voxel, fx, fy, fz)
                after = transmittance * exp_minus(s * dt)
                w = transmittance - after
                transmittance = after
                value = r * h0 + g * h1 + b * h2
                if with_geometry:
                    value += t * (hd + t * hs) - (dx * hx + dy * hy + dz * hz)
                rest -= w * value
                ds = dt * (after * value - rest + through)
                _scatter(buffer, size, voxel, fx, fy, fz, ds, w * h0, w * h1, w * h2)
                if with_geometry:
                    # The normal also depends on the density's slopes, through derivatives of the trilinear weights.
                    for corner in range(8):
                        cx, cy, cz = corner >> 2, (corner >> 1) & 1, corner & 1
                        wx, sx = (fx, _ONE) if cx else (_ONE - fx, -_ONE)
                        wy, sy = (fy, _ONE) if cy else (_ONE - fy, -_ONE)
                        wz, sz = (fz, _ONE) if cz else (_ONE - fz, -_ONE)
                        slope = hx * sx * wy * wz + hy * wx * sy * wz + hz * wx * wy * sz
                        buffer[4 * (voxel + (cx * size + cy) * size + cz)] -= w * slope
                i += 1


@njit(nogil=True, cache=True, error_model="numpy")
def _reduce(thread, n_threads, buffers, size, skip, gradient):
    """Sum the threads' buffers over rows of voxels that touch an occupied cell. The other rows are 0."""
    row = 4 * size
    for x in range(thread, size, n_threads):
        for y in range(size):
            touched = False
            for cx in range(max(x - 1, 0), x + 1):
                for cy in range(max(y - 1, 0), y + 1):
                    start = (cx * size + cy) * size
                    touched = touched or skip[start : start + size].min() == 0
            if touched:
                start = (x * size + y) * row
                for k in range(start, start + row):
                    total = buffers[0, k]
                    for other in range(1, buffers.shape[0]):
                        total += buffers[other, k]
                    gradient[k] = total


def sample(origins: FloatArray, directions: FloatArray, bound: float, scale: float, density: float) -> tuple[Any, ...]:
    """Cut rays (R, 3) in the cube [-bound, bound]^3 into steps; see `sds3d.rendering.volume.sample_rays`.

    scale: voxels per metre. density: steps per metre. Returns starts and slopes (R, 3), near and step (R,), and steps
    (R,) int32.
    """
    n = len(origins)
    outputs = (np.empty((n, 3), np.float32), np.empty((n, 3), np.float32), np.empty(n, np.float32))
    outputs += (np.empty(n, np.float32), np.empty(n, np.int32))
    parallel(_sample, origins, directions, np.float32(bound), np.float32(scale), np.float32(density), *outputs)
    return outputs


def forward(grid: FloatArray, skip: NDArray[np.uint8], scale: float, rays: tuple[NDArray[Any], ...]) -> tuple[Any, ...]:
    """Render R rays through a grid (N, N, N, 4).

    skip: (N, N, N) uint8 from `empty_distance`. scale: voxels per metre.
    rays: starts and slopes (R, 3) in voxels and voxels per metre, near and step (R,) in metres, steps (R,) int32,
    jitter (R,).
    Returns premultiplied rgb (R, 3), alpha (R,), depth (R,), the weighted negative gradient of the density (R, 3), the
    weighted squared depth (R,), and for `backward` the range of samples that counted, (R, 2) int32.
    """
    n = rays[2].size
    rgb, normal = np.empty((n, 3), np.float32), np.empty((n, 3), np.float32)
    alpha, depth, depth_square = (np.empty(n, np.float32) for _ in range(3))
    outputs = (rgb, alpha, depth, normal, depth_square, np.empty((n, 2), np.int32))
    size = grid.shape[0]
    parallel(_forward, grid.reshape(-1), size, np.float32(scale), skip.reshape(-1), *rays, *outputs)
    return outputs


def backward(
    grid: FloatArray,
    skip: NDArray[np.uint8],
    scale: float,
    rays: tuple[NDArray[Any], ...],
    outputs: tuple[Any, ...],
    gradients: Sequence[FloatArray | None],
) -> FloatArray:
    """Return the gradient (N, N, N, 4) of a loss, given its gradients in the five pictures (None for zero).

    outputs: as returned by `forward` for the other arguments. Bit-identical for the same number of threads.
    """
    starts, slopes, near, step, _, jitter = rays
    d_outputs = (
        np.zeros_like(output) if gradient is None else np.ascontiguousarray(gradient, np.float32)
        for output, gradient in zip(outputs[:5], gradients, strict=True)
    )
    with_geometry = any(gradient is not None for gradient in gradients[2:])
    buffers = np.zeros((threads(), grid.size), np.float32)
    size = grid.shape[0]
    parallel(
        _backward, grid.reshape(-1), size, np.float32(scale), skip.reshape(-1), starts, slopes, near, step, jitter,
        *outputs, *d_outputs, with_geometry, buffers,
    )  # fmt: skip
    if len(buffers) == 1:
        return buffers[0].reshape(grid.shape)
    gradient = np.zeros(grid.size, np.float32)
    parallel(_reduce, buffers, size, skip.reshape(-1), gradient)
    return gradient.reshape(grid.shape)


# ---- empty space ----


@njit(nogil=True, cache=True, error_model="numpy")
def _spread(lines, distance):
    """Spread distances (n, n) to neighbouring lines: the least max(offset, distance within the other line)."""
    lines[:] = distance
    n = distance.shape[0]
    for line in range(n):
        for other in range(max(line - MAX_SKIP + 1, 0), min(line + MAX_SKIP, n)):
            offset = np.uint8(abs(other - line))
            for z in range(n):
                distance[line, z] = min(distance[line, z], max(lines[other, z], offset))


@njit(nogil=True, cache=True, error_model="numpy")
def _empty_distance(density, threshold, distance):
    n = distance.shape[0]
    free = np.empty(n + 1, np.bool_)
    for x in range(n):
        for y in range(n):
            for z in range(n + 1):
                top = max(density[x, y, z], density[x, y + 1, z])
                top = max(top, density[x + 1, y, z], density[x + 1, y + 1, z])
                free[z] = top < threshold
            line = distance[x, y]
            for z in range(n):
                line[z] = np.uint8(MAX_SKIP) if free[z] and free[z + 1] else np.uint8(0)
            for z in range(1, n):
                line[z] = min(line[z], np.uint8(line[z - 1] + 1))
            for z in range(n - 2, -1, -1):
                line[z] = min(line[z], np.uint8(line[z + 1] + 1))
    lines = np.empty((n, n), np.uint8)
    for x in range(n):
        _spread(lines, distance[x])
    for y in range(n):
        _spread(lines, distance[:, y])


def empty_distance(density: FloatArray, threshold: float) -> NDArray[np.uint8]:
    """Return the Chebyshev distance in cells, at most `MAX_SKIP`, to the nearest occupied cell: (N, N, N) uint8.

    density: (N, N, N). Cell [x, y, z] is between voxels [x, y, z] and [x + 1, y + 1, z + 1]. It is occupied (0) if the
    density at a corner reaches `threshold`. The last layer of each axis is not a cell and holds MAX_SKIP.
    """
    distance = np.full(density.shape, MAX_SKIP, np.uint8)
    _empty_distance(np.ascontiguousarray(density, np.float32), np.float32(threshold), distance[:-1, :-1, :-1])
    return distance


# ---- smoothness ----


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "nsz", "arcp", "reassoc"})
def _smoothness(thread, n_threads, values, channels, weight, gradient, sums):
    n = values.shape[0]
    width = values.shape[2]
    twice = np.float32(2) * weight
    for x in range(thread, n, n_threads):
        total = 0.0
        for y in range(n):
            here, out = values[x, y], gradient[x, y]
            part = _ZERO
            out[:] = _ZERO
            for other_x, other_y, mine in ((x + 1, y, True), (x, y + 1, True), (x - 1, y, False), (x, y - 1, False)):
                if 0 <= other_x < n and 0 <= other_y < n:
                    there = values[other_x, other_y]
                    for k in range(width):
                        difference = here[k] - there[k]
                        out[k] += twice * difference
                        if mine:  # each pair is visited from both sides but counted once
                            part += difference * difference
            for k in range(width - channels):
                difference = here[k + channels] - here[k]
                part += difference * difference
                out[k] -= twice * difference
            for k in range(channels, width):
                out[k] += twice * (here[k] - here[k - channels])
            total += part
        sums[x] = total


def smoothness(values: FloatArray) -> tuple[float, FloatArray]:
    """Return the mean squared difference of neighbours, summed over the three axes, and its gradient.

    values: (N, N, N) or (N, N, N, C).
    """
    n = values.shape[0]
    channels = values.shape[3] if values.ndim == 4 else 1
    weight = 1.0 / ((n - 1) * n * n * channels)
    rows = np.ascontiguousarray(values, np.float32).reshape(n, n, n * channels)
    gradient, sums = np.empty_like(rows), np.zeros(n)
    parallel(_smoothness, rows, channels, np.float32(weight), gradient, sums)
    return float(sums.sum() * weight), gradient.reshape(values.shape)
