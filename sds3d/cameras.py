"""Cameras: a batch of views, the orbits they are sampled from, and their matrices.

World frame, as in glTF: right-handed, +Y up, the front of the asset faces +Z, metres. A camera at azimuth 0 is on +Z
and sees the front; at azimuth 90 it is on +X. All angles are in degrees. Camera frame, as in OpenGL: x right, y up,
looking along -z.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from sds3d.config import Config, ConfigError, build
from sds3d.ramps import check_order


@dataclass(frozen=True)
class Cameras:
    """A batch of B pinhole cameras on orbits around the origin.

    azimuth, elevation: (B,) float32, degrees. distance: (B,) metres from the origin.
    fovy: (B,) vertical field of view in degrees. height, width: picture size in pixels.
    pose: (B, 4, 4) camera-to-world matrices of cameras that leave their orbits a little, see `look_at`; None: they look
    at the origin. Angles and distance are then those of the orbit, by which view words are chosen.
    """

    azimuth: Tensor
    elevation: Tensor
    distance: Tensor
    fovy: Tensor
    height: int
    width: int
    pose: Tensor | None = None

    def __len__(self) -> int:
        return self.azimuth.shape[0]

    def __getitem__(self, index: slice | Tensor) -> Cameras:
        return replace(
            self,
            azimuth=self.azimuth[index],
            elevation=self.elevation[index],
            distance=self.distance[index],
            fovy=self.fovy[index],
            pose=None if self.pose is None else self.pose[index],
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors that are not None by their names."""
        names = ("azimuth", "elevation", "distance", "fovy", "pose")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def to(self, device: torch.device | str) -> Cameras:
        """Return the same cameras on another device, moved in a transfer that nobody waits for."""
        wanted, present = torch.device(device), self.azimuth.device
        if wanted.type == present.type and wanted.index in (None, present.index):
            return self
        angles = torch.stack([self.azimuth, self.elevation, self.distance, self.fovy])  # (4, B)
        wait = present.type != "cpu"
        azimuth, elevation, distance, fovy = angles.to(device, non_blocking=not wait)
        pose = None if self.pose is None else self.pose.to(device, non_blocking=not wait)
        return replace(self, azimuth=azimuth, elevation=elevation, distance=distance, fovy=fovy, pose=pose)

    @staticmethod
    def cat(parts: Sequence[Cameras]) -> Cameras:
        """Concatenate batches; the picture size is that of the first."""
        return replace(
            parts[0],
            azimuth=torch.cat([part.azimuth for part in parts]),
            elevation=torch.cat([part.elevation for part in parts]),
            distance=torch.cat([part.distance for part in parts]),
            fovy=torch.cat([part.fovy for part in parts]),
            pose=None if all(part.pose is None for part in parts) else torch.cat([part.c2w() for part in parts]),
        )

    def resized(self, height: int, width: int) -> Cameras:
        """Return the same views at another resolution."""
        return replace(self, height=height, width=width)

    def position(self) -> Tensor:
        """Return the camera centres in the world, (B, 3), always the same tensor."""
        return self._position

    @cached_property  # a step asks for it many times
    def _position(self) -> Tensor:
        if self.pose is not None:
            return self.pose[:, :3, 3]
        azimuth, elevation = torch.deg2rad(self.azimuth), torch.deg2rad(self.elevation)
        direction = torch.stack(
            [elevation.cos() * azimuth.sin(), elevation.sin(), elevation.cos() * azimuth.cos()], dim=-1
        )
        return self.distance[:, None] * direction

    def c2w(self) -> Tensor:
        """Return camera-to-world matrices of OpenGL cameras, (B, 4, 4), always the same tensor."""
        return self._c2w

    @cached_property
    def _c2w(self) -> Tensor:
        if self.pose is not None:
            return self.pose
        azimuth, elevation = torch.deg2rad(self.azimuth), torch.deg2rad(self.elevation)
        zero = torch.zeros_like(azimuth)
        # From angles instead of a look-at, so that views straight up and down are defined.
        right = torch.stack([azimuth.cos(), zero, -azimuth.sin()], dim=-1)
        up = torch.stack([-elevation.sin() * azimuth.sin(), elevation.cos(), -elevation.sin() * azimuth.cos()], dim=-1)
        back = self.position() / self.distance[:, None]
        matrix = torch.zeros(len(self), 4, 4, dtype=azimuth.dtype, device=azimuth.device)
        matrix[:, :3, 0], matrix[:, :3, 1], matrix[:, :3, 2] = right, up, back
        matrix[:, :3, 3] = self.position()
        matrix[:, 3, 3] = 1.0
        return matrix

    def opencv_viewmats(self) -> Tensor:
        """Return world-to-camera matrices of OpenCV cameras (x right, y down, z forward), (B, 4, 4)."""
        matrix = torch.linalg.inv_ex(self.c2w()).inverse  # unlike inv, it does not wait for the device
        return torch.cat([matrix[:, :1], -matrix[:, 1:3], matrix[:, 3:]], dim=1)

    def intrinsics(self) -> Tensor:
        """Return pinhole matrices K in pixels, with pixel centres at half-integers, (B, 3, 3)."""
        focal = 0.5 * self.height / torch.tan(torch.deg2rad(self.fovy) / 2)
        matrix = torch.zeros(len(self), 3, 3, dtype=focal.dtype, device=focal.device)
        matrix[:, 0, 0], matrix[:, 1, 1] = focal, focal
        matrix[:, 0, 2], matrix[:, 1, 2], matrix[:, 2, 2] = self.width / 2, self.height / 2, 1.0
        return matrix

    def rays(self) -> tuple[Tensor, Tensor]:
        """Return ray origins and unit directions through pixel centres, row 0 at the top: two (B, H, W, 3)."""
        tan = torch.tan(torch.deg2rad(self.fovy) / 2)[:, None, None]  # (B, 1, 1)
        device, dtype = self.azimuth.device, self.azimuth.dtype
        rows = 1 - 2 * (torch.arange(self.height, device=device, dtype=dtype) + 0.5) / self.height
        columns = (2 * (torch.arange(self.width, device=device, dtype=dtype) + 0.5) - self.width) / self.height
        y = (rows[None, :, None] * tan).expand(-1, -1, self.width)  # (B, H, W)
        x = (columns[None, None, :] * tan).expand(-1, self.height, -1)
        local = torch.stack([x, y, -torch.ones_like(x)], dim=-1)
        directions = torch.einsum("bij,bhwj->bhwi", self.c2w()[:, :3, :3], local)
        directions = torch.nn.functional.normalize(directions, dim=-1)
        return self.position()[:, None, None, :].expand_as(directions), directions


