"""Every process collects the same tests: without this, pytest-xdist refuses to run ("Different tests were collected").

Ids must not depend on the second, the process or the order of a set, and must be readable in a report.
"""

import os
import string
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LONGEST_ID = 300
PRINTABLE = set(string.printable) - set("\t\n\r\x0b\x0c")


def collection(hash_seed: int) -> subprocess.Popen[str]:
    """Start collecting every test, quick and slow, in a process with its own order of sets."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-n", "0", "-m", "", "-p", "no:cacheprovider"]
    return subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": str(hash_seed)}, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_two_collections_are_equal_and_readable() -> None:
    first = collection(1)
    time.sleep(3)  # the time must not matter either: gzip headers, for example, have a timestamp in seconds
    both = [process.communicate(timeout=600)[0] for process in (first, collection(2))]
    ids = [[line for line in output.splitlines() if "::" in line] for output in both]
    assert len(ids[0]) > 2000, both[0][-2000:]
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == len(ids[0])
    assert [test for test in ids[0] if len(test) > LONGEST_ID or not PRINTABLE.issuperset(test)] == []
