"""Atomic writes, careful reads, clear errors of a full disk or memory, and the errors of run folders and models."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import platform
import stat
import sys
import threading
import time
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from io import FileIO
from pathlib import Path

MOST_TEXT = 16_000_000
"""Limit of text files that people bring, in bytes."""


class RunError(RuntimeError):
    """A run folder cannot be used as requested. The message says what to do."""


class PriorError(RuntimeError):
    """A model cannot be loaded or used. The message is one line: why, and what to do."""


class NotPlainError(OSError):
    """A link, pipe, device or far too large a file is where a plain file is needed. The message names it."""


def write_atomically(path: Path, data: bytes) -> Path:
    """Replace a file atomically: a crash at any time leaves either the old or the new file.

    Raises OSError. If the disk is full, its message says so, and the old file remains.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    return replace_file(path, data)


def replace_file(path: Path, data: bytes, *, durable: bool = True) -> Path:
    """Replace a file atomically in a folder that exists; see `write_atomically`.

    durable: wait until the disk has the data, so that they survive a crash of the machine. Raises OSError.
    """
    # A name per writer, so that two concurrent writers use different files.
    temporary = path.with_name(f".{path.name}.{_host()}-{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with suppress(FileNotFoundError):  # of a killed process with the same id
            temporary.unlink()
        with temporary.open("xb") as file:  # "x" follows no link
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise disk_error(error, path, len(data)) from error
    return path


def zipped(files: Mapping[str, bytes]) -> bytes:
    """Return a zip archive of files by name. They are dated 1980, so that equal files give equal bytes."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=5) as package:
        for name, data in files.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            package.writestr(info, data)
    return archive.getvalue()


def sweep(folder: Path, seconds: float = 60.0) -> None:
    """Remove temporary files that killed processes left in a folder.

    Those of other machines, where a process cannot be looked up, are removed when they are older than `seconds`.
    """
    for path in folder.glob(".*.tmp"):
        host, *process = path.name.split(".")[-2].split("-")
        with suppress(OSError):
            here = host == _host() and len(process) == 2 and process[0].isdecimal()
            if (here and not is_alive(int(process[0]))) or time.time() - path.lstat().st_mtime > seconds:
                path.unlink()


def open_plain(path: Path, flags: int = os.O_RDONLY, *, follow: bool = False) -> FileIO:
    """Open a plain file without a buffer. flags: of `os.open`. follow: also through a symbolic link.

    Raises NotPlainError for links, folders, pipes and devices, and other OSErrors.
    """
    flags |= getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)  # opening a pipe must not wait for its writer
    flags |= getattr(os, "O_BINARY", 0) | (0 if follow else getattr(os, "O_NOFOLLOW", 0))
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise NotPlainError(f"{path} is a symbolic link, which is not followed") from None
        raise
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise NotPlainError(f"{path} is {kind}, not a file")
    access = flags & (os.O_RDONLY | os.O_WRONLY | os.O_RDWR)
    return FileIO(descriptor, {os.O_RDONLY: "rb", os.O_WRONLY: "wb", os.O_RDWR: "rb+"}[access])


def read_plain(path: Path, most: int = MOST_TEXT, *, follow: bool = False) -> bytes:
    """Read a plain file of at most `most` bytes, see `open_plain`. Raises NotPlainError and other OSErrors."""
    with open_plain(path, follow=follow) as file:
        if (size := os.fstat(file.fileno()).st_size) > most:
            raise NotPlainError(f"{path} has {size / 1e6:.0f} MB; {most / 1e6:.0f} MB are the limit")
        parts: list[bytes] = []
        while most > 0 and (part := file.read(most)):
            parts.append(part)
            most -= len(part)
        return b"".join(parts)


def append_line(path: Path, line: str) -> None:
    """Append a line to a plain file; first end the incomplete line that a killed process may have left."""
    try:
        with open_plain(path, os.O_RDWR | os.O_CREAT | os.O_APPEND) as file:
            torn = False
            if file.seek(0, os.SEEK_END) > 0:
                file.seek(-1, os.SEEK_END)
                torn = file.read(1) != b"\n"
            file.write(("\n" * torn + line + "\n").encode())  # a single write, so that lines never mix
    except NotPlainError:
        raise
    except OSError as error:
        raise disk_error(error, path, len(line)) from error


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class if it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def printable(text: str) -> str:
    """Return a text as one line without control characters: they are escaped as in Python, "\\n" for example."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def is_alive(process: int) -> bool:
    """Whether a process of this machine runs; True if that cannot be known."""
    if sys.platform == "win32":
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # of another user
        return True
    return True


@cache
def _host() -> str:
    """A short name of this machine for file names."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def disk_error(error: OSError, path: Path, size: int) -> OSError:
    """Return the error to raise when writing `size` bytes failed; if the disk is full, it says what to do."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        need = max(1, round(size / 1e6))
        return OSError(error.errno, f"no space left to write {path} (about {need} MB); free some space and resume")
    return error


OUT_OF_MEMORY = (
    "out of memory",  # CUDA
    "can't allocate memory",  # torch on a CPU
    "cannot allocate memory",  # the system's ENOMEM
    "unable to allocate",  # numpy
    "bad_alloc",  # C++
    "bad allocation",  # C++ on Windows
)
"""What messages say when memory ran out."""


def lacks_memory(error: BaseException) -> bool:
    """Whether an error, or one that it was raised from, means that memory ran out: in Python, C++, numpy or CUDA."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        words = str(cause).lower()
        if isinstance(cause, MemoryError) or any(text in words for text in OUT_OF_MEMORY):
            return True
        if isinstance(cause, OSError) and cause.errno == errno.ENOMEM:
            return True
        cause = cause.__cause__ or cause.__context__
    return False
