"""Files that are written whole or not at all, and files that are not read because of what they are."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sds3d import files
from sds3d.files import NotPlainError, lacks_memory, printable, read_plain, sweep, write_atomically


def test_replaces_and_makes_folders(tmp_path: Path) -> None:
    path = write_atomically(tmp_path / "a" / "b.txt", b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["b.txt"]


def test_a_full_disk_is_reported_and_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = write_atomically(tmp_path / "mug.glb", b"old")

    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(OSError, match=r"no space left to write .*mug\.glb \(about 1 MB\)") as raised:
        write_atomically(tmp_path / "mug.glb", b"new")
    assert raised.value.errno == errno.ENOSPC
    assert old.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["mug.glb"]


def test_a_temporary_file_follows_no_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "precious"
    target.write_bytes(b"mine")
    names: list[str] = []
    replace = files.os.replace

    def replaced(source: Path, to: Path) -> None:
        names.append(Path(source).name)
        replace(source, to)

    monkeypatch.setattr(files.os, "replace", replaced)
    write_atomically(tmp_path / "a", b"1")
    (tmp_path / names[0]).symlink_to(target)  # the name that this process uses
    write_atomically(tmp_path / "a", b"2")
    assert target.read_bytes() == b"mine"
    assert (tmp_path / "a").read_bytes() == b"2"


def test_temporary_files_of_dead_processes_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
import os, signal, sys
from pathlib import Path
from sds3d import files
files.os.replace = lambda source, target: os.kill(os.getpid(), signal.SIGKILL)
files.write_atomically(Path(sys.argv[1]), b"half")
"""
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.glb")], check=False).returncode == -9
    (left,) = tmp_path.glob(".*.tmp")
    mine = left.with_name(left.name.replace(left.name.split("-")[1], str(os.getpid())))
    elsewhere = left.with_name(".a.glb.0badcafe-1-1.tmp")
    for path in (mine, elsewhere):
        path.write_bytes(b"in progress")
    sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([mine, elsewhere]), "somebody may be writing them"
    os.utime(elsewhere, (0, 0))
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == [mine]


def test_only_plain_files_of_some_size_are_read(tmp_path: Path) -> None:
    plain, link, pipe, big = (tmp_path / name for name in ("plain", "link", "pipe", "big"))
    plain.write_bytes(b"text")
    link.symlink_to(plain)
    os.mkfifo(pipe)
    with big.open("wb") as file:
        file.truncate(23_000_000_000)
    assert read_plain(plain) == read_plain(link, follow=True) == b"text"
    for path, what in (
        (link, "link is a symbolic link, which is not followed"),
        (pipe, "pipe is a pipe or a device, not a file"),
        (Path("/dev/full"), "/dev/full is a pipe or a device"),
        (tmp_path, "is a folder, not a file"),
        (big, "big has 23000 MB; 16 MB are the limit"),
    ):
        with pytest.raises(NotPlainError, match=what):
            read_plain(path)


def too_large() -> MemoryError:
    """numpy's own error."""
    with pytest.raises(MemoryError) as raised:
        np.empty(1 << 55, np.float32)
    return raised.value


@pytest.mark.parametrize(
    ("error", "so"),
    [
        (MemoryError(), True),
        (too_large(), True),
        (RuntimeError("Unable to allocate 4.00 TiB for an array with shape (1099511627776,)"), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 9 GiB"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), True),
        (RuntimeError("std::bad_alloc"), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (OSError("Cannot allocate memory (os error 12)"), True),
        (RuntimeError("shape mismatch"), False),
        (OSError(errno.ENOSPC, "No space left on device"), False),
    ],
)
def test_errors_of_memory_are_told_from_others(error: Exception, so: bool) -> None:
    assert lacks_memory(error) == so
    outer = ValueError("the weights are damaged")
    outer.__cause__ = error
    assert lacks_memory(outer) == so


def test_a_line_of_a_log_is_one_line() -> None:
    assert printable("a red mug 球") == "a red mug 球"
    assert printable("x\nssh-rsa AAAA\r\x1b[2J\u2028") == "x\\nssh-rsa AAAA\\r\\x1b[2J\\u2028"
