"""The folder of runs: find, start, delete and serve them. Run folders are the only state."""

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
from sds3d.config import ConfigError, Tree, meant, parse_override
from sds3d.files import RunError
from sds3d.jobs import queue
from sds3d.jobs.supervisor import ensure_workers
from sds3d.presets import current_name, load_preset, presets
from sds3d.prompts.prompt import checked_prompt
from sds3d.run.config import RunConfig, new_run, run_config
from sds3d.run.folder import Run, list_runs
from sds3d.run.locks import RunBusyError

MAX_SEED = 2**31 - 1
MAX_STEPS = 10_000
MAX_WAITING = 200
"""Limit of the queue, so that one visitor cannot fill it for days."""

OWNERS_ONLY = (
    "prior.name", "prior.model", "prior.lora", "prompts.debias", "representation.sketch", "start_from",
    "start_from_sha256", "stages", "log_to",
)  # fmt: skip
"""Settings that read files of this machine or the network, or send data away: for its owner, not for visitors."""

EXPORTS = (".glb", ".ply", ".splat", ".spz", ".obj", ".mtl", ".stl", ".usdz", ".zip", ".mp4", ".png")
"""Endings of the files that can be downloaded, in the order of the list."""

_FOLDERS = re.compile(r"(?<![\w./])/(?:[^\s/'\"]+/)+")
"""The folders of an absolute path, without the name at its end."""


@dataclass(frozen=True)
class Studio:
    """The studio, shared by all visitors.

    root: the folder of run folders, resolved. overrides: KEY=VALUE on top of every preset. local: whether only this
    machine can reach the studio, so that settings may name its files.
    """

    root: Path
    overrides: tuple[str, ...] = ()
    local: bool = True

    def presets(self) -> dict[str, str]:
        """Return the presets that need only a prompt, with their descriptions."""
        return {preset.name: preset.about.description for preset in presets() if not preset.about.needs_asset}

    def config(self, prompt: str, preset: str, *layers: Tree) -> RunConfig:
        """Like `own_config`, for settings of a visitor. Raises ConfigError, also for settings of the owner."""
        for layer in layers:
            self._refuse_owners_only(layer)
        return self.own_config(prompt, preset, *layers)

    def own_config(self, prompt: str, preset: str, *layers: Tree) -> RunConfig:
        """Build a configuration from a preset, the overrides, the prompt and more settings. Raises ConfigError."""
        known, preset = self.presets(), current_name(preset)
        if preset not in known:  # paths of files are not accepted
            raise ConfigError(f'there is no preset "{preset[:80]}"; {meant(preset, list(known))}')
        base = [parse_override(text) for text in self.overrides]
        config = run_config(load_preset(preset).values, *base, {"prompt": prompt}, *layers)
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
            # A section given as plain text is only its name, so no key is missed.
            if any(name == key or name.startswith(f"{key}.") for name in given):
                raise ConfigError(
                    f"{key} cannot be set in a studio that is open to others: it reads files or sends data"
                )

    def find(self, name: str) -> Run | None:
        """Return the run with this folder name, or None. Names that point outside of `root` are not runs."""
        folder = self.root / name
        if not re.fullmatch(r"[\w-][\w.-]{0,200}", name) or folder.is_symlink():
            return None
        run = Run(folder)
        return run if run.config_path.is_file() else None

    def open(self, name: str) -> Run:
        """Like `find`. Raises RunError if there is no such run."""
        run = self.find(name)
        if run is None:
            raise RunError("there is no run of that name; it may have been deleted")
        return run

    def runs(self) -> list[Run]:
        """Return all runs, the most recently changed first."""
        return [run for run in list_runs(self.root) if self.find(run.folder.name)]

    def start(self, config: RunConfig) -> Run:
        """Queue the run of a configuration; equal configurations share a run. Raises RunError, OSError."""
        if len(queue.waiting(queue.runs_in(self.root))) >= MAX_WAITING:
            raise RunError(f"{MAX_WAITING} runs are waiting already; try again later")
        run = new_run(self.root, config)
        self.resume(run)
        return run

    def resume(self, run: Run) -> None:
        """Queue a run to continue. Raises RunError, OSError."""
        queue.enqueue(run)
        ensure_workers(self.root)

    def delete(self, run: Run) -> None:
        """Delete a run's folder. Raises RunError if it is running or queued, and OSError."""
        try:
            with run.locked():
                if run.state.status == "queued":
                    raise RunError("the run is queued; cancel it first")
                gone = run.folder.with_name(f".deleted-{run.folder.name}-{time.time_ns()}")
                run.folder.rename(gone)  # at once, so that a new run of the same name can start
        except RunBusyError:
            raise RunError("the run is running; cancel it first") from None
        _forget(Run(gone))  # before the files themselves, as their copies are found by content
        shutil.rmtree(gone)

    def redacted(self, text: str) -> str:
        """Return a text for visitors; in a studio that is open to others, without folders of this machine."""
        if self.local:
            return text
        text = text.replace(f"{self.root}/", "").replace(str(self.root), self.root.name)  # the path may contain spaces
        return _FOLDERS.sub("", text)

    def problem(self, error: Exception) -> str:
        """Return an error as a sentence for visitors."""
        return self.redacted(problem(error))


def files(run: Run) -> list[Path]:
    """Return the files that can be downloaded, the mesh first. Links that point outside of the run are left out."""
    inside = run.exports.resolve()
    if inside.parent != run.folder.resolve():
        return []
    found = [
        path
        for path in run.exports.rglob("[!.]*")
        if path.suffix in EXPORTS and path.is_file() and path.resolve().is_relative_to(inside)
    ]
    return sorted(found, key=lambda path: (EXPORTS.index(path.suffix), "splats" in path.stem, str(path)))


def served_copy(path: Path) -> str:
    """Copy a run's file to a folder that the server serves; the folder of runs itself is not served.

    Return the path of the copy. Raises OSError with what to do.
    """
    try:
        return save_file_to_cache(path, get_upload_folder())
    except OSError as error:
        why = error.strerror or str(error)
        what = "free some space, or check the permissions of the folder of runs"
        raise OSError(f"the file {path.name} cannot be copied for display ({why}): {what}") from error


def _forget(run: Run) -> None:
    """Remove the served copies of a run's files; another run with the same file gets a new copy."""
    for path in files(run):
        with suppress(OSError):
            shutil.rmtree(Path(get_upload_folder()) / hash_file(path))


def one_line(prompt: str) -> str:
    """Return the prompt with all white space as single spaces. Raises ValueError like `checked_prompt`."""
    return checked_prompt(" ".join(prompt.split()))


def problem(error: Exception) -> str:
    """Return an error as a sentence."""
    text = str(error).strip() or type(error).__name__
    return text[:1].upper() + text[1:]
