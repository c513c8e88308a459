"""The device and the number of CPU threads to use."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import numba
import torch

from sds3d.files import RunError


def pick_device(wanted: str = "") -> torch.device:
    """Return the device of this name, or the fastest available one. Raises RunError if it cannot be used."""
    if not wanted:
        if torch.cuda.is_available():  # AMD's GPUs too, in a torch for ROCm
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        return torch.empty(0, device=wanted).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(
            f'device "{wanted}" cannot be used ({reason}); omit --device to use the fastest one, or see sds3d doctor'
        ) from None


def seeded(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a new random stream on the device that starts at `seed`; for the meta device, which draws nothing, any."""
    place = torch.device(device)
    return torch.Generator("cpu" if place.type == "meta" else place).manual_seed(seed)


def set_threads(threads: int) -> int:
    """Set the CPU threads of numba and torch; 0 uses all physical cores, at most 8. Return the number."""
    threads = threads or default_threads()
    with suppress(ValueError):  # more threads than cores: numba then uses all cores
        numba.set_num_threads(threads)
    torch.set_num_threads(
        threads
    )  # last, because numba's first call resets the thread count of OpenMP, which torch shares
    return threads


def default_threads() -> int:
    """Return the number of physical cores this process may use, at most 8: small kernels gain nothing from more."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    siblings = Path("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list")
    hyperthreads = 1
    if siblings.exists():
        text = siblings.read_text()
        hyperthreads = 2 if "," in text or "-" in text else 1
    return max(1, min(8, usable // hyperthreads))
