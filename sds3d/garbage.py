"""Imports of large libraries without the work of the garbage collector."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Collect no garbage while libraries are imported. What they make stays, so later collections need not look at it.

    Imports make hundreds of thousands of objects and little garbage, and collections between them take time. Garbage
    from before would stay, too, so it is collected first.
    """
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
    gc.freeze()
