"""Mutated command lines end as they should; see `mutated_commands`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SETTINGS = {"COLUMNS": "200", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_mutated_command_lines_end_with_one_line(tmp_path: Path) -> None:
    # In a process of its own: forks of one that has run kernels on several threads would wait for these threads.
    command = [sys.executable, "-m", "tests.cli.mutated_commands", str(tmp_path), "40", "0"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | SETTINGS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
