"""Settings of the pictures that a run follows."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from sds3d.config import Config, FileName
from sds3d.ramps import Ramp

MOST = 256
"""Largest number of pictures."""

Weight = Annotated[Ramp, Field(ge=0)]
Share = Annotated[float, Field(ge=-1, le=2)]
Row = tuple[float, float, float, float]


class ReferenceConfig(Config):
    """A picture of the object, the camera that took it, and the weights of its losses.

    The losses have the unit of 1/2 sum |rgb - target|^2 over the pixels of a render; those of several pictures add up.
    """

    image: FileName = Field(min_length=1)
    """A PNG, JPEG or WebP file."""
    azimuth: float | None = Field(default=None, ge=-360, le=360)
    """Degrees around the object: 0 sees its front, 90 its side at +X. null: found by comparing renders with the picture
    after 40 % of the steps; from then on the run follows it."""
    elevation: float | None = Field(default=None, ge=-90, le=90)
    """Degrees above the horizon. null: found, like the azimuth."""
    distance: float | None = Field(default=None, gt=0, le=1000)
    """Metres from the origin; the object fits a cube of 1 m. null: the picture is cut to the object, which then has the
    size that it has in renders."""
    fovy: float | None = Field(default=None, gt=0, lt=179)
    """Vertical field of view of the picture in degrees. null: that of the renders."""
    pose: tuple[Row, Row, Row, Row] | None = None
    """Camera-to-world matrix (x right, y up, looking along -z; +Y is up in the world), in place of azimuth, elevation
    and distance."""
    center: tuple[Share, Share] = (0.5, 0.5)
    """Where the camera's axis meets the picture, from its upper left corner, as shares of its width and height. Needs
    distance or pose: without them, the picture is cut to the object."""
    mask: FileName = ""
    """A picture of the same shape, white or opaque where the object is. Empty: the picture's own transparency or, if it
    has none, what stands out from a border of one colour."""
    depth: FileName = ""
    """A grey picture of the same shape, brighter where the object is nearer, on any scale."""
    normal: FileName = ""
    """A picture of the same shape with normals in the camera's frame as colours, (n + 1) / 2: x right, y up, z towards
    the camera, so that surfaces that face it are light blue."""
    color_weight: Weight = Ramp(2.0)
    """Weight of the colours: 1/2 |rgb - picture|^2, both over the same random grey."""
    mask_weight: Weight = Ramp(1.0)
    """Weight of the outline: 1/2 |opacity - mask|^2."""
    depth_weight: Weight = Ramp(0.1)
    """Weight of the depth: one minus its correlation with the render's, times the object's pixels."""
    normal_weight: Weight = Ramp(0.1)
    """Weight of the normals: one minus the cosine of their angle to the render's, summed over the object's pixels."""
    refine: bool = False
    """Whether azimuth, elevation and distance are corrected, for cameras that are known roughly: every five steps after
    40 % of them."""
    every: int = Field(default=1, ge=1)
    """Steps from one look at the picture to the next. Pictures with the same number take turns."""

    @model_validator(mode="after")
    def _one_camera(self) -> Self:
        angles = (self.azimuth, self.elevation, self.distance)
        if self.pose is not None and any(value is not None for value in angles):
            raise ValueError("give either pose, or azimuth, elevation and distance")
        if self.pose is not None and self.fovy is None:
            raise ValueError("pose needs the picture's field of view: give fovy")
        if self.pose is None and (self.azimuth is None) != (self.elevation is None):
            raise ValueError("give both azimuth and elevation")
        if self.azimuth is None and self.distance is not None:
            raise ValueError("distance needs azimuth and elevation")
        if self.center != (0.5, 0.5) and self.pose is None and self.distance is None:
            raise ValueError("center needs distance or pose: without them, the picture is cut to the object")
        if self.pose is not None and self.refine:
            raise ValueError("refine needs azimuth and elevation instead of pose")
        return self

    @property
    def sought(self) -> bool:
        """Whether its camera has to be found."""
        return self.pose is None and self.azimuth is None

    @field_validator("pose")
    @classmethod
    def _is_rigid(cls, pose: tuple[Row, Row, Row, Row] | None) -> tuple[Row, Row, Row, Row] | None:
        if pose is not None:
            axes = list(zip(*(row[:3] for row in pose[:3]), strict=True))
            products = [sum(a * b for a, b in zip(u, v, strict=True)) for u in axes for v in axes]
            close = all(abs(value - (i % 4 == 0)) < 1e-3 for i, value in enumerate(products))
            (a, b, c), (d, e, f), (g, h, i) = axes
            if not close or a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g) < 0:
                raise ValueError("the first three columns must be a rotation: right, up and back, of length 1")
            if any(abs(value - want) > 1e-6 for value, want in zip(pose[3], (0, 0, 0, 1), strict=True)):
                raise ValueError("the last row must be 0, 0, 0, 1")
        return pose
