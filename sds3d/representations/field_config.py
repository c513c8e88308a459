"""The settings that radiance fields share. The scene that they describe is in `field_nerf`."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal, Self

import torch
from pydantic import Field, model_validator

from sds3d.ramps import Ramp
from sds3d.rendering.resampling import Fine, Kernel
from sds3d.representations.base import RepresentationConfig
from sds3d.representations.field_shading import FieldShading
from sds3d.representations.fields import DENSITY_SCALE, Blob, DecoderOptions, RadianceField


class FieldNerfConfig(RepresentationConfig):
    """Settings that radiance fields share.

    The weights balance the loop's data term, 1/2 sum |rgb - target|^2 per view.
    """

    samples: int = Field(default=64, ge=8, le=1024)
    """Steps of a ray per side of the cube; diagonal rays take more."""
    fine_samples: int = Field(default=0, ge=0, le=512)
    """Further samples per ray, where those of `samples` found matter, as in NeRF; HiFA's code has 64. The field is
    evaluated once more to find it."""
    fine_kernel: Kernel = "none"
    """How the weights along a ray are smoothed before further samples are drawn by them, so that these also fall beside
    a thin surface. boxcar: the mean of a cell and its two neighbours (HiFA, sec. 3.4). trapezoidal: 3/4 of a cell and
    1/8 of both."""
    hidden: int = Field(default=32, ge=4, le=256)
    """Width of the small network that turns the encoding into density and colour."""
    separate: bool = False
    """Whether density and colour have a hidden layer each, as in threestudio, instead of one together."""
    color: Literal["sigmoid", "linear"] = "sigmoid"
    """How outputs y of the network become colours: sigmoid(y), or linear, (y + 1) / 2, without bounds."""
    density: Literal["softplus", "exponential"] = "softplus"
    """How the network's pre-activation becomes density; both start from the blob below."""
    density_scale: float = Field(default=DENSITY_SCALE, gt=0)
    """Density per metre where the softplus or exponential of the pre-activation is 1. threestudio has 1 for its unit of
    length; its start shape is then blob_height=10, blob_radius=0.5."""
    blob_height: float = 10.0
    """Density blob at the start: pre-activation at the centre."""
    blob_radius: float = Field(default=0.275, gt=0)
    """Density blob at the start: radius in metres at which the pre-activation of a cone is 0, or standard deviation of
    a bump."""
    blob_shape: Literal["cone", "bump"] = "cone"
    """Pre-activation of the blob by the distance from its centre: a cone that goes on below 0, or a Gaussian bump."""
    opacity: Ramp = Field(default=Ramp(0.04), ge=0)
    """Weight of the opacity, summed over a view's pixels: prevents fog."""
    entropy: Ramp = Field(default=Ramp(0.02), ge=0)
    """Weight, at the last step, of the binary entropy of the opacity (nats), summed over a view's pixels: pushes pixels
    to be either opaque or empty. A plain number rises linearly
    from 0."""
    density_smoothness: Ramp = Field(default=Ramp(7.5e-5), ge=0)
    """Weight, times a view's number of pixels, of the mean squared difference of the density's pre-activation between
    points 2.3 cm apart."""
    color_smoothness: Ramp = Field(default=Ramp(7.5e-4), ge=0)
    """Weight, times a view's number of pixels, of the mean squared difference of colours between points 2.3 cm
    apart."""
    z_variance: Ramp = Field(default=Ramp(0.0), ge=0)
    """Weight of the variance of the depth along rays (HiFA, square metres), summed over a view's opaque pixels: gathers
    the matter along a ray in one surface. A plain number rises linearly until the middle of the run. Paper: 3."""
    sparsity: Ramp = Field(default=Ramp(0.0), ge=0)
    """Weight of sqrt(opacity^2 + 0.01), summed over a view's pixels: threestudio's sparsity. Its weights are for means
    over pixels: divide them by the pixels of a full-size view, cameras.size^2. The next three settings need it too."""
    orientation: Ramp = Field(default=Ramp(0.0), ge=0)
    """Weight, times a view's number of pixels, of matter that faces away from the camera: the sums along rays of sample
    weight times max(n.d, 0)^2, averaged over the rays that hit anything (Ref-NeRF, DreamFusion)."""
    normal_smoothness: Ramp = Field(default=Ramp(0.0), ge=0)
    """Weight, times a view's number of pixels, of the mean squared difference of neighbouring pixels' normals as
    colours."""
    convexity: Ramp = Field(default=Ramp(0.0), ge=0)
    """Weight, times a view's number of pixels, of the loss that prefers bulges to hollows (SDI). It compares normals at
    8 x 8 places of the picture."""
    normal_step: float = Field(default=0.01, ge=0)
    """Half-width in metres of the central differences of the density that give the normals of light and of the three
    losses above. 0: the exact gradient."""
    shading: FieldShading | None = None
    """Light in training: colours, white and normals under lamps that differ from step to step. null: plain colours."""
    latent_channels: int = Field(default=0, ge=0, le=64)
    """Channels of the prior's latents to render instead of colours, as in Latent-NeRF: 4 for Stable Diffusion, 12 for
    the embedded prior; 0 renders colours. With latents, set cameras.size to their height: the image size divided by 8,
    or by 4 for the embedded prior."""
    normals: bool = False
    """Compute normals in training by finite differences of the density, for rules that use normals. Steps take a third
    longer. Otherwise normals are computed from the depth, and are noisy."""
    refine: bool = False
    """Map latents to colours before guidance, and learn the linear map: the last stage of Latent-NeRF, after a stage
    that renders latents. Set cameras.size to the picture's height again."""
    refine_lr: float = Field(default=0.01, gt=0)
    """Learning rate of the map from latents to colours."""
    sketch: str = ""
    """File with a coarse mesh that the shape stays close to: the Sketch-Shape of Latent-NeRF."""
    sketch_weight: float = Field(default=0.05, ge=0)
    """Weight, times a view's number of pixels, of the mean cross-entropy between the occupancy and the sketch's
    inside."""
    sketch_slack: float = Field(default=0.05, gt=0)
    """Distance in metres by which the shape may deviate from the sketch."""

    @model_validator(mode="after")
    def _refine_needs_latents(self) -> Self:
        if self.refine and not self.latent_channels:
            raise ValueError("refine turns latents into colours: set latent_channels, or leave refine out")
        if self.shading is not None and self.latent_channels:
            raise ValueError("shading lights colours, and latents have none: leave out shading or latent_channels")
        return self

    @property
    def renders_latents(self) -> bool:
        """Whether the field holds latents in place of colours."""
        return self.latent_channels > 0

    @property
    def latents(self) -> int:
        """Channels of the latents that guidance sees; 0 if the field holds colours, or if they become colours first."""
        return 0 if self.refine else self.latent_channels

    @property
    def fine(self) -> Fine | None:
        """What adds further samples along rays; None if there are none."""
        return Fine(self.fine_samples, self.fine_kernel) if self.fine_samples else None

    def for_loading(self) -> Self:
        """Return the settings without the sketch, which only training reads: its file may be gone."""
        return self.model_copy(update={"sketch": ""})

    def decoder_options(self) -> DecoderOptions:
        """Return the options of the small network of a field."""
        return {
            "channels": self.latent_channels or 3,
            "color": not self.renders_latents,
            "hidden": self.hidden,
            "blob": Blob(self.blob_height, self.blob_radius, self.blob_shape),
            "exponential": self.density == "exponential",
            "scale": self.density_scale,
            "separate": self.separate,
            "linear": self.color == "linear",
        }

    @abstractmethod
    def make_field(self, generator: torch.Generator) -> RadianceField:
        """Make a new field with initial values drawn from `generator`."""
