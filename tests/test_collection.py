"""Every process collects the same tests: without this, pytest-xdist refuses to run ("Different tests were collected").

Ids must not depend on the second, the process or the order of a set, and must be readable in a report.
"""

import os
import string
import subprocess
import sys
from pathlib import Path

import pytest

from tests.collected import COLLECTED

ROOT = Path(__file__).resolve().parents[1]
LONGEST_ID = 300
PRINTABLE = set(string.printable) - set("\t\n\r\x0b\x0c")


def collection() -> list[str]:
    """Collect every test, quick and slow, in another process with an order of sets that is always the same."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-n", "0", "-m", "", "-p", "no:cacheprovider"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    ids = [line for line in done.stdout.splitlines() if "::" in line]
    assert len(ids) > 2000, done.stdout[-2000:]
    return ids


def file_of(test: str) -> str:
    return test.partition("::")[0]


@pytest.mark.slow
def test_two_collections_are_equal_and_readable(request: pytest.FixtureRequest) -> None:
    """This process has collected too: all tests in CI, else those of the files that it was asked for."""
    ours, ids = request.config.stash[COLLECTED], collection()
    files = {file_of(test) for test in ours}
    assert request.node.nodeid in ours
    theirs = [test for test in ids if file_of(test) in files]
    assert sorted(ours, key=file_of) == sorted(theirs, key=file_of)  # in their order within each file
    assert ours == ids or os.environ.get("CI", "").lower() != "true"  # files in their order, too
    assert len(set(ids)) == len(ids)
    assert [test for test in ids if len(test) > LONGEST_ID or not PRINTABLE.issuperset(test)] == []
