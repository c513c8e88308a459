"""A radiance field on a multi-resolution hash grid (Mueller et al. 2022, arXiv:2201.05989, section 3)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional

from sds3d.ramps import Ramp
from sds3d.rendering import gpu, hash_numba, hash_slope_numba
from sds3d.rendering.hash_numba import FEATURES, PRIMES
from sds3d.rendering.volume import BOUND
from sds3d.representations.fields import BETAS, Decoder, DecoderOptions, RadianceField, to_unit


def level_cells(levels: int, coarsest: int, finest: int) -> Tensor:
    """Return the cells per side of each level, (L,) int64, in a geometric progression (equations 2 and 3)."""
    growth = math.log(finest / coarsest) / max(levels - 1, 1)
    return torch.tensor([round(coarsest * math.exp(level * growth)) for level in range(levels)])


def hash_encode(points: Tensor, table: Tensor, cells: Tensor, *, backend: gpu.Backend | None = None) -> Tensor:
    """Return features (P, 2 L) of points (P, 3) in the unit cube; differentiable in `table`, and in `points` if needed.

    table: (L, T, 2), where T is a power of two. cells: (L,) int64 on the CPU, cells per side. A level whose corners fit
    into T entries is a plain grid; in finer levels, corners share entries by the hash of equation 4. Points outside the
    cube take the values of the border. backend: numba, warp or torch; default: the fastest that works, which is torch
    for points that need a gradient. Raises ValueError for other shapes.
    """
    entries = table.shape[1]
    if table.ndim != 3 or table.shape[2] != FEATURES or entries & (entries - 1) or entries > 1 << 24:
        raise ValueError(f"table must be (L, T, {FEATURES}), T a power of two up to 2^24, got {tuple(table.shape)}")
    if cells.shape != (len(table),) or points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(
            f"cells must be ({len(table)},) and points (P, 3), got {tuple(cells.shape)} and {tuple(points.shape)}"
        )
    backend = backend or ("torch" if points.requires_grad else gpu.choose("grids", table, points))
    if backend == "numba":
        return _HashEncode.apply(points, table, cells)  # type: ignore[return-value]
    if backend == "warp":
        from sds3d.rendering.hash_warp import HashEncode

        return HashEncode.apply(points, table, cells)  # type: ignore[return-value]
    return hash_encode_reference(points, table, cells)


def hash_encode_reference(points: Tensor, table: Tensor, cells: Tensor) -> Tensor:
    """`hash_encode` in plain torch, for any device and floating dtype; also differentiable in the points."""
    entries = table.shape[1]
    outputs = []
    for values, resolution in zip(table, cells.tolist(), strict=True):
        scaled = points.clamp(0, 1) * resolution
        cell = scaled.detach().nan_to_num().long().clamp(0, resolution - 1)  # (P, 3)
        fraction = scaled - cell
        total = values.new_zeros(len(points), FEATURES)
        for corner in range(8):
            sides = (corner >> 2, corner >> 1 & 1, corner & 1)
            x, y, z = (cell[:, axis] + side for axis, side in enumerate(sides))
            if (resolution + 1) ** 3 <= entries:
                entry = (x * (resolution + 1) + y) * (resolution + 1) + z
            else:
                entry = (x * PRIMES[0] ^ y * PRIMES[1] ^ z * PRIMES[2]) & (entries - 1)
            wx, wy, wz = (f if side else 1 - f for f, side in zip(fraction.unbind(-1), sides, strict=True))
            total = total + (wx * wy * wz)[:, None] * values[entry]
        outputs.append(total)
    return torch.cat(outputs, dim=-1)


def hash_slope(
    points: Tensor, table: Tensor, cells: Tensor, given: Tensor, *, backend: gpu.Backend | None = None
) -> Tensor:
    """Return the gradient (P, 3) of the sum of given (P, 2 L) times `hash_encode` by points (P, 3) in the unit cube.

    Differentiable in `table` and `given`, for fixed points. Other arguments: see `hash_encode`.
    """
    backend = backend or gpu.choose("grids", table, points, given)
    if backend == "numba":
        return _HashSlope.apply(points, table, cells, given)  # type: ignore[return-value]
    if backend == "warp":
        from sds3d.rendering.hash_slope_warp import HashSlope

        return HashSlope.apply(points, table, cells, given)  # type: ignore[return-value]
    with torch.enable_grad():
        places = points.detach().requires_grad_()
        encoded = hash_encode_reference(places, table, cells)
        return torch.autograd.grad(encoded, places, given, create_graph=True)[0]


class HashColors(NamedTuple):
    """Colours in space: a hash grid and a network with one hidden layer, whose outputs' sigmoid is the colour.

    tensors: table (L, T, 2); hidden (H, 2 L) and hidden_bias (H,); color (3, H) and color_bias (3,). cells: (L,) int64
    on the CPU, cells per side.
    """

    tensors: dict[str, Tensor]
    cells: Tensor


def hash_table(levels: int, entries: int, generator: torch.Generator) -> Tensor:
    """Return small random features (L, T, 2)."""
    return 1e-2 * (2 * torch.rand(levels, entries, FEATURES, generator=generator) - 1)


class HashField(RadianceField):
    """A hash-grid encoding and a network with one hidden layer.

    levels, entries: number and size of the tables; entries is a power of two. coarsest, finest: cells per side of the
    first and last level. active: number of levels in use over the run, from the coarsest; the features of the others
    are 0. None: all. lr, decoder_lr: learning rates of the tables and of the network. decoder: see
    `DecoderOptions`.
    """

    def __init__(
        self,
        generator: torch.Generator,
        *,
        levels: int = 8,
        entries: int = 1 << 14,
        coarsest: int = 8,
        finest: int = 96,
        active: Ramp | None = None,
        lr: float = 0.02,
        decoder_lr: float = 0.005,
        **decoder: Unpack[DecoderOptions],
    ) -> None:
        super().__init__()
        self.lr, self.decoder_lr = lr, decoder_lr
        self.active, self.in_use = active, levels
        self.begin(0.0)
        self.cells = level_cells(levels, coarsest, finest)  # no buffer: it stays on the CPU, where it is read
        self.table = nn.Parameter(hash_table(levels, entries, generator))
        self.decoder = Decoder(FEATURES * levels, generator, **decoder)

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """See `RadianceField`."""
        return self.decoder(self._encode(points), points)

    def slope(self, points: Tensor) -> Tensor:
        """See `RadianceField`. Uses the kernels of `hash_encode` and `hash_slope`."""
        with torch.enable_grad():
            places = points.detach().requires_grad_()
            encoding = self._encode(points.detach())  # (P, 2 L)
            density, _ = self.decoder(encoding, places)
            by_encoding, by_place = torch.autograd.grad(density.sum(), (encoding, places), create_graph=True)
        n = self.in_use
        along = hash_slope(to_unit(points), self.table[:n], self.cells[:n], by_encoding[:, : FEATURES * n])
        return by_place + along / (2 * BOUND)

    def _encode(self, points: Tensor) -> Tensor:
        n, levels = self.in_use, len(self.cells)
        if n == levels:
            return hash_encode(to_unit(points), self.table, self.cells)
        encoding = hash_encode(to_unit(points), self.table[:n], self.cells[:n])
        return functional.pad(encoding, (0, FEATURES * (levels - n)))

    def colors(self) -> HashColors | None:
        """Return the grid and the network of the colours; None if the features are not the sigmoid of its outputs."""
        decoder = self.decoder
        if not decoder.activation.color or decoder.activation.linear:
            return None
        if decoder.features is None:
            hidden, weight, bias = decoder.hidden, decoder.out.weight[1:], decoder.out.bias[1:]
        else:
            hidden, weight, bias = decoder.features[0], decoder.features[2].weight, decoder.features[2].bias
        table = self.table.detach().clone()
        table[self.in_use :] = 0  # as they are rendered
        tensors = {"table": table, "hidden": hidden.weight, "hidden_bias": hidden.bias}
        tensors |= {"color": weight, "color_bias": bias}
        return HashColors({name: tensor.detach() for name, tensor in tensors.items()}, self.cells)

    def begin(self, progress: float) -> None:
        """Take the levels of this progress into use."""
        if self.active is not None:
            self.in_use = int(self.active.at(progress) + 1e-6)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return two groups: the tables, and the network."""
        return [
            {"params": [self.table], "lr": self.lr, "betas": BETAS},
            {"params": list(self.decoder.parameters()), "lr": self.decoder_lr, "betas": BETAS},
        ]


class _HashEncode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, points: Tensor, table: Tensor, cells: Tensor) -> Tensor:
        points, cells = points.detach().contiguous(), cells.contiguous()
        ctx.save_for_backward(points, cells)
        ctx.entries = table.shape[1]
        return torch.from_numpy(hash_numba.encode(points.numpy(), table.detach().contiguous().numpy(), cells.numpy()))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        points, cells = (tensor.numpy() for tensor in ctx.saved_tensors)
        gradient = hash_numba.encode_backward(points, grad_outputs[0].contiguous().numpy(), cells, ctx.entries)
        return None, torch.from_numpy(gradient), None


class _HashSlope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, points: Tensor, table: Tensor, cells: Tensor, given: Tensor) -> Tensor:
        inputs = tuple(tensor.detach().contiguous() for tensor in (points, table, cells, given))
        ctx.save_for_backward(*inputs)
        return torch.from_numpy(hash_slope_numba.slope(*(tensor.numpy() for tensor in inputs)))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        inputs = (tensor.numpy() for tensor in (*ctx.saved_tensors, grad_outputs[0].contiguous()))
        d_table, d_given = hash_slope_numba.slope_backward(*inputs)
        return None, torch.from_numpy(d_table), None, torch.from_numpy(d_given)
