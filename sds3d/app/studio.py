"""The folder of runs: found, started, stopped, deleted and handed out. What is true of a run stands in its folder."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradio.processing_utils import hash_file, save_file_to_cache
from gradio.utils import get_upload_folder

from sds3d.app.edits import flat
from sds3d.config import ConfigError, Tree, build, meant, parse_override
from sds3d.files import RunError
from sds3d.jobs import queue
from sds3d.jobs.supervisor import ensure_workers
from sds3d.presets import current_name, load_preset, presets
from sds3d.prompts.prompt import checked_prompt
from sds3d.run.config import RunConfig, new_run
from sds3d.run.folder import Run, RunBusyError, list_runs

MAX_SEED = 2**31 - 1
MAX_STEPS = 10_000
MAX_WAITING = 200
"""Runs in the queue; more are refused, lest one visitor fill it for days."""

OWNERS_ONLY = (
    "prior.name", "prior.model", "prior.lora", "prompts.debias", "representation.sketch", "start_from",
    "start_from_sha256", "stages", "log_to",
)  # fmt: skip
"""Settings that read files of this machine or the network, or send data away: for its owner, not for visitors."""

EXPORTS = (".glb", ".ply", ".splat", ".spz", ".obj", ".mtl", ".stl", ".usdz", ".zip", ".mp4", ".png")
"""Endings of the files handed out, in the order of the list."""

_FOLDERS = re.compile(r"(?<![\w./])/(?:[^\s/'\"]+/)+")
"""Of absolute paths: all but the name at the end."""


@dataclass(frozen=True)
class Studio:
    """What all visitors share.

    root: the folder of run folders, resolved. overrides: KEY=VALUE laid over every preset. local: only people of this
    machine can come, so that settings may name its files.
    """

    root: Path
    overrides: tuple[str, ...] = ()
    local: bool = True

    def presets(self) -> dict[str, str]:
        """Presets that need nothing but a prompt, with what they are for."""
        return {preset.name: preset.about.description for preset in presets() if not preset.about.needs_asset}

    def config(self, prompt: str, preset: str, *layers: Tree) -> RunConfig:
        """As `own_config`, for settings that anybody who can come may give."""
        for layer in layers:
            self._refuse_owners_only(layer)
        return self.own_config(prompt, preset, *layers)

    def own_config(self, prompt: str, preset: str, *layers: Tree) -> RunConfig:
        """The preset with the studio's overrides, the prompt and more settings on top. Raises ConfigError."""
        known, preset = self.presets(), current_name(preset)
        if preset not in known:  # no path of a file either
            raise ConfigError(f'there is no preset "{preset[:80]}"; {meant(preset, list(known))}')
        base = [parse_override(text) for text in self.overrides]
        config = build(RunConfig, load_preset(preset).values, *base, {"prompt": prompt}, *layers)
        if config.seed > MAX_SEED:
            raise ConfigError(f"seed = {config.seed}: give a whole number from 0 to {MAX_SEED}")
        if config.steps > MAX_STEPS:
            raise ConfigError(f"steps = {config.steps}: give {MAX_STEPS} or fewer")
        return config

    def _refuse_owners_only(self, layer: Mapping[str, Any]) -> None:
        if self.local:
            return
        given = flat(layer)
        for key in OWNERS_ONLY:
            # A section given as plain text is its name only, so nothing is missed.
            if any(name == key or name.startswith(f"{key}.") for name in given):
                raise ConfigError(
                    f"{key} cannot be set in a studio that is open to others: it reads files or sends data"
                )

    def find(self, name: str) -> Run | None:
        """The run of this folder name, or None: a name that points anywhere but straight into `root` is no run."""
        folder = self.root / name
        if not re.fullmatch(r"[\w-][\w.-]{0,200}", name) or folder.is_symlink():
            return None
        run = Run(folder)
        return run if run.config_path.is_file() else None

    def open(self, name: str) -> Run:
        """As `find`. Raises RunError when there is none."""
        run = self.find(name)
        if run is None:
            raise RunError("there is no run of that name here; was it deleted?")
        return run

    def runs(self) -> list[Run]:
        """All runs, the one touched last first."""
        return [run for run in list_runs(self.root) if self.find(run.folder.name)]

    def start(self, config: RunConfig) -> Run:
        """Queue the run of a configuration; the same configuration is the same run. Raises RunError, OSError."""
        if len(queue.waiting(queue.runs_in(self.root))) >= MAX_WAITING:
            raise RunError(f"{MAX_WAITING} runs are waiting already: try again when there are fewer")
        run = new_run(self.root, config)
        self.resume(run)
        return run

    def resume(self, run: Run) -> None:
        """Let a run go on from where it is. Raises RunError, OSError."""
        queue.enqueue(run)
        ensure_workers(self.root)

    def place(self, run: Run) -> int:
        """How many runs come before a queued one, those that are going on included."""
        names, before = [], 0
        runs = queue.runs_in(self.root)
        for other in runs:
            try:
                before += other.state.status == "running"
            except RunError:
                continue
        names = [other.folder.name for other in queue.waiting(runs)]
        return before + (names.index(run.folder.name) if run.folder.name in names else 0)

    def delete(self, run: Run) -> None:
        """Delete a run's folder. Raises RunError for one that is going on or waiting, and OSError."""
        try:
            with run.locked():
                if run.state.status == "queued":
                    raise RunError("the run is waiting for its turn: cancel it first")
                gone = run.folder.with_name(f".deleted-{run.folder.name}-{time.time_ns()}")
                run.folder.rename(gone)  # at once: another run of the same name may begin from here on
        except RunBusyError:
            raise RunError("the run is going on: cancel it first") from None
        _forget(Run(gone))  # before its files, which their copies are found by
        shutil.rmtree(gone)

    def told(self, text: str) -> str:
        """A text for whoever can come: no folders of this machine in it when others can."""
        if self.local:
            return text
        text = text.replace(f"{self.root}/", "").replace(str(self.root), self.root.name)  # it may have spaces in it
        return _FOLDERS.sub("", text)

    def problem(self, error: Exception) -> str:
        """An error as a sentence for whoever can come."""
        return self.told(problem(error))


