"""Memory of the studio's process: what is freed goes back to the system."""

from __future__ import annotations

import ctypes
import sys

LARGE = 1 << 20
"""Bytes of a block that goes back to the system as soon as it is freed."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # names and numbers of glibc's malloc.h


def return_freed_blocks() -> None:
    """Let glibc return large blocks when they are freed. By default, it keeps up to 64 MB of them for every thread.

    Has no effect where the C library has no such setting.
    """
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(M_MMAP_THRESHOLD, LARGE)
        mallopt(M_TRIM_THRESHOLD, LARGE)
