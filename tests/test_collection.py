"""Every process collects the same tests: without this, pytest-xdist refuses to run ("Different tests were collected").

Ids must not depend on the second, the process or the order of a set, and must be readable in a report.
"""

import os
import string
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import NO_GPU, without_skips

ROOT = Path(__file__).resolve().parents[1]
LONGEST_ID = 300
PRINTABLE = set(string.printable) - set("\t\n\r\x0b\x0c")


def collect(hash_seed: int) -> list[str]:
    """Collect every test, quick and slow, in a process with its own order of sets. Return the ids."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-n", "0", "-m", "", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed)}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    return [line for line in done.stdout.splitlines() if "::" in line]


def by_function(ids: list[str]) -> list[str]:
    """Sort by function, in the order of its parameters: fixtures of modules change the order of functions later."""
    return sorted(ids, key=lambda test: test.partition("[")[0])


@pytest.mark.slow
def test_another_process_collects_the_same_readable_tests(collected: list[str]) -> None:
    there = collect(hash_seed=1)
    assert len(there) > 2000
    assert len(set(there)) == len(there)
    here = set(collected)  # maybe a part, but begun seconds earlier: gzip headers, for example, have a time
    assert by_function([test for test in there if test in here]) == by_function(collected)
    assert [test for test in there if len(test) > LONGEST_ID or not PRINTABLE.issuperset(test)] == []


@pytest.mark.parametrize(
    ("nodeid", "reason", "outcome"),
    [
        ("tests/cuda/test_runs.py::test_a", NO_GPU, "skipped"),
        ("tests/cuda/test_runs.py::test_a", "no gsplat", "failed"),
        ("tests/run/test_runs.py::test_a", NO_GPU, "failed"),
    ],
)
def test_ci_accepts_one_reason_to_skip(nodeid: str, reason: str, outcome: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    where = nodeid.partition("::")[0]
    report = pytest.TestReport(nodeid, (where, 1, "test_a"), {}, "skipped", (where, 1, f"Skipped: {reason}"), "setup")
    assert without_skips(report).outcome == outcome


def test_files_of_tests_have_names_of_their_own() -> None:
    # Folders of tests are no packages: pytest refuses the second file of a name.
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) > 100
    assert sorted(names) == sorted(set(names))
