import errno
from pathlib import Path

import pytest

from sds3d import files
from sds3d.files import write_atomically


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
