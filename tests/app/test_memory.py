"""Memory that the studio frees goes back to the system."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

KEPT = """
import sys, threading
import numpy as np
import psutil
from sds3d.app.memory import return_freed_blocks

if sys.argv[1] == "returned":
    return_freed_blocks()
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
    def kept(what: str) -> float:
        return float(subprocess.run([sys.executable, "-c", KEPT, what], capture_output=True, check=True).stdout)

    assert kept("by default") > 30
    assert kept("returned") < 3
