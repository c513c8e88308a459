"""Exit codes of the command line."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """The exit codes of commands. They are stable: scripts and schedulers may rely on them."""

    DONE = 0
    FAILED = 1
    WRONG_USAGE = 2
    INTERRUPTED = 130


MEANINGS = {
    Exit.DONE: "done",
    Exit.FAILED: "failed; the cause and what to do are on stderr",
    Exit.WRONG_USAGE: "wrong usage: an unknown command or option, or a missing argument",
    Exit.INTERRUPTED: "interrupted or paused; the same command continues the run",
}
"""Shown at the end of `sds3d --help`."""
