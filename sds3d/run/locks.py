"""Locks of folders: flock or, on file systems without it, a file that names its holder.

A flock ends with its process, so it cannot become stale. The file that replaces it names the machine, the id and the
start time of a process. It is stale if that process has ended or the machine has been restarted.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import secrets
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from sds3d.files import RunError, is_alive, open_plain, read_plain

BUSY = {errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK}
"""Error numbers of locking a file that another process holds; EDEADLK is that of Windows."""

YOUNG = 10.0
"""Seconds in which a new holder has written its file."""


class RunBusyError(RunError):
    """Another process holds the run folder."""


@contextmanager
def hold(path: Path, busy: str) -> Iterator[None]:
    """Hold a lock file, which contains the holder's process id.

    Raises RunBusyError, starting with `busy`, if another process holds it, and OSError.
    """
    with open_plain(path, os.O_RDWR | os.O_CREAT) as file:  # closing it releases the lock
        claimed: Path | None = None
        try:
            _lock_patiently(file.fileno())
        except OSError as error:
            if error.errno in BUSY:
                holder = file.read(32).decode(errors="replace").strip()
                who = f"process {holder}" if holder else "another process"
                raise RunBusyError(f"{busy} by {who}; wait for it, or stop it first") from None
            warnings.warn(
                f"this file system cannot lock files ({error.strerror}): files named *.holder take the place of locks",
                stacklevel=2,
            )
            claimed = _claim(_holder_file(path), busy)
        try:
            file.truncate(0)
            file.seek(0)
            file.write(f"{os.getpid()}\n".encode())
            yield
        finally:
            if claimed is not None:
                claimed.unlink(missing_ok=True)


def is_held(path: Path) -> bool:
    """Whether a process holds a lock file. The check itself holds it for an instant."""
    for flags in (os.O_RDWR, os.O_RDONLY):  # also works in a read-only folder
        with suppress(OSError), open_plain(path, flags) as file:
            try:
                _lock(file.fileno())
            except OSError as error:
                return error.errno in BUSY or _is_claimed(_holder_file(path))
            return False
    return False


def _lock_patiently(descriptor: int) -> None:
    """Lock; retry for a moment, because an `is_held` elsewhere holds the lock for an instant. Raises OSError."""
    for _ in range(20):
        try:
            return _lock(descriptor)
        except OSError as error:
            if error.errno not in BUSY:
                raise
        time.sleep(0.02)
    return _lock(descriptor)


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, 1 << 20, os.SEEK_SET)  # on Windows, others cannot read the locked range
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


# ---- files that take the place of locks ----


@dataclass(frozen=True)
class _Holder:
    """A process. started: the machine's start and the process's, in the kernel's words; "" if unknown."""

    host: str
    process: int
    started: str

    def has_ended(self) -> bool:
        """Whether the process has ended for certain; that of another machine cannot be looked up."""
        if self.host != platform.node():
            return False
        return not is_alive(self.process) or (bool(self.started) and _started(self.process) != self.started)


def _started(process: int) -> str:
    with suppress(OSError, IndexError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()  # the name before may have spaces
        return f"{boot} {fields[19]}"
    return ""


def _holder_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.holder")


def _claim(path: Path, busy: str) -> Path:
    """Create the file for this process, in place of that of a process that has ended. Raises RunBusyError, OSError."""
    mine = _Holder(platform.node(), os.getpid(), _started(os.getpid()))
    for _ in range(100):
        try:
            with open_plain(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as file:
                file.write(json.dumps(asdict(mine)).encode())
            return path
        except FileExistsError:
            pass
        written, holder = _read(path)
        if holder is not None and not holder.has_ended():
            where = "" if holder.host == mine.host else f" on {holder.host}"
            raise RunBusyError(
                f"{busy} by process {holder.process}{where}; wait for it or, if it has ended, delete {path}"
            )
        if holder is None and _is_young(path):
            time.sleep(0.05)  # somebody is writing it
            continue
        _remove_stale(path, written)
    raise RunBusyError(f"{busy} by another process; wait for it or, if none is running, delete {path}")


def _is_claimed(path: Path) -> bool:
    _, holder = _read(path)
    return _is_young(path) if holder is None else not holder.has_ended()


def _read(path: Path) -> tuple[bytes, _Holder | None]:
    """Return the contents of a holder's file, and the holder, if they name one."""
    data = b""
    with suppress(OSError, ValueError, TypeError):
        data = read_plain(path, 4096)
        holder = _Holder(**json.loads(data))
        if isinstance(holder.host, str) and isinstance(holder.process, int) and isinstance(holder.started, str):
            return data, holder
    return data, None


def _is_young(path: Path) -> bool:
    with suppress(OSError):
        return time.time() - path.lstat().st_mtime < YOUNG
    return False


def _remove_stale(path: Path, written: bytes) -> None:
    """Remove the file of a holder that has ended, unless another process has replaced it in the meantime."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with suppress(FileNotFoundError):
        path.rename(aside)  # of several processes, one succeeds
        if _read(aside)[0] != written:
            with suppress(OSError):
                os.link(aside, path)  # give it back
        aside.unlink()
