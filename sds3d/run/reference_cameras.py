"""Finding and refining the camera of a picture, for example by comparing renders of the scene with it.

Renders alone are needed, no gradients, so this works for any representation and never waits for a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from sds3d.cameras import Cameras, orbit
from sds3d.representations.base import Scene
from sds3d.run.reference_pictures import COLOR, MASK, SEEN

SIZE = 48
"""Height and width of the renders that are compared."""
AZIMUTHS = 24
ELEVATIONS = (0.0, 15.0, 30.0, 45.0, 60.0)
"""Degrees; a search tries each of them at all azimuths."""
FINALISTS = 4
"""Best cameras of the grid, the neighbourhoods of which are searched, too."""
ROUNDS = 5
"""Steps of the search around a finalist."""
PROBE = (7.5, 5.0, 0.05)
"""Largest step of azimuth and elevation in degrees, and of the logarithm of distance or zoom."""
LEAST_PACE = 0.1
"""Smallest share of `PROBE` that a step has."""
MOST_AWAY = 0.5
"""Largest change of the logarithm of distance or zoom."""
MOST_ASIDE = 0.3
"""Largest shift, in halves of the picture's height."""
_OUTLINE = 2.0  # weight of opacities beside colours
_AT_ONCE = 32  # renders
_GREY = 0.5


@dataclass(frozen=True)
class Place:
    """Where cameras are before they are changed. camera: B of them. zooms: (B,), which of them change by a zoom."""

    camera: Cameras
    zooms: Tensor

    def __getitem__(self, index: slice) -> Place:
        return Place(self.camera[index], self.zooms[index])

    def changed(self, changes: Tensor, size: int) -> Cameras:
        """Return cameras that are changed by (C, 5); B is C or 1.

        The first two are added to azimuth and elevation in degrees. The third is added to the logarithm of the distance
        or, for a zoom, of the tangent of half the field of view: the object becomes smaller. The others move the object
        to the right and down, in halves of the picture's height.
        """
        camera, count = self.camera, len(changes)
        elevation = (camera.elevation + changes[:, 1]).clamp(-89, 89)
        smaller = changes[:, 2].exp()
        distance = torch.where(self.zooms, camera.distance, camera.distance * smaller)
        tangent = torch.tan(torch.deg2rad(camera.fovy) / 2) * torch.where(self.zooms, smaller, 1.0)
        fovy = torch.rad2deg(2 * torch.atan(tangent)).expand(count)
        moved = orbit(camera.azimuth + changes[:, 0], elevation, distance.expand(count), fovy, size)
        pose, aside = moved.c2w().clone(), (distance * tangent)[:, None] * changes[:, 3:]  # (C, 2) metres
        pose[:, :3, 3] += aside[:, 1:] * pose[:, :3, 1] - aside[:, :1] * pose[:, :3, 0]
        return replace(moved, pose=pose)


@torch.no_grad()
def search(loss: Callable[[Tensor], Tensor], device: torch.device, near: Tensor | None = None) -> Tensor:
    """Return the azimuth and elevation (2,) in degrees with the least loss, everywhere or `near` (2,) others.

    loss: maps angles (M, 2) to (M,).
    """
    azimuth = torch.arange(AZIMUTHS, device=device) * (360.0 / AZIMUTHS)
    grid = torch.cartesian_prod(azimuth, torch.tensor(ELEVATIONS).to(device, non_blocking=True))  # (M, 2)
    grid = grid if near is None else near[None]
    of_grid = loss(grid)
    best = grid[of_grid.argsort()[:FINALISTS]]  # (F, 2)
    least = of_grid.sort().values[:FINALISTS]
    axes = torch.diag(torch.tensor(PROBE[:2]))
    around = torch.cat([axes, -axes]).to(device, non_blocking=True)  # (4, 2)
    for pace in torch.logspace(0, -1, ROUNDS, 2).tolist():
        probes = best[:, None] + pace * around  # (F, 4, 2)
        found, index = loss(probes.reshape(-1, 2)).reshape(len(best), -1).min(dim=1)
        closer = found < least
        best = torch.where(closer[:, None], probes[torch.arange(len(best), device=device), index], best)
        least = torch.where(closer, found, least)
    return best[least.argmin()[None]][0]


