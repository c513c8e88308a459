"""Which device and how many CPU threads to use."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import numba
import torch

from sds3d.files import RunError


def pick_device(wanted: str = "") -> torch.device:
    """The device of this name, or the fastest there is. Raises RunError when it is not there."""
    if not wanted:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=wanted).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(
            f'device "{wanted}" cannot be used ({reason}); leave it out to pick one, see sds3d doctor'
        ) from None


def set_threads(threads: int) -> int:
    """Set the CPU threads of numba and torch; 0 takes the physical cores, at most 8. Returns the number set."""
    threads = threads or default_threads()
    with suppress(ValueError):  # more than the machine has cores: numba then keeps all of them
        numba.set_num_threads(threads)
    torch.set_num_threads(threads)  # last, because numba's first call resets OpenMP's count, which torch shares
    return threads


def default_threads() -> int:
    """Physical cores this process may use, at most 8: small kernels gain nothing from more."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    siblings = Path("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list")
    hyperthreads = 1
    if siblings.exists():
        text = siblings.read_text()
        hyperthreads = 2 if "," in text or "-" in text else 1
    return max(1, min(8, usable // hyperthreads))
