"""A radiance field of planes times lines (Chen et al. 2022, "TensoRF", arXiv:2203.09517, sections 3 and 4)."""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional

from sds3d.rendering import gpu, tensor_numba
from sds3d.rendering.triplane_numba import AXES
from sds3d.representations.fields import BETAS, DecoderOptions, FieldActivation, RadianceField, to_unit, two_layers


def tensor_encode(points: Tensor, planes: Tensor, lines: Tensor, *, backend: gpu.Backend | None = None) -> Tensor:
    """Return components (P, 3, C) of points (P, 3) in the unit cube: plane look-ups times line look-ups (equation 3).

    planes: (3, N, N, C), indexed by (x, y), (x, z) and (y, z), where C is a multiple of 8. lines: (3, N, C), along z, y
    and x. The outermost samples are on the cube's faces. Differentiable in planes and lines, and in points that need
    it. backend: numba or torch; default: numba on a CPU, for points without a gradient. Raises ValueError for other
    shapes.
    """
    if planes.ndim != 4 or len(planes) != 3 or planes.shape[1] != planes.shape[2] or planes.shape[3] % 8:
        raise ValueError(f"planes must be (3, N, N, C) with C a multiple of 8, got {tuple(planes.shape)}")
    if lines.shape != (3, *planes.shape[2:]) or points.ndim != 2 or points.shape[1] != 3:
        expected = (3, *planes.shape[2:])
        raise ValueError(
            f"lines must be {expected} and points (P, 3), got {tuple(lines.shape)} and {tuple(points.shape)}"
        )
    backend = backend or ("torch" if points.requires_grad else gpu.choose("grids", planes, lines, points))
    if backend == "numba":
        return _TensorEncode.apply(points, planes, lines)  # type: ignore[return-value]
    return tensor_encode_reference(points, planes, lines)


def tensor_encode_reference(points: Tensor, planes: Tensor, lines: Tensor) -> Tensor:
    """`tensor_encode` in plain torch, for any device and floating dtype; also differentiable in the points."""
    # grid_sample's x runs along the last axis of a picture, and its coordinates are in [-1, 1].
    # Columns one by one: a list as an index is copied to the device, and the copy waits.
    places = torch.stack([torch.stack([points[:, v], points[:, u]], dim=-1) for u, v in AXES])
    along = points.flip(-1).T[..., None]  # (3, P, 1): a line runs along the axis that its plane lacks
    rows = torch.stack([torch.full_like(along, 0.5), along], dim=-1)  # (3, P, 1, 2): lines are pictures of width 1
    options: Any = {"mode": "bilinear", "padding_mode": "border", "align_corners": True}
    wide = functional.grid_sample(planes.permute(0, 3, 1, 2), places[:, :, None] * 2 - 1, **options)  # (3, C, P, 1)
    long = functional.grid_sample(lines.permute(0, 2, 1)[..., None], rows * 2 - 1, **options)
    return (wide * long)[..., 0].permute(2, 0, 1)  # (P, 3, C)


class TensorField(RadianceField):
    """A vector-matrix decomposition. The density's pre-activation is a sum of components, beside the blob; a network
    with one hidden layer turns components of its own into features.

    resolution: samples per side of a plane. density_components, feature_components: products of a plane and a line for
    each of the three axes, multiples of 8. lr, decoder_lr: learning rates of planes and lines, and of the network.
    decoder: see `DecoderOptions`; the density has no network, whatever `separate` is.
    """

    def __init__(
        self,
        generator: torch.Generator,
        *,
        resolution: int = 64,
        density_components: int = 8,
        feature_components: int = 16,
        lr: float = 0.02,
        decoder_lr: float = 0.005,
        **decoder: Unpack[DecoderOptions],
    ) -> None:
        super().__init__()
        self.lr, self.decoder_lr, self.density_components = lr, decoder_lr, density_components
        components, n = density_components + feature_components, resolution
        self.planes = nn.Parameter(0.1 * torch.randn(3, n, n, components, generator=generator))
        self.lines = nn.Parameter(0.1 * torch.randn(3, n, components, generator=generator))
        self.activation = FieldActivation(**decoder)
        hidden, channels = decoder.get("hidden", 32), decoder.get("channels", 3)
        self.network = two_layers(3 * feature_components, hidden, channels, generator)

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """See `RadianceField`."""
        components = tensor_encode(to_unit(points), self.planes, self.lines)  # (P, 3, C)
        level = components[:, :, : self.density_components].sum(dim=(1, 2))
        features = self.network(components[:, :, self.density_components :].flatten(1))
        return self.activation(level, features, points)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return two groups: planes and lines, and the network."""
        return [
            {"params": [self.planes, self.lines], "lr": self.lr, "betas": BETAS},
            {"params": list(self.network.parameters()), "lr": self.decoder_lr, "betas": BETAS},
        ]


class _TensorEncode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, points: Tensor, planes: Tensor, lines: Tensor) -> Tensor:
        inputs = [tensor.detach().contiguous() for tensor in (points, planes, lines)]
        ctx.save_for_backward(*inputs)
        return torch.from_numpy(tensor_numba.encode(*(tensor.numpy() for tensor in inputs)))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        inputs = (tensor.numpy() for tensor in (*ctx.saved_tensors, grad_outputs[0].contiguous()))
        d_planes, d_lines = tensor_numba.encode_backward(*inputs)
        return None, torch.from_numpy(d_planes), torch.from_numpy(d_lines)
