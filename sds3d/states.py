"""States as flat tensors by name, "<part>/<name>": what checkpoints hold, of however many parts."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def prefixed(name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a part, named after it."""
    return {f"{name}/{key}": value for key, value in state.items()}


def part(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The inverse of `prefixed`: what belongs to the part of that name."""
    return {key.removeprefix(f"{name}/"): value for key, value in state.items() if key.startswith(f"{name}/")}


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Step counts and moments, "<parameter's index>/<name>"."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}/{name}": torch.as_tensor(value) for index, moments in state.items() for name, value in moments.items()
    }


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
    """Takes back what `optimizer_state` gave; rates and the like stay those of the optimiser."""
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in state.items():
        index, _, name = key.partition("/")
        moments.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
