"""March rays and composite packed samples on the CPU. Only samples in occupied space are stored.

Threads take blocks of rays, and each ray writes to its own places, so results do not depend on the number of threads.
Kernels release the GIL.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sds3d.compiled import njit
from sds3d.rendering.simd import exp_minus
from sds3d.rendering.threads import parallel
from sds3d.rendering.volume_numba import MIN_TRANSMITTANCE

FloatArray = NDArray[np.float32]

_BLOCK = 32  # rays that one thread takes at a time: few, so that threads share the object's pixels evenly
_ZERO, _ONE, _MIN_T = np.float32(0), np.float32(1), np.float32(MIN_TRANSMITTANCE)
_CAUTION = np.float32(0.999)  # shortens leaps, so that rounding cannot skip an occupied cell
_LONGEST = np.float32(1e6)
_OPAQUE = np.float32(-np.log(MIN_TRANSMITTANCE))

# ---- marching ----


@njit(inline="always", error_model="numpy")
def _clamp(value: Any, top: Any) -> Any:
    return min(max(value, 0), top)


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "nsz", "arcp", "afn"})
def _visit(thread, n_threads, size, skip, solid, starts, slopes, near, step, steps, jitter, visited, counts):
    """Record which steps of each ray get a sample. Rays do not stop at opaque cells if `solid` is empty."""
    top = size - 2
    stops = solid.size > 0
    for block in range(thread, (near.size + _BLOCK - 1) // _BLOCK, n_threads):
        for ray in range(block * _BLOCK, min((block + 1) * _BLOCK, near.size)):
            ax, ay, az = starts[ray, 0], starts[ray, 1], starts[ray, 2]
            bx, by, bz = slopes[ray, 0], slopes[ray, 1], slopes[ray, 2]
            t0, dt, u, n = near[ray], step[ray], jitter[ray], steps[ray]
            # Samples per cell along the steepest axis, finite even for a direction without length.
            leap = min(_CAUTION / (dt * max(abs(bx), abs(by), abs(bz))), _LONGEST)
            depth = _ZERO  # optical
            count, i = 0, 0
            while i < n:
                t = t0 + (np.float32(i) + u) * dt
                gx, gy, gz = ax + t * bx, ay + t * by, az + t * bz
                ix, iy, iz = _clamp(np.int64(gx), top), _clamp(np.int64(gy), top), _clamp(np.int64(gz), top)
                cell = np.uint64((ix * size + iy) * size + iz)
                empty = skip[cell]
                if empty > 0:
                    i += 1 + np.int64(np.float32(empty - 1) * leap)
                    continue
                visited[ray, count] = np.uint16(i)
                count += 1
                i += 1
                if stops:
                    depth += solid[cell] * dt
                    if depth > _OPAQUE:
                        break
            counts[ray] = count


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "nsz", "arcp", "afn"})
def _fill(thread, n_threads, origins, directions, near, step, jitter, visited, offsets, ray_of, times, lengths, points):
    for block in range(thread, (near.size + _BLOCK - 1) // _BLOCK, n_threads):
        for ray in range(block * _BLOCK, min((block + 1) * _BLOCK, near.size)):
            start, dt = offsets[ray], step[ray]
            for k in range(offsets[ray + 1] - start):
                t = near[ray] + (np.float32(visited[ray, k]) + jitter[ray]) * dt
                ray_of[start + k], times[start + k], lengths[start + k] = ray, t, dt
                for axis in range(3):
                    points[start + k, axis] = origins[ray, axis] + t * directions[ray, axis]


def march(
    origins: FloatArray,
    directions: FloatArray,
    skip: NDArray[np.uint8],
    solid: FloatArray | None,
    rays: tuple[NDArray[Any], ...],
) -> tuple[NDArray[Any], ...]:
    """Return the samples of R rays with origins and directions (R, 3) in metres.

    skip: (N, N, N) uint8 from `empty_distance`. solid: (N, N, N), least density per metre in each cell; a ray ends
    behind opaque cells.
    rays: starts and slopes (R, 3) in voxels and voxels per metre, near and step (R,) in metres, steps (R,) int32,
    jitter (R,), as returned by `volume.sample_rays`.
    Returns ray (S,) int64, t and dt (S,) metres, points (S, 3) metres and offsets (R + 1,) int64.
    """
    starts, slopes, near, step, steps, jitter = rays
    n = near.size
    visited = np.empty((n, max(int(steps.max(initial=0)), 1)), np.uint16)  # unwritten pages use no memory
    counts, offsets = np.empty(n, np.int64), np.zeros(n + 1, np.int64)
    opaque = np.empty(0, np.float32) if solid is None else solid.reshape(-1)
    parallel(
        _visit, skip.shape[0], skip.reshape(-1), opaque, starts, slopes, near, step, steps, jitter, visited, counts
    )
    np.cumsum(counts, out=offsets[1:])
    total = int(offsets[-1])
    ray_of, points = np.empty(total, np.int64), np.empty((total, 3), np.float32)
    times, lengths = np.empty(total, np.float32), np.empty(total, np.float32)
    parallel(_fill, origins, directions, near, step, jitter, visited, offsets, ray_of, times, lengths, points)
    return ray_of, times, lengths, points, offsets


# ---- compositing ----


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "nsz", "arcp", "afn"})
def _composite(thread, n_threads, density, features, times, lengths, offsets, out, alpha, depth, weights):
    channels = features.shape[1]
    n = offsets.size - 1
    for block in range(thread, (n + _BLOCK - 1) // _BLOCK, n_threads):
        for ray in range(block * _BLOCK, min((block + 1) * _BLOCK, n)):
            transmittance, reach = _ONE, _ZERO
            for c in range(channels):
                out[ray, c] = _ZERO
            end = offsets[ray + 1]
            stop = end
            for s in range(offsets[ray], end):
                after = transmittance * exp_minus(density[s] * lengths[s])
                w = transmittance - after
                transmittance = after
                weights[s] = w
                reach += w * times[s]
                for c in range(channels):
                    out[ray, c] += w * features[s, c]
                if not transmittance > _MIN_T:
                    stop = s + 1
                    break
            for s in range(stop, end):
                weights[s] = _ZERO
            alpha[ray], depth[ray] = _ONE - transmittance, reach


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "nsz", "arcp", "afn"})
def _composite_backward(
    thread, n_threads, density, features, times, lengths, offsets, weights,
    d_out, d_alpha, d_depth, d_weights, d_density, d_features,
):  # fmt: skip
    channels = features.shape[1]
    n = offsets.size - 1
    weighed = d_weights.size > 0
    for block in range(thread, (n + _BLOCK - 1) // _BLOCK, n_threads):
        for ray in range(block * _BLOCK, min((block + 1) * _BLOCK, n)):
            # For fixed features the loss is linear in the weights, and `value` is its slope in a sample's weight. The
            # first sweep stores it in d_density and sums the samples' contributions.
            rest = _ZERO
            begin, end = offsets[ray], offsets[ray + 1]
            for s in range(begin, end):
                w = weights[s]
                value = d_alpha[ray] + times[s] * d_depth[ray]
                for c in range(channels):
                    value += features[s, c] * d_out[ray, c]
                    d_features[s, c] = w * d_out[ray, c]
                if weighed:
                    value += d_weights[s]
                d_density[s] = value
                rest += w * value
            transmittance = _ONE
            stop = end
            for s in range(begin, end):
                after = transmittance * exp_minus(density[s] * lengths[s])
                transmittance = after
                value = d_density[s]
                rest -= weights[s] * value
                d_density[s] = lengths[s] * (after * value - rest)
                if not transmittance > _MIN_T:
                    stop = s + 1
                    break
            for s in range(stop, end):
                d_density[s] = _ZERO


def composite(
    density: FloatArray, features: FloatArray, times: FloatArray, lengths: FloatArray, offsets: NDArray[np.int64]
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Sum packed samples along their rays.

    density, times, lengths: (S,). features: (S, C). offsets: (R + 1,); ray r has samples offsets[r] to offsets[r + 1].
    Returns features (R, C) premultiplied by alpha, alpha (R,), depth (R,) and the samples' weights (S,).
    """
    n = offsets.size - 1
    out, weights = np.empty((n, features.shape[1]), np.float32), np.empty(density.size, np.float32)
    alpha, depth = np.empty(n, np.float32), np.empty(n, np.float32)
    parallel(_composite, density, features, times, lengths, offsets, out, alpha, depth, weights)
    return out, alpha, depth, weights


def composite_backward(
    density: FloatArray,
    features: FloatArray,
    times: FloatArray,
    lengths: FloatArray,
    offsets: NDArray[np.int64],
    weights: FloatArray,
    gradients: tuple[FloatArray | None, ...],
) -> tuple[FloatArray, FloatArray]:
    """Return the gradients of densities (S,) and features (S, C), given those of the outputs of `composite`.

    weights: as returned by `composite`. gradients: None stands for zero.
    """
    n = offsets.size - 1
    shapes = ((n, features.shape[1]), (n,), (n,), (0,))
    d_out, d_alpha, d_depth, d_weights = (
        np.zeros(shape, np.float32) if gradient is None else np.ascontiguousarray(gradient, np.float32)
        for gradient, shape in zip(gradients, shapes, strict=True)
    )
    d_density, d_features = np.empty_like(density), np.empty_like(features)
    parallel(
        _composite_backward, density, features, times, lengths, offsets, weights,
        d_out, d_alpha, d_depth, d_weights, d_density, d_features,
    )  # fmt: skip
    return d_density, d_features
