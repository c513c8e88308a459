"""Files that are whole at every instant, and a full disk told clearly."""

from __future__ import annotations

import errno
import os
import threading
import time
from contextlib import suppress
from pathlib import Path


def write_atomically(path: Path, data: bytes) -> Path:
    """Replace a file so that a crash at any instant leaves the old or the new one, whole.

    Raises OSError; when the disk is full its message says so and the old file is still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Of its own: two writers at once must not write into each other's file.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise disk_error(error, path, len(data)) from error
    return path


def sweep(folder: Path, seconds: float = 60.0) -> None:
    """Remove what killed processes left half-written in a folder, if it is older than so many seconds."""
    for path in folder.glob(".*.tmp"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > seconds:
                path.unlink()


def disk_error(error: OSError, path: Path, size: int) -> OSError:
    """What to raise for an error of writing `size` bytes: one that says what to do, when the disk is full."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        need = max(1, round(size / 1e6))
        return OSError(error.errno, f"no space left to write {path} (about {need} MB); free some and resume")
    return error


class RunError(RuntimeError):
    """A run folder that cannot be used as asked; the message says what to do."""


class PriorError(RuntimeError):
    """A model can't be loaded or used; the message says why and what to do, in one line."""