def look_at(position: Tensor, target: Tensor, up: Tensor) -> Tensor:
    """Return camera-to-world matrices (B, 4, 4) of OpenGL cameras at `position` that see `target` in the middle.

    position, target, up: (B, 3). The picture's vertical is the part of `up` that is perpendicular to the line of sight;
    they must not be parallel.
    """
    back = torch.nn.functional.normalize(position - target, dim=-1)
    right = torch.nn.functional.normalize(torch.linalg.cross(up, back), dim=-1)
    matrix = torch.zeros(len(position), 4, 4, dtype=position.dtype, device=position.device)
    matrix[:, :3] = torch.stack([right, torch.linalg.cross(back, right), back, position], dim=-1)
    matrix[:, 3, 3] = 1.0
    return matrix


def orbit(
    azimuth: Sequence[float] | Tensor,
    elevation: float | Tensor = 15.0,
    distance: float | Tensor = 2.1,
    fovy: float | Tensor = 30.0,
    size: int = 64,
) -> Cameras:
    """Return cameras at the given azimuths (B values, degrees); the other values are shared or (B,) tensors."""
    azimuth = torch.as_tensor(azimuth, dtype=torch.float32)

    def spread(value: float | Tensor) -> Tensor:
        return torch.as_tensor(value, dtype=torch.float32).expand(azimuth.shape[0]).contiguous()

    return Cameras(azimuth, spread(elevation), spread(distance), spread(fovy), size, size)


