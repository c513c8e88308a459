"""State dictionaries as flat tensors named "<part>/<name>", as checkpoints store them, and files of tensors."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor


def prefixed(name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Prefix the names of a part's state with the name of the part."""
    return {f"{name}/{key}": value for key, value in state.items()}


def part(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return the state of one part: the inverse of `prefixed`."""
    return {key.removeprefix(f"{name}/"): value for key, value in state.items() if key.startswith(f"{name}/")}


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return step counts and moments, named "<index of the parameter>/<name>"."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}/{name}": torch.as_tensor(value) for index, moments in state.items() for name, value in moments.items()
    }


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
    """Load the tensors of `optimizer_state`; learning rates and other options keep the optimiser's values."""
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in state.items():
        index, _, name = key.partition("/")
        moments.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file under another name and rename it, so that a kill leaves the old file intact."""
    partial = path.with_suffix(".partial")
    save_file({k: v.contiguous() for k, v in tensors.items()}, partial, metadata)
    os.replace(partial, path)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors and the metadata of a safetensors file."""
    with safe_open(path, "pt") as file:
        return {k: file.get_tensor(k) for k in file.keys()}, file.metadata() or {}  # noqa: SIM118


def read_metadata(path: Path) -> dict[str, str]:
    """Read the metadata of a safetensors file, without its tensors."""
    with safe_open(path, "pt") as file:
        return file.metadata() or {}
