"""numba.njit with its machine code in the user's cache folder.

Numba's default is a folder next to the source. An uninstaller leaves that folder in site-packages, where it hides a
later installation from another place.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

_config: Any = numba.config  # its attributes are created on import


def njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile like numba.njit. NUMBA_CACHE_DIR, if set, takes precedence over the user's cache folder."""

    def compiled(function: Callable[..., Any]) -> Any:
        chosen = _config.CACHE_DIR  # numba reads it when a function is decorated
        _config.CACHE_DIR = chosen or cache_folder()
        try:
            return numba.njit(**options)(function)
        finally:
            _config.CACHE_DIR = chosen

    return compiled


def cache_folder() -> str:
    """Return `$XDG_CACHE_HOME/sds3d/numba`, by default below ~/.cache; "" if the user has no home folder."""
    try:
        return str(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sds3d" / "numba")
    except RuntimeError:
        return ""
