"""numba.njit with its machine code in the user's cache folder, checked when it is read.

Numba's default is a folder next to the source. An uninstaller leaves that folder in site-packages, where it hides a
later installation from another place. Also, numba fails at a damaged file and if no file can be written. Here such a
file is compiled again. A folder that cannot be written is reported, and nothing is cached.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache
from numba.core.serialize import dumps

from sds3d.files import sweep, write_atomically

_config: Any = numba.config  # its attributes are created on import
_DIGEST = hashlib.sha256().digest_size
_OURS = re.compile(r".*\.[0-9a-f]{8}-[0-9a-f]{16}\.nbc")


def njit(*, cache: bool = False, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile like numba.njit. NUMBA_CACHE_DIR, if set, takes precedence over the user's cache folder."""

    def compiled(function: Callable[..., Any]) -> Any:
        dispatcher: Any = numba.njit(**options)(function)
        if cache:
            chosen = _config.CACHE_DIR  # numba's locator reads it
            _config.CACHE_DIR = folder = chosen or cache_folder()
            try:
                if folder:
                    dispatcher._cache = _Cache(function)
            finally:
                _config.CACHE_DIR = chosen
        return dispatcher

    return compiled


def cache_folder() -> str:
    """Return `$XDG_CACHE_HOME/sds3d/numba`, by default below ~/.cache; "" if the user has no home folder."""
    try:
        return str(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sds3d" / "numba")
    except RuntimeError:
        return ""


class _Locator(CompileResultCacheImpl._locator_classes[0]):
    """Numba's locator of files below CACHE_DIR, which need not be writable: files may be there already."""

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> _Locator:
        return cls(py_func, py_file)

    def ensure_cache_path(self) -> None:
        """The folder is made when a file is written."""


class _Implementation(CompileResultCacheImpl):
    _locator_classes = [_Locator]  # noqa: RUF012


class _Cache(FunctionCache):
    """Numba's cache of a function, in files of this module."""

    _impl_class = _Implementation

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        implementation: Any = self._impl
        stamp = numba.__version__, implementation.locator.get_source_stamp()
        self._cache_file: Any = _Files(Path(self.cache_path), implementation.filename_base, stamp)


class _Files:
    """The files of a function, one for each signature: a SHA-256, and what it is of, the pickled machine code."""

    def __init__(self, folder: Path, name: str, stamp: object) -> None:
        self.folder, self.name, self.stamp = folder, name, hashlib.sha256(repr(stamp).encode()).hexdigest()[:8]

    def path(self, key: object) -> Path:
        """Return the file of a signature."""
        return self.folder / f"{self.name}.{self.stamp}-{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}.nbc"

    def load(self, key: object) -> Any | None:
        """Return what was saved, or None, with a warning if the file is damaged or cannot be read."""
        path = self.path(key)
        try:
            content = undamaged(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            content, problem = None, f"cannot be read ({error.strerror})"
        else:
            problem = "is damaged"
        if content is None:
            warnings.warn(f"the compiled kernel {path} {problem}: it is compiled again", stacklevel=2)
            return None
        # Machine code runs in this process in any case: who may write the user's cache is trusted, as with .pyc files.
        return pickle.loads(content)

    def save(self, key: object, data: object) -> None:
        """Save the code for a signature, and remove that of former sources; a warning tells if it cannot be written."""
        content = dumps(data)
        try:
            write_atomically(self.path(key), hashlib.sha256(content).digest() + content)
            for path in self.folder.glob(f"{self.name.partition('.')[0]}.*.nb[ci]"):
                if f".{self.stamp}-" not in path.name:
                    path.unlink(missing_ok=True)
            sweep(self.folder)
        except OSError as error:
            problem = os.strerror(error.errno) if error.errno else str(error)
            warnings.warn(_unwritable(self.folder.parent, problem), stacklevel=2)

    def flush(self) -> None:
        """Remove the files of the function."""
        for path in self.folder.glob(f"{self.name}.*.nbc"):
            path.unlink(missing_ok=True)


def undamaged(data: bytes) -> bytes | None:
    """Return the contents of a file of the cache without its digest, or None if the digest is of something else."""
    content = data[_DIGEST:]
    return content if hashlib.sha256(content).digest() == data[:_DIGEST] else None


def _unwritable(folder: Path, problem: str) -> str:
    return (
        f"compiled kernels cannot be kept in {folder} ({problem}), so that every start compiles them again: free or "
        "permit it, or set NUMBA_CACHE_DIR to another folder"
    )


@dataclass(frozen=True)
class CacheReport:
    """The state of the cache. size: bytes in whole files. damaged: files to be compiled again. problem: or empty."""

    folder: Path | None
    size: int
    damaged: tuple[Path, ...]
    problem: str


def examine_cache() -> CacheReport:
    """Read all files of the cache, and try to write one."""
    if not (place := _config.CACHE_DIR or cache_folder()):
        return CacheReport(None, 0, (), "there is no home folder for compiled kernels: set NUMBA_CACHE_DIR to a folder")
    folder, size, damaged, problem = Path(place), 0, [], ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1 << 20))
    except OSError as error:
        problem = _unwritable(folder, error.strerror or str(error))
    for path in sorted(folder.glob("*/*.nbc")):
        if _OURS.fullmatch(path.name):
            try:
                data = path.read_bytes()
            except OSError:
                data = b""
            if undamaged(data) is None:
                damaged.append(path)
            size += len(data)
    return CacheReport(folder, size, tuple(damaged), problem)
