"""Splatting with NVIDIA Warp, step 2 of 2: blend the Gaussians of each tile of 16 x 16 pixels, and the backward pass.

Each tile has a bit for every Gaussian of its picture, nearest first. A set bit means that the ellipse alpha >= 1/255
touches the tile. A second set of bits tells which words of the first are not 0, so that the others cost next to
nothing. Lists of (Gaussian, tile) pairs would be shorter for pictures of thousands of tiles, but their length is known
only on the device: the host would have to wait for it, or guess a capacity and drop pairs beyond it. Bits have a fixed
size, C T N / 8 bytes for T tiles, so nothing waits, nothing is dropped, and a CUDA graph can capture the launches.

A thread takes a pixel. The 32 threads of a CUDA warp take a block of 8 x 4 pixels of one tile and walk through its bits
together. In the backward pass they add their gradients before one of them adds the sum to the Gaussian's by an atomic.
On the CPU, Warp runs one thread after the other: sums have a fixed order there, and on CUDA they do not. Like the CPU's
kernels, the backward pass walks front to back and needs no record of where each pixel stopped.
"""

# Kernels are Warp's language: pyright reads them as Python and finds errors where there are none.
# pyright: reportInvalidTypeForm=false, reportMissingImports=false, reportOperatorIssue=false
# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# pyright: reportCallIssue=false, reportIndexIssue=false, reportAttributeAccessIssue=false

from typing import Any

import torch
import warp as wp
from torch import Tensor
from torch.nn import functional

from sds3d.rendering.launch_warp import launch
from sds3d.rendering.splatting_blend_numba import MAX_ALPHA, MIN_TRANSMITTANCE
from sds3d.rendering.splatting_tiles_numba import MIN_ALPHA

wp.set_module_options({"enable_backward": False})

_TILE = 16
_PIXELS = _TILE * _TILE
_WORD = 32  # bits
_SLACK = 0.01  # pixels by which ellipses are enlarged, so that rounding drops no tile
_FLAT = 1e-30  # the smallest determinant of a conic

_Vec2s, _Vec3s, _Vec4s = wp.array2d(dtype=wp.vec2), wp.array2d(dtype=wp.vec3), wp.array2d(dtype=wp.vec4)
_Floats, _Ints, _Bits = wp.array2d(dtype=wp.float32), wp.array2d(dtype=wp.int32), wp.array2d(dtype=wp.uint32)


# ---- the threads of a CUDA warp; on the CPU, each thread is alone ----


@wp.func_native("""
#if defined(__CUDA_ARCH__)
    for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
#endif
    return x;
""")
def _sum(x: wp.float32) -> wp.float32:
    """Return the sum of x over the warp."""
    ...


@wp.func_native("""
#if defined(__CUDA_ARCH__)
    return __any_sync(0xffffffffu, x);
#else
    return x;
#endif
""")
def _any(x: wp.bool) -> wp.bool:
    """Return whether x is true in any thread of the warp."""
    ...


@wp.func_native("""
#if defined(__CUDA_ARCH__)
    return threadIdx.x % 32 == 0;
#else
    return true;
#endif
""")
def _first() -> wp.bool:
    """Return whether this thread is the first of the warp."""
    ...


@wp.func_native("""
#if defined(__CUDA_ARCH__)
    return __ffs(bits) - 1;
#else
    return __builtin_ctz(bits);
#endif
""")
def _lowest(bits: wp.uint32) -> wp.int32:
    """Return the index of the lowest set bit of a word that is not 0."""
    ...


# ---- tiles ----