def turntable(
    n_views: int, elevation: float = 15.0, distance: float = 2.1, fovy: float = 30.0, size: int = 64
) -> Cameras:
    """Return `n_views` cameras, evenly spaced around the object, starting at the front."""
    return orbit([360.0 * i / n_views for i in range(n_views)], elevation, distance, fovy, size)


LEAST_SIZE = 8
"""Least height and width of a render in pixels."""
MOST_OF_PRIOR = 128
"""Largest height and width of renders that follow the prior; larger ones have to be asked for."""


class CameraConfig(Config):
    """The distribution of the training cameras."""

    views: int = Field(default=4, ge=1, le=256)
    """Views per step. A multi-view prior needs a multiple of its number of views."""
    orthogonal: bool = True
    """Whether the views of a step are 360/views degrees apart, at one elevation and distance (MVDream, 2308.16512)."""
    group: int = Field(default=0, ge=0, le=256)
    """Views that a multi-view prior sees together. If `orthogonal`, they are 360/group degrees apart, and each group
    has its own elevation and distance. 0: all views of the step."""
    azimuth: tuple[float, float] = (0.0, 360.0)
    """Range of azimuths in degrees; 0 is the front. If `orthogonal`, that of the first view of a group."""
    stratified: bool = False
    """Whether views that are not `orthogonal` share the range of azimuths: one is in each of `views` equal parts."""
    elevation: tuple[float, float] = (0.0, 36.0)
    """Range of elevations in degrees."""
    elevation_by: Literal["angle", "area", "both"] = "angle"
    """What is uniform: the angle, the area of the sphere (fewer views near the poles), or each in half of the steps."""
    distance: tuple[float, float] = (2.05, 2.15)
    """Range of distances in metres. The asset fits into a 1 m cube."""
    frame: tuple[float, float] | None = None
    """Range of half the picture's height at the origin, in metres. It replaces `distance`: a camera with a narrow field
    of view is farther away, and the object has the same size in all pictures. null: `distance` is used."""
    fovy: tuple[float, float] = (30.0, 30.0)
    """Range of vertical fields of view in degrees."""
    position_jitter: float = Field(default=0.0, ge=0, le=1)
    """Largest shift of a camera in metres, uniform along each axis. Priors that take cameras get the place on the
    orbit, without jitter; MVDream gets the true pose."""
    target_jitter: float = Field(default=0.0, ge=0, le=1)
    """Standard deviation in metres, along each axis, of the point that a camera looks at, around the origin."""
    up_jitter: float = Field(default=0.0, ge=0, le=1)
    """Standard deviation, along each axis, of the upward vector (0, 1, 0), which tilts the horizon."""
    size: int = Field(default=64, ge=0, le=2048)
    """Height and width of the renders in pixels. 0: those of the prior's pictures, 128 at most."""
    coarse_size: int = Field(default=0, ge=0, le=2048)
    """Height and width of the first renders, which take less time, where these are smaller than `size`. 0: as `size`.
    """
    coarse_until: float = Field(default=0.5, ge=0, le=1)
    """Share of the steps, from the first, whose renders have `coarse_size`."""
    phases: tuple[dict[str, Any], ...] = ()
    """Settings that replace those above from some progress on, such as [{at: 0.5, size: 256, views: 4}]. A phase keeps
    what those before it set. Nothing else changes: rule, networks and optimiser go on."""

    def parts(self, picture_size: int = 64) -> list[tuple[float, CameraConfig]]:
        """Return the parts of a run with the same settings, in their order: the progress at which each begins, and its
        settings with sizes in pixels and without phases.

        picture_size: height and width of the prior's pictures.
        """
        parts: list[tuple[float, CameraConfig]]
        full = min(picture_size, MOST_OF_PRIOR)
        now: CameraConfig = self.model_copy(update={"size": self.size or full, "coarse_size": 0, "phases": ()})
        if self.coarse_size:  # coarse renders are a phase, too
            coarse = now.model_copy(update={"size": min(now.size, self.coarse_size)})
            parts = [(0.0, coarse), (self.coarse_until, now)]
            return parts
        parts = [(0.0, now)]
        for phase in self.phases:
            now = now.model_copy(update={key: value for key, value in phase.items() if key != "at"})
            now = now.model_copy(update={"size": now.size or full})
            parts.append((phase["at"], now))
        return parts

    def at(self, progress: float, picture_size: int = 64) -> CameraConfig:
        """Return the part that `progress` is in, from 0 at the first step to 1 at the last; see `parts`."""
        return [now for begin, now in self.parts(picture_size) if begin <= progress][-1]

    def full_size(self, picture_size: int = 64) -> int:
        """Return the height and width of the last renders. picture_size: those of the prior's pictures."""
        return self.parts(picture_size)[-1][1].size

    @model_validator(mode="after")
    def _phases_are_valid(self) -> Self:
        if self.phases and self.coarse_size:
            raise ValueError("give coarse_size or phases, not both: phases say every size")
        now, checked = self.model_dump(exclude={"phases"}), []
        for i, phase in enumerate(self.phases):
            begin = phase.get("at")
            if isinstance(begin, bool) or not isinstance(begin, (int, float)) or not 0 <= begin <= 1:
                raise ValueError(f"phases.{i}.at = {begin!r}: give its progress, from 0 to 1")
            patch = {key: value for key, value in phase.items() if key != "at"}
            if wrong := patch.keys() & {"phases", "coarse_size", "coarse_until"}:
                raise ValueError(f"phases.{i}.{min(wrong)}: it applies to the whole run, so set it outside of phases")
            try:
                config = build(CameraConfig, now, patch)
            except ConfigError as error:
                raise ValueError(f"in phases.{i}: {error}") from None
            now = config.model_dump(exclude={"phases"})
            checked.append({"at": float(begin)} | {key: getattr(config, key) for key in patch})
        check_order([phase["at"] for phase in checked])
        object.__setattr__(self, "phases", tuple(checked))  # as checked: tuples for lists
        return self

    @model_validator(mode="after")
    def _sizes(self) -> Self:
        for name in ("size", "coarse_size"):
            if 0 < (given := getattr(self, name)) < LEAST_SIZE:
                raise ValueError(f"{name} is {given}: give {LEAST_SIZE} pixels or more, or 0")
        return self

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        ranges = {"azimuth": (-360.0, 360.0), "elevation": (-90.0, 90.0), "distance": (1e-3, 1e3)}
        ranges |= {"frame": (1e-3, 1e3), "fovy": (1e-3, 179.0)}
        for name, (least, most) in ranges.items():
            low, high = getattr(self, name) or (least, most)
            if not least <= low <= high <= most:
                raise ValueError(
                    f"{name} is ({low:g}, {high:g}): give the lower bound first, within {least:g} to {most:g}"
                )
        if self.azimuth[1] - self.azimuth[0] > 360:
            raise ValueError(f"azimuth spans {self.azimuth[1] - self.azimuth[0]:g} degrees: give 360 at most")
        return self

    @model_validator(mode="after")
    def _whole_groups(self) -> Self:
        if self.group and self.views % self.group:
            raise ValueError(f"views = {self.views} is not a multiple of group = {self.group}")
        return self

    @property
    def distances(self) -> tuple[float, float]:
        """The least and the largest distance in metres, also of cameras with a `frame`."""
        if self.frame is None:
            return self.distance
        narrow, wide = (math.tan(math.radians(angle) / 2) for angle in self.fovy)
        return self.frame[0] / wide, self.frame[1] / narrow


