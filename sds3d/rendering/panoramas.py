"""Panoramas of light: built-in studios, random lamps, and pictures that are made smaller.

A panorama is (h, w, 3), linear radiance of at least 0, laid out as `shading.prefilter` wants it: the top row looks up
(+Y), the middle column along +Z, the column a quarter of the width to its right along +X.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from sds3d.rendering.shading import Environment, prefilter, studio

Studio = Literal["studio", "even", "side", "top"]
"""Names of the built-in lights."""

HEIGHT = 32
"""Rows of a panorama that is prefiltered: the prefiltered maps hold no finer detail."""

_MEAN = 0.7  # mean radiance of panoramas with lamps, about that of the studio


def built_in(name: Studio) -> Tensor:
    """Return a panorama of grey light.

    studio: grey walls, light from above, two soft lamps. even: radiance 1 from everywhere. side: a lamp from the left.
    top: a broad lamp above.
    """
    if name == "studio":
        return studio()
    if name == "even":
        return torch.ones(16, 32, 3)
    where, width, ambient = ((-0.85, 0.45, 0.25), 0.45, 0.15) if name == "side" else ((0.0, 1.0, 0.0), 0.8, 0.2)
    return with_lamps(torch.tensor([where]), torch.tensor([width]), torch.ones(1, 3), ambient)


def random_lamps(generator: torch.Generator, count: tuple[int, int] = (2, 4), tint: float = 0.3) -> Tensor:
    """Return a panorama of a few soft lamps at random places in the upper three quarters, with a dim grey between.

    count: least and greatest number of lamps, both included. tint: how strongly they are coloured, 0 (white) to 1.
    """
    n = int(torch.randint(count[0], count[1] + 1, (), generator=generator))
    up = 1.5 * torch.rand(n, generator=generator) - 0.5
    turn = 2 * math.pi * torch.rand(n, generator=generator)
    level = (1 - up**2).sqrt()
    where = torch.stack([level * turn.sin(), up, level * turn.cos()], dim=-1)
    width = 0.15 + 0.45 * torch.rand(n, generator=generator)
    power = 0.4 + torch.rand(n, 1, generator=generator)
    color = 1 - tint * torch.rand(n, 3, generator=generator)
    ambient = 0.1 + 0.25 * float(torch.rand((), generator=generator))
    return with_lamps(where, width, power * color / color.mean(1, keepdim=True), ambient)


def with_lamps(where: Tensor, width: Tensor, power: Tensor, ambient: float) -> Tensor:
    """Return a panorama (32, 64, 3) of soft lamps.

    where: (N, 3) directions towards them, of any length. width: (N,) radians, the radius of each. power: (N, 3), their
    relative radiant power. ambient: share of the light that comes evenly from everywhere. Its mean radiance is 0.7.
    """
    directions = panorama_directions(HEIGHT)  # (h, w, 3)
    cosine = directions @ functional.normalize(where, dim=-1).T  # (h, w, N)
    sharpness = 1 / width.square()
    lobes = torch.exp(sharpness * (cosine - 1)) * sharpness  # of equal integrals, nearly
    lamps = lobes @ power
    area = solid_angles(HEIGHT, 2 * HEIGHT)
    mean = (lamps * area).sum((0, 1)).mean() / (4 * math.pi)
    return _MEAN * (ambient + (1 - ambient) * lamps / mean)


def panorama_directions(height: int) -> Tensor:
    """Return unit vectors (height, 2 height, 3) in which the pixels of a panorama look."""
    polar = (torch.arange(height) + 0.5) * (math.pi / height)
    turn = (torch.arange(2 * height) + 0.5) * (math.pi / height) - math.pi
    polar, turn = torch.meshgrid(polar, turn, indexing="ij")
    return torch.stack([polar.sin() * turn.sin(), polar.cos(), polar.sin() * turn.cos()], dim=-1)


def solid_angles(height: int, width: int) -> Tensor:
    """Return the solid angles (height, width, 1) of a panorama's pixels, in steradians."""
    edges = torch.linspace(0, math.pi, height + 1, dtype=torch.float64).cos()
    rows = ((edges[:-1] - edges[1:]) * (2 * math.pi / width)).float()
    return rows[:, None, None].expand(height, width, 1)


def reduced(panorama: Tensor, height: int = HEIGHT) -> Tensor:
    """Return a panorama with at most `height` rows and twice as many columns. The mean radiance over the sphere stays:
    each pixel is the mean over its solid angle, and pixels on an edge are divided.
    """
    rows, columns = panorama.shape[:2]
    if rows <= height:
        return panorama

    def heights(n: int) -> Tensor:  # of the edges of n rows on the unit sphere, down from its top
        return 1 - torch.linspace(0, math.pi, n + 1, dtype=torch.float64).cos()

    down = _shares(heights(rows), heights(height)).to(panorama)
    across = _shares(*(torch.linspace(0, 1, n + 1, dtype=torch.float64) for n in (columns, 2 * height))).to(panorama)
    return torch.einsum("jw,iwc->ijc", across, torch.einsum("ih,hwc->iwc", down, panorama))


def _shares(edges: Tensor, new_edges: Tensor) -> Tensor:
    """Return the shares (M, N) of N intervals in M others on the same line; edges: (N + 1,) and (M + 1,), growing."""
    begin = torch.maximum(edges[None, :-1], new_edges[:-1, None])
    end = torch.minimum(edges[None, 1:], new_edges[1:, None])
    return (end - begin).clamp(min=0) / (new_edges[1:] - new_edges[:-1])[:, None]


def turned(panorama: Tensor, degrees: float) -> Tensor:
    """Return a panorama turned about +Y, counter-clockwise seen from above: light from the front (+Z) comes from +X
    after 90 degrees. Columns between two pixels are interpolated.
    """
    width = panorama.shape[1]
    shift = (degrees % 360) * width / 360
    whole = math.floor(shift)
    part = shift - whole
    low = panorama.roll(whole, dims=1)
    return low if part == 0 else (1 - part) * low + part * panorama.roll(whole + 1, dims=1)


def all_prefiltered(panoramas: Sequence[Tensor], filtered: Callable[[Tensor], Environment] = prefilter) -> Environment:
    """Return the environments of K panoramas as one, see `Environment`."""
    each = [filtered(panorama) for panorama in panoramas]
    return Environment(torch.cat([e.diffuse for e in each]), torch.cat([e.specular for e in each]))
