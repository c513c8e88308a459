"""numba.njit whose machine code lies in the user's cache folder.

Beside the source, where numba puts it, it would outlive the package: an installer removes what it installed and no
more, and the folder that is left in site-packages hides the package from then on if it is installed from elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

_config: Any = numba.config  # whose attributes are made when it is imported


def njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """As numba.njit. Where NUMBA_CACHE_DIR is set, machine code goes there."""

    def compiled(function: Callable[..., Any]) -> Any:
        chosen = _config.CACHE_DIR  # numba reads it when a function is decorated
        _config.CACHE_DIR = chosen or cache_folder()
        try:
            return numba.njit(**options)(function)
        finally:
            _config.CACHE_DIR = chosen

    return compiled


def cache_folder() -> str:
    """The user's folder for machine code: `$XDG_CACHE_HOME/sds3d/numba`, or that of ~/.cache; empty without a home."""
    try:
        return str(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sds3d" / "numba")
    except RuntimeError:
        return ""