def files(run: Run) -> list[Path]:
    """What can be taken away, the mesh first. Links that lead out of the run are left out."""
    inside = run.exports.resolve()
    if inside.parent != run.folder.resolve():
        return []
    found = [
        path
        for path in run.exports.rglob("[!.]*")
        if path.suffix in EXPORTS and path.is_file() and path.resolve().is_relative_to(inside)
    ]
    return sorted(found, key=lambda path: (EXPORTS.index(path.suffix), "splats" in path.stem, str(path)))


def served(path: Path) -> str:
    """A copy of a run's file at a place the server serves: nothing of the folder of runs is served itself.

    Raises OSError, which says what to do.
    """
    try:
        return save_file_to_cache(path, get_upload_folder())
    except OSError as error:
        why = error.strerror or str(error)
        what = "free some space, or see who may write to the folder of runs"
        raise OSError(f"the file {path.name} cannot be copied to be shown ({why}): {what}") from error


def _forget(run: Run) -> None:
    """Remove the copies of a run's files that are served; another run that has the same file gets a new one."""
    for path in files(run):
        with suppress(OSError):
            shutil.rmtree(Path(get_upload_folder()) / hash_file(path))


def checked(prompt: str) -> str:
    """The prompt with its line breaks and runs of spaces made single spaces. Raises ValueError as `checked_prompt`."""
    return checked_prompt(" ".join(prompt.split()))


def problem(error: Exception) -> str:
    """An error as a sentence for people."""
    text = str(error).strip() or type(error).__name__
    return text[:1].upper() + text[1:]