def unlikeness(scene: Scene, place: Place, layers: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a loss for `search`: how much the scene's renders differ from a picture, moved and scaled to the render.

    place: of one camera, at azimuth and elevation 0. layers: (1, SIZE, SIZE, C), see `View`.
    """

    def loss(angles: Tensor) -> Tensor:
        return _compare(scene, place, functional.pad(angles, (0, 3)), layers, aligned=True)[0]

    return loss


def product(*losses: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return the product of losses: their relative differences count, whatever their units."""
    return lambda angles: torch.stack([loss(angles) for loss in losses]).prod(dim=0)


@torch.no_grad()
def placed(scene: Scene, place: Place, layers: Tensor, angles: Tensor) -> Tensor:
    """Return the changes (5,) with which a picture's object has the place and the size of the scene's render.

    angles: (2,), azimuth and elevation of its camera. place, layers: see `unlikeness`.
    """
    _, scale, shift = _compare(scene, place, functional.pad(angles, (0, 3))[None], layers, aligned=True)
    away = scale.log().clamp(-MOST_AWAY, MOST_AWAY)  # where the render is too large, it must become smaller
    return torch.cat([angles, away, shift[0].clamp(-MOST_ASIDE, MOST_ASIDE)])


def as_rendered(layers: Tensor, changes: Tensor) -> Tensor:
    """Return a picture's layers (1, S, S, C) as they are in a render without the zoom and shift of `changes` (5,)."""
    return _moved(layers, changes[2:3].exp(), changes[None, 3:])


@torch.no_grad()
def refine(
    scene: Scene, place: Place, layers: Tensor, changes: Tensor, pace: Tensor, aligned: bool
) -> tuple[Tensor, Tensor]:
    """Do one step of a compass search: return the changes (5,) and the pace () after it.

    The step is the best of six, forward and back along each axis, of a length of `pace` times `PROBE`. If none is
    better than staying, the pace is halved; otherwise it grows. A zoom stays: the scene would follow it forever.

    aligned: compare after moving the picture's object to the place and the size of the render's.
    """
    lengths = torch.tensor(PROBE).to(changes.device, non_blocking=True)
    lengths = lengths * torch.cat([pace.new_ones(2), (~place.zooms).to(pace)])
    axes = functional.pad(torch.diag(pace * lengths), (0, 2))  # (3, 5)
    probes = changes + torch.cat([torch.zeros_like(axes[:1]), axes, -axes])  # (7, 5)
    probes[:, 2].clamp_(-MOST_AWAY, MOST_AWAY)
    loss, _, _ = _compare(scene, place, probes, layers, aligned)
    best = loss.argmin()
    pace = torch.where(best > 0, 1.5 * pace, 0.5 * pace).clamp(LEAST_PACE, 1.0)
    return probes[best[None]][0], pace


def _compare(
    scene: Scene, place: Place, changes: Tensor, layers: Tensor, aligned: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return how much renders differ from a picture (B,), how much larger the object is in them (B,), and the shift
    (B, 2) of the object in the picture, once it has the same size.

    aligned: move the picture's object to the place and the size of the render's first.
    """
    losses, scales, shifts = [], [], []
    for some in changes.split(_AT_ONCE):
        rendering = scene.portray(place.changed(some, SIZE), torch.full((3,), _GREY, device=layers.device))
        middle, size = _moments(rendering.alpha)
        my_middle, my_size = _moments(layers[..., MASK])
        scale = size / my_size  # (B,)
        shift = my_middle - middle / scale[:, None]
        given = _moved(layers, scale, shift) if aligned else layers
        picture = given[..., COLOR] + _GREY * (1 - given[..., MASK])
        color = (rendering.rgb - picture).square().sum(-1, keepdim=True) * float(scene.shows_colors)
        outline = (rendering.alpha - given[..., MASK]).square()
        losses.append((given[..., SEEN] * (color + _OUTLINE * outline)).mean(dim=(1, 2, 3)))
        scales.append(scale)
        shifts.append(shift)
    return torch.cat(losses), torch.cat(scales), torch.cat(shifts)


def _moved(layers: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return the picture (B, S, S, C), its object `scale` (B,) times as large and moved back by the shift (B, 2)."""
    matrix = torch.zeros(len(scale), 2, 3, device=scale.device)
    matrix[:, 0, 0] = matrix[:, 1, 1] = 1 / scale
    matrix[:, :, 2] = shift
    planes = layers.permute(0, 3, 1, 2).expand(len(scale), -1, -1, -1)
    grid = functional.affine_grid(matrix, list(planes.shape), align_corners=False)
    moved = functional.grid_sample(planes, grid, align_corners=False).permute(0, 2, 3, 1)
    ones = torch.ones_like(moved[..., SEEN])  # what is outside of the picture is empty
    return torch.cat([moved[..., COLOR], moved[..., MASK], ones, moved[..., 5:]], dim=-1)


def _moments(opacity: Tensor) -> tuple[Tensor, Tensor]:
    """Return the middle (B, 2) and the mean radius (B,) of opacities (B, S, S, 1); x right, y down, from -1 to 1."""
    size = opacity.shape[1]
    axis = (2 * torch.arange(size, device=opacity.device) + 1) / size - 1
    opacity = (2 * opacity - 0.5).clamp(0, 1)  # fog around an object that is not finished does not count
    total = opacity.sum(dim=(1, 2, 3)).clamp_min(1.0)
    x, y = ((opacity[..., 0] * place).sum(dim=(1, 2)) / total for place in (axis, axis[:, None]))
    square = (axis - x[:, None, None]).square() + (axis[:, None] - y[:, None, None]).square()
    return torch.stack([x, y], dim=-1), ((opacity[..., 0] * square).sum(dim=(1, 2)) / total).clamp_min(1e-4).sqrt()
