"""The newest pictures, kept for a rule to learn from."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.prompts.conditioning import Structure
from sds3d.states import part


class ViewCache:
    """The newest `size` batches of pictures in the prior's space, with their cameras and, for some, their structure."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.batches: list[tuple[Tensor, Cameras, Structure | None]] = []

    def add(self, x: Tensor, cameras: Cameras, structure: Structure | None = None) -> None:
        """Add x (B, C, h, w) of B cameras, and drop the oldest batch if there are too many."""
        self.batches = [*self.batches, (x.detach(), cameras, structure)][-self.size :]

    def draw(self, generator: torch.Generator) -> tuple[Tensor, Cameras, Structure | None]:
        """Return one of the batches, drawn uniformly."""
        return self.batches[int(torch.randint(len(self.batches), (), generator=generator))]

    def state_dict(self) -> dict[str, Tensor]:
        """Return all batches as "<index>/<name>"."""
        state = {}
        for index, (x, cameras, structure) in enumerate(self.batches):
            angles = torch.stack([cameras.azimuth, cameras.elevation, cameras.distance, cameras.fovy])  # (4, B)
            size = torch.tensor([cameras.height, cameras.width])
            state |= {f"{index}/x": x.clone(), f"{index}/cameras": angles, f"{index}/size": size}
            state |= {} if cameras.pose is None else {f"{index}/pose": cameras.pose}
            maps = {} if structure is None else structure.tensors()
            state |= {f"{index}/{name}": value for name, value in maps.items()}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Restore what `state_dict` returned."""
        self.batches = []
        for index in range(sum(key.endswith("/x") for key in state)):
            height, width = state[f"{index}/size"].tolist()
            azimuth, elevation, distance, fovy = state[f"{index}/cameras"].to(device)
            pose = state.get(f"{index}/pose")
            pose = None if pose is None else pose.to(device)
            cameras = Cameras(azimuth, elevation, distance, fovy, height, width, pose)
            batch = {name: value.to(device) for name, value in part(state, str(index)).items()}
            self.batches.append((batch["x"], cameras, Structure.of(batch)))
