"""The folder of a small network of this project: settings in a JSON file beside weights in half precision."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import load_file
from torch import nn

from sds3d.files import write_atomically
from sds3d.states import write_tensors

CONFIG, WEIGHTS = "config.json", "model.safetensors"

Network = TypeVar("Network", bound=nn.Module)


def save_network(
    folder: Path, network: nn.Module, settings: Mapping[str, Any], config: str = CONFIG, weights: str = WEIGHTS
) -> None:
    """Write the weights in fp16, then the settings, each atomically: with its settings, a folder is complete.

    config, weights: names of the files. Raises OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    half = {name: value.detach().cpu().half() for name, value in network.state_dict().items()}
    write_tensors(folder / weights, half)
    write_atomically(folder / config, (json.dumps(settings, indent=2) + "\n").encode())


def read_settings(folder: Path, config: str = CONFIG) -> dict[str, Any]:
    """Read the settings that `save_network` wrote. Raises OSError, and ValueError if that is no JSON."""
    return json.loads((folder / config).read_text(encoding="utf-8"))


def load_weights(network: Network, folder: Path, weights: str = WEIGHTS) -> Network:
    """Load the weights that `save_network` wrote into a network, in float32, and return it.

    Raises OSError or SafetensorError for a missing or damaged file, RuntimeError for weights of other settings.
    """
    network.load_state_dict({name: value.float() for name, value in load_file(folder / weights).items()})
    return network


def load_network(make: Callable[..., Network], folder: Path) -> Network:
    """Return the network of a folder. make: makes one of its settings. Raises what its parts raise."""
    return load_weights(make(**read_settings(folder)), folder)