@wp.kernel
def _enter(
    order: _Ints,
    means2d: _Vec2s,
    conics: _Vec3s,
    opacities: _Floats,
    features: _Vec4s,
    width: wp.int32,
    height: wp.int32,
    centers: _Vec2s,
    shapes: _Vec4s,
    values: _Vec4s,
    bits: _Bits,
):
    """Copy a Gaussian's numbers to its rank and set its bit in the tiles that its ellipse touches.

    order: (C, N), the Gaussian of each rank. centers, shapes, values: (C, N) filled with mean; conic and opacity;
    features. bits: (C T, words), zero at first; the number of words is a multiple of 32.
    """
    c, rank = wp.tid()
    i = order[c, rank]
    mean = means2d[c, i]
    conic = conics[c, i]
    opacity = opacities[c, i]
    centers[c, rank] = mean
    shapes[c, rank] = wp.vec4(conic[0], conic[1], conic[2], opacity)
    values[c, rank] = features[c, i]
    if not (conic[0] > 0.0 and opacity >= MIN_ALPHA):
        return
    limit = wp.max(2.0 * wp.log(opacity / MIN_ALPHA), 0.0)  # of a dx^2 + 2 b dx dy + c dy^2
    determinant = conic[0] * conic[2] - conic[1] * conic[1]
    scale = limit / wp.max(determinant, _FLAT)
    half_x = wp.sqrt(scale * conic[2]) + _SLACK
    half_y = wp.sqrt(scale * conic[0]) + _SLACK
    left = wp.ceil(wp.max(mean[0] - half_x - 0.5, 0.0))
    right = wp.floor(wp.min(mean[0] + half_x - 0.5, wp.float32(width - 1)))
    top = wp.ceil(wp.max(mean[1] - half_y - 0.5, 0.0))
    bottom = wp.floor(wp.min(mean[1] + half_y - 0.5, wp.float32(height - 1)))
    if not (left <= right and top <= bottom):
        return
    columns = (width + _TILE - 1) // _TILE
    tiles = columns * ((height + _TILE - 1) // _TILE)
    word = rank // _WORD
    bit = wp.uint32(1) << wp.uint32(rank % _WORD)
    # The ellipse's rightmost point is this far above its centre; the leftmost point is opposite.
    extreme = wp.where(determinant > 0.0, -conic[1] * wp.sqrt(limit / (conic[2] * determinant)), 0.0)
    for row in range(wp.int32(top) // _TILE, wp.int32(bottom) // _TILE + 1):
        low = wp.float32(row * _TILE) + 0.5 - mean[1]
        high = low + wp.float32(_TILE - 1)
        right_y = wp.clamp(extreme, low, high)
        left_y = wp.clamp(-extreme, low, high)
        lean = -conic[1] / conic[0]
        right_half = wp.sqrt(wp.max(limit - determinant / conic[0] * right_y * right_y, 0.0) / conic[0])
        left_half = wp.sqrt(wp.max(limit - determinant / conic[0] * left_y * left_y, 0.0) / conic[0])
        first = wp.max(mean[0] + lean * left_y - left_half - _SLACK - 0.5, left)
        last = wp.min(mean[0] + lean * right_y + right_half + _SLACK - 0.5, right)
        if first <= last:
            for column in range(wp.int32(wp.ceil(first)) // _TILE, wp.int32(wp.floor(last)) // _TILE + 1):
                # Each bit is set once, so that adding it is setting it.
                wp.atomic_add(bits, c * tiles + row * columns + column, word, bit)


@wp.kernel
def _summarize(bits: _Bits, summary: _Bits):
    """Set a bit in `summary` for each word of `bits` that is not 0."""
    tile, k = wp.tid()
    words = wp.uint32(0)
    for j in range(_WORD):
        if bits[tile, k * _WORD + j] != wp.uint32(0):
            words = words | (wp.uint32(1) << wp.uint32(j))
    summary[tile, k] = words


# ---- blending ----


@wp.struct
class _Pixel:
    """A thread's pixel. tile: of all pictures. inside: whether it is in the picture. at: its centre."""

    picture: wp.int32
    tile: wp.int32
    row: wp.int32
    column: wp.int32
    inside: wp.bool
    at: wp.vec2


@wp.func
def _pixel(thread: wp.int32, width: wp.int32, height: wp.int32):
    pixel = _Pixel()
    columns = (width + _TILE - 1) // _TILE
    tiles = columns * ((height + _TILE - 1) // _TILE)
    pixel.tile = thread // _PIXELS
    pixel.picture = pixel.tile // tiles
    tile = pixel.tile % tiles
    lane = thread % _PIXELS
    warp = lane // 32
    pixel.column = tile % columns * _TILE + warp % 2 * 8 + lane % 8
    pixel.row = tile // columns * _TILE + warp // 2 * 4 + lane % 32 // 8
    pixel.inside = pixel.column < width and pixel.row < height
    pixel.at = wp.vec2(wp.float32(pixel.column) + 0.5, wp.float32(pixel.row) + 0.5)
    return pixel


@wp.func
def _unclamped_alpha(shape: wp.vec4, away: wp.vec2):
    """Return a Gaussian's alpha at an offset from its mean, which may exceed MAX_ALPHA."""
    exponent = 0.5 * (shape[0] * away[0] * away[0] + shape[2] * away[1] * away[1]) + shape[1] * away[0] * away[1]
    return shape[3] * wp.exp(-exponent)


@wp.kernel
def _blend(
    centers: _Vec2s,
    shapes: _Vec4s,
    values: _Vec4s,
    bits: _Bits,
    summary: _Bits,
    width: wp.int32,
    height: wp.int32,
    pictures: wp.array3d(dtype=wp.vec4),
    alphas: wp.array3d(dtype=wp.float32),
):
    pixel = _pixel(wp.tid(), width, height)
    c = pixel.picture
    light = wp.float32(1.0)  # transmittance
    unfinished = pixel.inside
    total = wp.vec4()
    for k in range(summary.shape[1]):
        words = summary[pixel.tile, k]
        while words != wp.uint32(0):
            if not _any(unfinished):
                break
            word = k * _WORD + _lowest(words)
            words = words & (words - wp.uint32(1))
            left = bits[pixel.tile, word]
            while left != wp.uint32(0):
                rank = word * _WORD + _lowest(left)
                left = left & (left - wp.uint32(1))
                alpha = _unclamped_alpha(shapes[c, rank], pixel.at - centers[c, rank])
                if unfinished and alpha >= MIN_ALPHA:
                    alpha = wp.min(alpha, MAX_ALPHA)
                    after = light - light * alpha
                    if after > MIN_TRANSMITTANCE:
                        total += light * alpha * values[c, rank]
                        light = after
                    else:
                        unfinished = False
    if pixel.inside:
        pictures[c, pixel.row, pixel.column] = total
        alphas[c, pixel.row, pixel.column] = 1.0 - light


@wp.kernel
def _blend_backward(
    order: _Ints,
    centers: _Vec2s,
    shapes: _Vec4s,
    values: _Vec4s,
    bits: _Bits,
    summary: _Bits,
    width: wp.int32,
    height: wp.int32,
    pictures: wp.array3d(dtype=wp.vec4),
    alphas: wp.array3d(dtype=wp.float32),
    d_pictures: wp.array3d(dtype=wp.vec4),
    d_alphas: wp.array3d(dtype=wp.float32),
    d_means2d: _Vec2s,
    d_conics: _Vec3s,
    d_opacities: _Floats,
    d_features: _Vec4s,
):
    pixel = _pixel(wp.tid(), width, height)
    c = pixel.picture
    light = wp.float32(1.0)
    unfinished = pixel.inside
    given = wp.vec4()
    rest = wp.float32(0.0)  # what the Gaussians still to come add to the loss, which is linear in the weights
    through = wp.float32(0.0)  # -d loss / d ln(final transmittance)
    if pixel.inside:
        given = d_pictures[c, pixel.row, pixel.column]
        rest = wp.dot(given, pictures[c, pixel.row, pixel.column])
        through = (1.0 - alphas[c, pixel.row, pixel.column]) * d_alphas[c, pixel.row, pixel.column]
    for k in range(summary.shape[1]):
        words = summary[pixel.tile, k]
        while words != wp.uint32(0):
            if not _any(unfinished):
                break
            word = k * _WORD + _lowest(words)
            words = words & (words - wp.uint32(1))
            left = bits[pixel.tile, word]
            while left != wp.uint32(0):
                rank = word * _WORD + _lowest(left)
                left = left & (left - wp.uint32(1))
                shape = shapes[c, rank]
                away = pixel.at - centers[c, rank]
                alpha = _unclamped_alpha(shape, away)
                weight = wp.float32(0.0)
                slope = wp.float32(0.0)  # d loss / d ln(alpha)
                if unfinished and alpha >= MIN_ALPHA:
                    moves = alpha <= MAX_ALPHA
                    alpha = wp.min(alpha, MAX_ALPHA)
                    after = light - light * alpha
                    if after > MIN_TRANSMITTANCE:
                        weight = light * alpha
                        light = after
                        value = wp.dot(given, values[c, rank])
                        rest -= weight * value
                        if moves:
                            slope = weight * value + (through - rest) * alpha / (1.0 - alpha)
                    else:
                        unfinished = False
                if _any(weight != 0.0):
                    x = slope * away[0]
                    y = slope * away[1]
                    sum = _sum(slope)
                    sum_x = _sum(x)
                    sum_y = _sum(y)
                    sum_xx = _sum(x * away[0])
                    sum_xy = _sum(x * away[1])
                    sum_yy = _sum(y * away[1])
                    d_value = wp.vec4(
                        _sum(weight * given[0]), _sum(weight * given[1]),
                        _sum(weight * given[2]), _sum(weight * given[3]),
                    )  # fmt: skip
                    if _first():
                        i = order[c, rank]
                        d_mean = wp.vec2(shape[0] * sum_x + shape[1] * sum_y, shape[1] * sum_x + shape[2] * sum_y)
                        wp.atomic_add(d_means2d, c, i, d_mean)
                        wp.atomic_add(d_conics, c, i, wp.vec3(-0.5 * sum_xx, -sum_xy, -0.5 * sum_yy))
                        wp.atomic_add(d_opacities, c, i, sum / shape[3])
                        wp.atomic_add(d_features, c, i, d_value)


# ---- torch ----


class Blend(torch.autograd.Function):
    """Blend N projected Gaussians in C pictures, like `splatting_tiles_numba` and `splatting_blend_numba`.

    Takes means2d (C, N, 2), conics (C, N, 3), the first entry 0 for Gaussians that are not visible, opacities (C, N),
    features (C, N, D), D at most 4, and depths (C, N), all float32; then a tuple that begins with width and height.
    Returns pictures (C, H, W, D) of premultiplied features, and their alpha (C, H, W, 1). Differentiable in the first
    four.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        """See the class."""
        *tensors, camera = inputs
        width, height = camera[:2]
        means2d, conics, opacities, features, depths = (tensor.detach().contiguous() for tensor in tensors)
        cameras, n, channels = features.shape
        # A stable order by depth; what is not visible comes last.
        order = torch.where(conics[..., 0] > 0, depths, torch.inf).argsort(dim=-1, stable=True).int()
        centers, shapes = torch.empty_like(means2d), means2d.new_empty(cameras, n, 4)
        features, values = functional.pad(features, (0, 4 - channels)).contiguous(), means2d.new_empty(cameras, n, 4)
        tiles = cameras * -(-width // _TILE) * -(-height // _TILE)
        summary = torch.empty(tiles, -(-n // (_WORD * _WORD)), dtype=torch.int32, device=means2d.device)
        bits = summary.new_zeros(tiles, _WORD * summary.shape[1])
        launch(
            _enter, (cameras, n), order, means2d, conics, opacities, features, width, height,
            centers, shapes, values, bits,
        )  # fmt: skip
        launch(_summarize, summary.shape, bits, summary)
        picture, alpha = means2d.new_empty(cameras, height, width, 4), means2d.new_empty(cameras, height, width)
        launch(_blend, tiles * _PIXELS, centers, shapes, values, bits, summary, width, height, picture, alpha)
        ctx.save_for_backward(order, centers, shapes, values, bits, summary, picture, alpha)
        ctx.channels = channels
        return picture[..., :channels], alpha[..., None]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of means2d, conics, opacities and features."""
        order, centers, shapes, values, bits, summary, picture, alpha = ctx.saved_tensors
        d_picture = functional.pad(gradients[0], (0, 4 - ctx.channels)).contiguous()
        d_alpha = gradients[1][..., 0].contiguous()
        cameras, n = order.shape
        results = [centers.new_zeros(cameras, n, *size) for size in ((2,), (3,), (), (4,))]
        height, width = alpha.shape[1:]
        launch(
            _blend_backward, len(bits) * _PIXELS, order, centers, shapes, values, bits, summary, width, height,
            picture, alpha, d_picture, d_alpha, *results,
        )  # fmt: skip
        d_means2d, d_conics, d_opacities, d_features = results
        return d_means2d, d_conics, d_opacities, d_features[..., : ctx.channels], None, None