def cameras_inside(config: CameraConfig, half: float) -> str:
    """Return a warning if a camera may be inside the cube [-half, half]^3 metres, which the object fills; or ""."""
    half += config.position_jitter  # as good as moving the cube
    nearest = config.distances[0]
    low, high = config.elevation
    flattest, steepest = (0.0 if low <= 0 <= high else min(abs(low), abs(high))), max(abs(low), abs(high))
    # Over an edge of the cube, a camera is inside if d cos(e) <= sqrt(2) half and d sin(e) <= half.
    edge = math.degrees(math.acos(min(math.sqrt(2) * half / nearest, 1.0)))
    roof = math.degrees(math.asin(min(half / nearest, 1.0)))
    if max(flattest, edge) > min(steepest, roof):
        return ""
    return (
        f"cameras at a distance of {nearest:g} m may be inside the cube of the object: raise the lower bound of "
        f"cameras.{'distance' if config.frame is None else 'frame'}"
    )


def camera_distance(config: CameraConfig) -> tuple[float, float]:
    """Return the middle of the distance range (metres) and of the field-of-view range (degrees). Where
    they change, those of the last steps count."""
    last = config.at(1.0)
    fovy = sum(last.fovy) / 2
    if last.frame is not None:
        return sum(last.frame) / 2 / math.tan(math.radians(fovy) / 2), fovy
    return sum(last.distance) / 2, fovy


