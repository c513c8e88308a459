"""Radiance fields as functions of points: their base class, and the dense grid.

The other fields are in `fields_hash`, `fields_mlp`, `fields_tensor` and `fields_triplane`. All start as DreamFusion's
density blob (arXiv:2209.14988, appendix A.2). The density is 20 softplus(.) per metre, and colours are sigmoid(.).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, Literal, NamedTuple, TypedDict, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional

from sds3d.rendering.volume import BOUND

DENSITY_SCALE = 20.0
"""Factor on the softplus, per metre: a pre-activation of 3 is opaque within a few centimetres."""
BETAS = (0.9, 0.95)
"""Adam's decay rates. Few steps show a given point in space, so the second moment needs a short memory."""


class RadianceField(nn.Module, ABC):
    """A radiance field in the cube [-0.55, 0.55]^3 metres; a point outside takes the values of the border."""

    @abstractmethod
    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return densities (P,) >= 0 per metre and features (P, C) at points (P, 3) in metres.

        Features are sRGB colours in [0, 1], or latents of any number of channels without bounds. Differentiable in
        the parameters; in the points only where an implementation says so.
        """

    @abstractmethod
    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the parameters with their learning rates and betas, in the form that torch optimisers take."""

    def slope(self, points: Tensor) -> Tensor:
        """Return the gradient of the density (P, 3), per square metre, at points (P, 3) in metres.

        Differentiable in the parameters. For fields that are twice differentiable in the points.
        """
        with torch.enable_grad():
            places = points.detach().requires_grad_()
            density, _ = self(places)
            return torch.autograd.grad(density.sum(), places, create_graph=True)[0]

    def begin(self, progress: float) -> None:
        """Prepare for a step. progress: 0 at the first step, 1 at the last."""


class Blob(NamedTuple):
    """A term of the density's pre-activation: `height` at the centre.

    A cone falls linearly to 0 at `radius` metres and further to -7, where the softplus still has a gradient. A bump is
    a Gaussian with the standard deviation `radius`.
    """

    height: float = 3.0
    radius: float = 0.275
    shape: Literal["cone", "bump"] = "cone"

    def bias(self, points: Tensor) -> Tensor:
        """Return the term (...) at points (..., 3) in metres."""
        if self.shape == "bump":
            return self.height * torch.exp(-0.5 * points.square().sum(dim=-1) / self.radius**2)
        return (self.height * (1 - points.norm(dim=-1) / self.radius)).clamp(min=-7.0)


BLOB = Blob()


def activate(raw: Tensor, color: bool) -> tuple[Tensor, Tensor]:
    """Return densities (...) per metre and features (..., C) of pre-activations (..., 1 + C).

    color: whether the features are colours, in [0, 1]; otherwise they are unbounded.
    """
    features = torch.sigmoid(raw[..., 1:]) if color else raw[..., 1:]
    return DENSITY_SCALE * functional.softplus(raw[..., 0]), features


def deactivate(density: Tensor, scale: float = DENSITY_SCALE, exponential: bool = False) -> Tensor:
    """Return the pre-activations of densities (...) per metre, of a softplus or an exponential.

    Densities are clamped to at least 1e-6 scale.
    """
    x = (density / scale).clamp(min=1e-6)
    return x.log() if exponential else x + torch.log(-torch.expm1(-x))


def to_unit(points: Tensor) -> Tensor:
    """Convert points in metres to coordinates of the unit cube."""
    return (points + BOUND) / (2 * BOUND)


def trilinear(grid: Tensor, points: Tensor) -> Tensor:
    """Return values (P, C) of a grid (N, N, N, C), axes x, y, z, at points (P, 3) in metres; differentiable in both."""
    # grid_sample's x runs along the last axis of the volume.
    coordinates = points.flip(-1)[None, None, None] / BOUND  # (1, 1, 1, P, 3)
    values = functional.grid_sample(
        grid.permute(3, 0, 1, 2)[None], coordinates, mode="bilinear", padding_mode="border", align_corners=True
    )
    return values[0, :, 0, 0].T  # (P, C)


