"""A radiance field on three feature planes (Chan et al. 2022, "EG3D", arXiv:2112.07945, section 4.1)."""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional

from sds3d.rendering import gpu, triplane_numba
from sds3d.rendering.triplane_numba import AXES
from sds3d.representations.fields import BETAS, Decoder, DecoderOptions, RadianceField, to_unit


def triplane_encode(points: Tensor, planes: Tensor, *, backend: gpu.Backend | None = None) -> Tensor:
    """Return features (P, C) of points (P, 3) in the unit cube: sums of bilinear look-ups in three planes.

    planes: (3, N, N, C), indexed by (x, y), (x, z) and (y, z), where C is a multiple of 8. The outermost samples are on
    the cube's faces. Differentiable in `planes`, and in points that need it. backend: numba, warp or torch; default:
    the fastest that works, which is torch for points that need a gradient. Raises ValueError for other shapes.
    """
    if planes.ndim != 4 or len(planes) != 3 or planes.shape[1] != planes.shape[2] or planes.shape[3] % 8:
        raise ValueError(f"planes must be (3, N, N, C) with C a multiple of 8, got {tuple(planes.shape)}")
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"points must be (P, 3), got {tuple(points.shape)}")
    backend = backend or ("torch" if points.requires_grad else gpu.choose("grids", planes, points))
    if backend == "numba":
        return _TriplaneEncode.apply(points, planes)  # type: ignore[return-value]
    if backend == "warp":
        from sds3d.rendering.triplane_warp import TriplaneEncode

        return TriplaneEncode.apply(points, planes)  # type: ignore[return-value]
    return triplane_encode_reference(points, planes)


def triplane_encode_reference(points: Tensor, planes: Tensor) -> Tensor:
    """`triplane_encode` in plain torch, for any device and floating dtype; also differentiable in the points."""
    # grid_sample's x runs along the last axis of a picture, and its coordinates are in [-1, 1].
    # Columns one by one: a list as an index is copied to the device, and the copy waits.
    places = torch.stack([torch.stack([points[:, v], points[:, u]], dim=-1) for u, v in AXES])
    places = places[:, None] * 2 - 1  # (3, 1, P, 2)
    values = functional.grid_sample(
        planes.permute(0, 3, 1, 2), places, mode="bilinear", padding_mode="border", align_corners=True
    )
    return values[:, :, 0].sum(0).T  # (P, C)


class TriplaneField(RadianceField):
    """A triplane encoding and a network with one hidden layer.

    resolution: samples per side of a plane. features: channels of the planes, a multiple of 8. lr, decoder_lr: learning
    rates of the planes and of the network. decoder: see `DecoderOptions`.
    """

    def __init__(
        self,
        generator: torch.Generator,
        *,
        resolution: int = 64,
        features: int = 16,
        lr: float = 0.02,
        decoder_lr: float = 0.005,
        **decoder: Unpack[DecoderOptions],
    ) -> None:
        super().__init__()
        self.lr, self.decoder_lr = lr, decoder_lr
        self.planes = nn.Parameter(0.1 * torch.randn(3, resolution, resolution, features, generator=generator))
        self.decoder = Decoder(features, generator, **decoder)

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """See `RadianceField`."""
        return self.decoder(triplane_encode(to_unit(points), self.planes), points)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return two groups: the planes, and the network."""
        return [
            {"params": [self.planes], "lr": self.lr, "betas": BETAS},
            {"params": list(self.decoder.parameters()), "lr": self.decoder_lr, "betas": BETAS},
        ]


class _TriplaneEncode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, points: Tensor, planes: Tensor) -> Tensor:
        points = points.detach().contiguous()
        ctx.save_for_backward(points)
        ctx.size = planes.shape[1]
        return torch.from_numpy(triplane_numba.encode(points.numpy(), planes.detach().contiguous().numpy()))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        points = ctx.saved_tensors[0].numpy()
        gradient = triplane_numba.encode_backward(points, grad_outputs[0].contiguous().numpy(), ctx.size)
        return None, torch.from_numpy(gradient)
