"""Exit codes of the command line."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """What the exit code of a command says. Codes are stable: scripts and schedulers may rely on them."""

    DONE = 0
    FAILED = 1
    WRONG_USAGE = 2
    INTERRUPTED = 130


MEANINGS = {
    Exit.DONE: "done",
    Exit.FAILED: "failed; the cause and the cure are on stderr",
    Exit.WRONG_USAGE: "wrong usage: an unknown command or option, or a missing argument",
    Exit.INTERRUPTED: "interrupted or paused; the same command continues the run",
}
"""Shown at the end of `sds3d --help`."""