def sample_cameras(config: CameraConfig, generator: torch.Generator, size: int = 0) -> Cameras:
    """Draw the cameras of one step, on the CPU, so that a seed gives the same cameras on every device.

    size: height and width in pixels; 0: `config.full_size()`.
    """

    views = config.views
    each = (config.group or views) if config.orthogonal else 1  # views that share what is drawn
    n = views // each

    def uniform(bounds: tuple[float, float]) -> Tensor:
        drawn = bounds[0] + (bounds[1] - bounds[0]) * torch.rand(n, generator=generator)
        return drawn.repeat_interleave(each)

    azimuth = uniform(config.azimuth)
    if config.orthogonal:
        azimuth = (azimuth + 360.0 * torch.arange(views) / each) % 360.0
    elif config.stratified:
        low, high = config.azimuth
        azimuth = low + (azimuth - low + (high - low) * torch.arange(views)) / views
    elevation = uniform(config.elevation)
    distance = uniform(config.frame or config.distance)
    fovy = uniform(config.fovy)
    if config.frame is not None:
        distance = distance / torch.tan(torch.deg2rad(fovy) / 2)
    by_angle = config.elevation_by == "both" and bool(torch.rand((), generator=generator) < 0.5)
    if config.elevation_by != "angle" and not by_angle:
        elevation = _by_area(elevation, config.elevation)
    cameras = orbit(azimuth, elevation, distance, fovy, size or config.full_size())
    if not (config.position_jitter or config.target_jitter or config.up_jitter):
        return cameras
    shift = config.position_jitter * (2 * torch.rand(views, 3, generator=generator) - 1)
    target = config.target_jitter * torch.randn(views, 3, generator=generator)
    up = torch.tensor([0.0, 1.0, 0.0]) + config.up_jitter * torch.randn(views, 3, generator=generator)
    return replace(cameras, pose=look_at(cameras.position() + shift, target, up))


def _by_area(elevation: Tensor, bounds: tuple[float, float]) -> Tensor:
    """Return elevations uniform in the area of the sphere, made from ones that are uniform in degrees."""
    low, high = bounds
    share = (elevation - low) / max(high - low, 1e-6)
    bottom, top = (math.sin(math.radians(bound)) for bound in bounds)
    return torch.rad2deg(torch.asin((bottom + (top - bottom) * share).clamp(-1, 1)))
