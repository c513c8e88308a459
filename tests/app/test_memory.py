"""Memory that the studio no longer needs goes back to the system."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from sds3d.app import memory

KEPT = """
import runpy, sys, threading
import numpy as np
import psutil

for module in sys.argv[1:]:  # alone: what the studio imports takes seconds
    runpy.run_path(module)["return_freed_blocks"]()
np.ones(3_000_000)  # 24 MB: from here on, glibc by default keeps blocks of this size and 48 MB in all


def work():
    [np.ones(500_000) for _ in range(10)]  # 40 MB


before = psutil.Process().memory_info().rss
thread = threading.Thread(target=work)
thread.start()
thread.join()
print((psutil.Process().memory_info().rss - before) / 1e6)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such setting")
def test_large_blocks_of_threads_go_back_when_they_are_freed():
    def kept(*modules: str) -> float:
        return float(subprocess.run([sys.executable, "-c", KEPT, *modules], capture_output=True, check=True).stdout)

    assert kept() > 30
    assert kept(str(memory.__file__)) < 3


CYCLES = """
import gc, sys, weakref
from collections import deque
import sds3d.cli.main

if sys.argv[1] == "rarely":
    gc.set_threshold(100_000, 50, 50)


class Visitor:
    pass


left, recent = [], deque(maxlen=20)
for _ in range(200):
    visitor = Visitor()
    visitor.form = [visitor, *([] for _ in range(5000))]  # in a cycle, as large as a visitor's form
    left.append(weakref.ref(visitor))
    recent.append(visitor)
print(sum(visitor() is not None for visitor in left))
"""


def test_what_visitors_leave_behind_is_collected():
    def kept(how: str) -> int:
        return int(subprocess.run([sys.executable, "-c", CYCLES, how], capture_output=True, check=True).stdout)

    assert kept("rarely") > 150
    assert kept("as usual") < 60