class GridField(RadianceField):
    """Values on a dense grid, interpolated after their activation, like `volume.render_rays`. Slow and exact.

    values: (N, N, N, 1 + C) pre-activations of density and features. Also differentiable in the points.
    """

    def __init__(
        self,
        generator: torch.Generator,
        *,
        resolution: int = 48,
        channels: int = 3,
        color: bool = True,
        blob: Blob = BLOB,
        lr: float = 0.05,
    ) -> None:
        super().__init__()
        self.color, self.lr = color, lr
        axis = torch.linspace(-BOUND, BOUND, resolution)
        points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)  # (N, N, N, 3)
        values = 0.1 * torch.randn(*points.shape[:3], 1 + channels, generator=generator)
        values[..., 0] += blob.bias(points)
        self.values = nn.Parameter(values)

    def grid(self) -> Tensor:
        """Return density per metre and features, (N, N, N, 1 + C)."""
        density, features = activate(self.values, self.color)
        return torch.cat([density[..., None], features], dim=-1)

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """See `RadianceField`."""
        values = trilinear(self.grid(), points)
        return values[:, 0], values[:, 1:]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return one group, of all values."""
        return [{"params": [self.values], "lr": self.lr, "betas": BETAS}]


class DecoderOptions(TypedDict, total=False):
    """The options of `Decoder`, which the fields with a decoder also take."""

    channels: int
    """Number of features. Default: 3."""
    color: bool
    """Whether the features are colours in [0, 1]; otherwise they are unbounded. Default: True."""
    hidden: int
    """Width of the hidden layer. Default: 32."""
    blob: Blob
    """The density at the start. Default: `BLOB`."""
    scale: float
    """Factor on the softplus or exponential of the density, per metre. Default: `DENSITY_SCALE`."""
    exponential: bool
    """Whether the density is an exponential of the pre-activation instead of a softplus. Default: False."""
    separate: bool
    """Whether density and features have a hidden layer each. Default: False."""
    linear: bool
    """Whether colours are (y + 1) / 2 of the outputs y, without bounds, instead of sigmoid(y). Default: False."""


class FieldActivation:
    """What turns a network's outputs into densities and features, by the same options as `Decoder`."""

    def __init__(self, **options: Unpack[DecoderOptions]) -> None:
        self.color, self.linear = options.get("color", True), options.get("linear", False)
        self.blob, self.scale = options.get("blob", BLOB), options.get("scale", DENSITY_SCALE)
        self.exponential = options.get("exponential", False)

    def __call__(self, level: Tensor, features: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return densities (P,) per metre and features (P, C) at points (P, 3) in metres.

        level: (P,), the density's pre-activation without the blob. features: (P, C), without activation.
        """
        level = level + self.blob.bias(points)
        # Beyond e^15 per metre, everything is opaque.
        density = self.scale * (level.clamp(max=15.0).exp() if self.exponential else functional.softplus(level))
        if not self.color:
            return density, features
        return density, (features + 1) / 2 if self.linear else torch.sigmoid(features)


class Decoder(nn.Module):
    """The small network behind an encoding: one hidden layer to density and features, or one to each of them."""

    def __init__(self, inputs: int, generator: torch.Generator, **options: Unpack[DecoderOptions]) -> None:
        super().__init__()
        self.activation = FieldActivation(**options)
        hidden, channels = options.get("hidden", 32), options.get("channels", 3)
        separate = options.get("separate", False)
        self.hidden = linear(inputs, hidden, math.sqrt(2), generator)
        self.out = linear(hidden, 1 if separate else 1 + channels, 1.0, generator)
        self.features = two_layers(inputs, hidden, channels, generator) if separate else None

    def forward(self, encoding: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return densities (P,) and features (P, C) of encodings (P, inputs) of points (P, 3) in metres."""
        raw = self.out(functional.relu(self.hidden(encoding), inplace=True))  # (P, 1 + C)
        features = raw[:, 1:] if self.features is None else self.features(encoding)
        return self.activation(raw[:, 0], features, points)


def two_layers(inputs: int, hidden: int, outputs: int, generator: torch.Generator) -> nn.Sequential:
    """Return a network with one hidden layer, initialised by `linear`."""
    first = linear(inputs, hidden, math.sqrt(2), generator)
    return nn.Sequential(first, nn.ReLU(inplace=True), linear(hidden, outputs, 1.0, generator))


def linear(inputs: int, outputs: int, gain: float, generator: torch.Generator) -> nn.Linear:
    """Return a layer with weights drawn from `generator` and zero bias; it multiplies the variance by gain^2."""
    layer = nn.Linear(inputs, outputs)
    with torch.no_grad():
        layer.weight.copy_(gain / math.sqrt(inputs) * torch.randn(outputs, inputs, generator=generator))
        layer.bias.zero_()
    return layer
