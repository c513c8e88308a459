"""Atomic writes, clear errors on a full disk, and the errors of run folders and models."""

from __future__ import annotations

import errno
import os
import threading
import time
from contextlib import suppress
from pathlib import Path


def write_atomically(path: Path, data: bytes) -> Path:
    """Replace a file atomically: a crash at any time leaves either the old or the new file.

    Raises OSError. If the disk is full, its message says so, and the old file remains.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name per writer, so that two concurrent writers use different files.
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
    """Remove temporary files that killed processes left in a folder, if they are older than this many seconds."""
    for path in folder.glob(".*.tmp"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > seconds:
                path.unlink()


def disk_error(error: OSError, path: Path, size: int) -> OSError:
    """Return the error to raise when writing `size` bytes failed; if the disk is full, it says what to do."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        need = max(1, round(size / 1e6))
        return OSError(error.errno, f"no space left to write {path} (about {need} MB); free some space and resume")
    return error


class RunError(RuntimeError):
    """A run folder cannot be used as requested. The message says what to do."""


class PriorError(RuntimeError):
    """A model cannot be loaded or used. The message is one line: why, and what to do."""
