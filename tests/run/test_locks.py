"""Locks where files cannot be locked: a file that names its holder."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from sds3d.run.locks import RunBusyError, hold, is_held

HOLDER = """
import errno, fcntl, sys, time
from contextlib import ExitStack
from pathlib import Path

def flock(descriptor, operation):
    raise OSError(int(sys.argv[2]), "no locks here")

fcntl.flock = flock
from sds3d.run.locks import hold
with hold(Path(sys.argv[1]), "it is in use"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(params=[errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS], ids=["ENOLCK", "ENOTSUP", "ENOSYS"])
def without_flock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """A file system whose files cannot be locked, as Lustre and NFS without a lock server are."""

    def flock(descriptor: int, operation: int) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", flock)
    return request.param


def test_without_flock_one_process_holds_the_lock_and_says_how(without_flock: int, tmp_path: Path):
    path = tmp_path / "lock"
    lock = hold(path, "it is in use")
    with pytest.warns(UserWarning, match=r"cannot lock files .*\*\.holder take the place"):
        lock.__enter__()
    with ExitStack() as stack:
        stack.push(lock)
        assert is_held(path)
        assert int(path.read_text()) == os.getpid()
        with pytest.raises(RunBusyError, match=f"it is in use by process {os.getpid()}"), hold(path, "it is in use"):
            pass
    assert not is_held(path)
    assert [file.name for file in tmp_path.iterdir()] == ["lock"]


@pytest.mark.filterwarnings("ignore:this file system")
def test_the_lock_of_a_killed_process_is_stale(without_flock: int, tmp_path: Path):
    path = tmp_path / "lock"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), str(without_flock)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    assert is_held(path)
    with pytest.raises(RunBusyError, match=f"by process {process.pid}"), hold(path, "it is in use"):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not is_held(path)
    with hold(path, "it is in use"):
        assert is_held(path)
    assert [file.name for file in tmp_path.iterdir()] == ["lock"]


@pytest.mark.filterwarnings("ignore:this file system")
@pytest.mark.parametrize(
    ("holder", "held"),
    [
        ({"host": "another", "process": 1, "started": ""}, True),  # cannot be looked up from here
        ({"host": platform.node(), "process": os.getppid(), "started": "another boot 1"}, False),
        ({"host": platform.node(), "process": 2**22 + 1, "started": ""}, False),  # beyond the largest id
        ({"host": platform.node(), "process": os.getppid(), "started": ""}, True),
        ({"host": 3}, False),
    ],
    ids=["another machine", "before a restart", "ended", "running", "damaged"],
)
@pytest.mark.parametrize("without_flock", [errno.ENOLCK], indirect=True)
def test_who_is_believed_to_hold_a_lock(holder: dict[str, object], held: bool, without_flock: int, tmp_path: Path):
    path, file = tmp_path / "lock", tmp_path / "lock.holder"
    path.touch()
    file.write_text(json.dumps(holder))
    os.utime(file, (time.time() - 60, time.time() - 60))
    assert is_held(path) == held
    if held:
        with pytest.raises(RunBusyError, match=r"delete .*lock\.holder"), hold(path, "it is in use"):
            pass
    else:
        with hold(path, "it is in use"):
            assert json.loads(file.read_text())["process"] == os.getpid()


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK])
def test_only_these_errors_mean_that_a_lock_is_held(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "lock"
    path.write_text("77\n")

    def flock(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    assert is_held(path)
    with pytest.raises(RunBusyError, match="it is in use by process 77"), hold(path, "it is in use"):
        pass
    assert [file.name for file in tmp_path.iterdir()] == ["lock"]
