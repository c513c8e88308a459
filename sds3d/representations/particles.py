"""Several scenes of one prompt that are optimised side by side (ProlificDreamer, arXiv:2305.16213, sec. 3.2).

Variational rules learn the score of a distribution of scenes. With several scenes, one of which is drawn at random in
each step, their network trains on varied renders, and the scenes are samples of the prior's distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.geometry.mesh import Mesh
from sds3d.representations.base import Rendering, Scene
from sds3d.states import part, prefixed


class Particles(Scene):
    """Several scenes as one: each step renders and optimises one of them, drawn at random; previews show the first.

    generator: draws the seed that determines which scene each step uses.
    """

    def __init__(self, scenes: Sequence[Scene], generator: torch.Generator) -> None:
        if not scenes:
            raise ValueError("particles need at least one scene")
        self.scenes = list(scenes)
        self._steps = [0] * len(self.scenes)
        self._seed = int(torch.randint(2**62, (), generator=generator))

    @property
    def particles(self) -> Sequence[Scene]:
        """All scenes, in a fixed order."""
        return self.scenes

    @property
    def drawn(self) -> int:
        """Index of the present step's scene; it depends on the step alone, so that a resumed run draws the same."""
        stream = torch.Generator().manual_seed(self._seed + sum(self._steps))
        return int(torch.randint(len(self.scenes), (), generator=stream))

    def render(self, cameras: Cameras, background: Tensor) -> Rendering:
        """Render the step's scene with gradients enabled, the first scene otherwise."""
        return self._shown.render(cameras, background)

    def portray(self, cameras: Cameras, background: Tensor) -> Rendering:
        """Portray the scene that `render` renders."""
        return self._shown.portray(cameras, background)

    @property
    def shows_colors(self) -> bool:
        """What the scenes say; they have the same settings."""
        return self.scenes[0].shows_colors

    @property
    def _shown(self) -> Scene:
        return self.scenes[self.drawn if torch.is_grad_enabled() else 0]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the groups of all scenes, one scene after the other."""
        return [group for scene in self.scenes for group in scene.parameter_groups()]

    def regularisers(self, rendering: Rendering, progress: float) -> dict[str, Tensor]:
        """Return the losses of the step's scene."""
        return self.scenes[self.drawn].regularisers(rendering, progress)

    def after_step(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Update the step's scene. Each scene counts its own steps, and its densification is scheduled by them."""
        drawn = self.drawn
        self.scenes[drawn].after_step(self._steps[drawn], optimizer)
        self._steps[drawn] += 1

    def edits(self, step: int) -> bool:
        """Return whether the step's scene edits itself."""
        drawn = self.drawn
        return self.scenes[drawn].edits(self._steps[drawn])

    def to_mesh(self, resolution: int) -> Mesh:
        """Return the surface of the first scene. Raises EmptySurfaceError."""
        return self.scenes[0].to_mesh(resolution)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the states of all scenes as "<index>/<name>", their step counts and the seed."""
        states: dict[str, Tensor] = {}
        for index, scene in enumerate(self.scenes):
            states |= prefixed(str(index), scene.state_dict())
        return states | {"steps": torch.tensor(self._steps), "seed": torch.tensor(self._seed)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned. Raises ValueError for another number of scenes."""
        if "steps" not in state or len(state["steps"]) != len(self.scenes):
            count = len(state["steps"]) if "steps" in state else 1
            raise ValueError(f"the state holds {count} particles, not {len(self.scenes)}: set particles={count}")
        for index, scene in enumerate(self.scenes):
            scene.load_state_dict(part(state, str(index)))
        self._steps = state["steps"].tolist()
        self._seed = int(state["seed"])
