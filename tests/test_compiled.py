"""Machine code of kernels is in the user's cache folder, never next to the source, and is checked when it is read."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numba
import pytest

from sds3d.compiled import examine_cache, njit
from sds3d.run.doctor import examine

DAMAGES = {
    "empty": lambda data: b"",
    "truncated": lambda data: data[: len(data) // 2],
    "one bit": lambda data: data[:-40] + bytes([data[-40] ^ 4]) + data[-39:],
    "no pickle": lambda data: b"\x80\x05garbage" * 10,
}

DOUBLE = """
import sys
from sds3d.compiled import njit

@njit(cache=True)
def double(x):
    return 2 * x

if __name__ == "__main__":
    print(double(float(sys.argv[1])), len(double.stats.cache_hits))
"""


def double(x: float) -> float:
    return 2 * x


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder of this test."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "numba"))
    return tmp_path / "numba"


@pytest.mark.parametrize("chosen", ["", "elsewhere"])
def test_machine_code_is_in_the_cache_folder_of_the_user(chosen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.setattr(numba.config, "CACHE_DIR", chosen and str(tmp_path / chosen))
    assert njit(cache=True)(double)(2.0) == 4.0
    (compiled,) = tmp_path.rglob("*.nbc")
    assert compiled.is_relative_to(tmp_path / (chosen or "caches/sds3d/numba"))
    assert (chosen and str(tmp_path / chosen)) == numba.config.CACHE_DIR  # functions of others keep their folder


def test_without_a_home_kernels_are_compiled_but_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "~nobody-of-this-name/caches")
    assert njit(cache=True)(double)(2.0) == 4.0
    assert "set NUMBA_CACHE_DIR" in examine_cache().problem
    assert not list((Path(__file__).parent / "__pycache__").glob("*.nb*"))


def test_a_second_process_finds_what_the_first_has_compiled(tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text(DOUBLE)
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "numba")}

    def run(value: str) -> str:
        command = [sys.executable, str(script), value]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()

    assert run("2") == "4.0 0"
    assert run("3") == "6.0 1"
    script.write_text(DOUBLE.replace("2 * x", "2.5 * x"))
    assert run("2") == "5.0 0"
    assert len(list(tmp_path.rglob("*.nb*"))) == 1  # the code of the former source is gone


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_file_is_reported_and_compiled_again(damage, cache: Path):
    njit(cache=True)(double)(2.0)
    (path,) = cache.rglob("*.nbc")
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert examine_cache().damaged == (path,)
    with pytest.warns(UserWarning, match=f"the compiled kernel {path} is damaged: it is compiled again"):
        assert njit(cache=True)(double)(2.0) == 4.0
    assert examine_cache().damaged == ()
    with warnings.catch_warnings(action="error"):
        again = njit(cache=True)(double)
        assert again(2.0) == 4.0
    assert len(again.stats.cache_hits) == 1


def test_a_file_that_cannot_be_read_is_reported_and_compiled_again(cache: Path):
    njit(cache=True)(double)(2.0)
    (path,) = cache.rglob("*.nbc")
    path.unlink()
    path.mkdir()  # reading a folder is an OSError, even for root
    with pytest.warns(UserWarning, match="kernel") as warned:
        assert njit(cache=True)(double)(2.0) == 4.0
    read, written = (str(warning.message) for warning in warned)
    assert read == f"the compiled kernel {path} cannot be read (Is a directory): it is compiled again"
    assert f"cannot be kept in {cache}" in written


def test_a_folder_that_cannot_be_written_is_reported_and_not_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "file" / "numba"
    folder.parent.touch()  # no folder can be made in a file, even by root
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(folder))
    with pytest.warns(UserWarning, match=rf"cannot be kept in {folder} \(Not a directory\).*set NUMBA_CACHE_DIR"):
        assert njit(cache=True)(double)(2.0) == 4.0
    assert str(folder) in examine_cache().problem


def test_a_full_disk_is_reported_and_not_needed(cache: Path):
    code = DOUBLE.replace("import sys", "import resource, signal, sys\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)")
    code = code.replace("    print", "    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n    print")
    script = cache.parent / "script.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, str(script), "2"],
        env={**os.environ, "NUMBA_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "4.0 0"
    assert f"cannot be kept in {cache} (File too large)" in done.stderr
    assert list(cache.rglob("*.nbc")) == list(cache.rglob("*.tmp")) == []


def test_doctor_reads_the_cache(cache: Path, tmp_path: Path):
    njit(cache=True)(double)(2.0)
    (path,) = cache.rglob("*.nbc")

    def finding() -> tuple[bool, str]:
        (found,) = (finding for finding in examine(tmp_path) if finding.name == "kernel cache")
        return found.ok, found.detail

    ok, detail = finding()
    assert ok
    assert str(cache) in detail
    path.write_bytes(b"")
    ok, detail = finding()
    assert not ok
    assert f"1 damaged file, for example {path}" in detail
