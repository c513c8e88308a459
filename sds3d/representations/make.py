"""All representations, and new scenes of any of them.

Representations are the `RepresentationConfig` subclasses with a `name` in this package, and those that other packages
register under the entry-point group `sds3d.representations`; see `sds3d.plugins`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sds3d.plugins import choices, union_of
from sds3d.representations.base import RepresentationConfig, Scene, Start
from sds3d.representations.particles import Particles


def representation_configs() -> tuple[type[RepresentationConfig], ...]:
    """Return the settings of every representation: ours in the order of their files, then other packages'."""
    return choices("sds3d.representations", RepresentationConfig, without=__name__)


if TYPE_CHECKING:
    AnyRepresentationConfig = RepresentationConfig
else:
    AnyRepresentationConfig = union_of(representation_configs())


def make_scene(config: RepresentationConfig, start: Start, particles: int = 1) -> Scene:
    """Make a new scene, or several that share the steps.

    Several particles start from the particles of `start.before` in turn.
    Raises EmptySurfaceError or ValueError if `start.before` is empty.
    """
    before = start.before.particles if start.before else [None]
    if particles == 1:
        return config.make(replace(start, before=before[0]))
    share = max(start.steps // particles, 1)
    starts = [replace(start, steps=share, before=before[i % len(before)]) for i in range(particles)]
    return Particles([config.make(each) for each in starts], start.generator)
