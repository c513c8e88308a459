"""The folder of runs: find, start and delete them. Run folders are the only state."""

from __future__ import annotations

import re
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from sds3d.app.edits import choices_in
from sds3d.app.limits import refuse_extremes, refuse_owners_only
from sds3d.app.visitors import Access, access_of, give_access, has_access, visitor
from sds3d.config import ConfigError, Tree, meant, parse_override
from sds3d.files import RunError
from sds3d.jobs import queue
from sds3d.jobs.supervisor import ensure_workers
from sds3d.presets import current_name, load_preset, presets
from sds3d.prompts.prompt import checked_prompt
from sds3d.run.config import RunConfig, check_start, new_run, read_config, run_config, total_steps
from sds3d.run.folder import Run, list_runs
from sds3d.run.inputs import check_inputs
from sds3d.run.locks import RunBusyError, hold
from sds3d.run.reference_config import ReferenceConfig

MAX_SEED = 2**31 - 1
MAX_STEPS = 100_000
MAX_WAITING = 200
"""Limit of the queue."""
MAX_EACH = 20
"""Limit of a visitor's runs in the queue, so that nobody fills it alone."""

EXPORTS = (".glb", ".ply", ".splat", ".spz", ".obj", ".mtl", ".stl", ".3mf", ".usdz", ".zip", ".mp4", ".png")
"""Endings of the files that can be downloaded, in the order of the list."""

_FOLDERS = re.compile(r"(?<![\w./])/(?:[^\s/'\"]+/)+")
"""The folders of an absolute path, without the name at its end."""


@dataclass(frozen=True)
class Studio:
    """The studio, shared by all visitors.

    root: the folder of run folders, resolved. overrides: KEY=VALUE on top of every preset. local: whether only this
    machine can reach the studio, without a login. users: the logins. owner: the login of the machine's owner; "": none
    of them.
    """

    root: Path
    overrides: tuple[str, ...] = ()
    local: bool = True
    users: frozenset[str] = frozenset()
    owner: str = ""

    @property
    def trusted(self) -> bool:
        """Whether the visitor is the machine's owner, who may use its files and set what costs much."""
        return self.local or visitor() in (None, self.owner)

    def sees(self, run: Run) -> bool:
        """Whether the visitor may see a run: one's own runs, and those that are shared."""
        if not self.users or self.trusted:
            return True
        access = access_of(run)
        return access.shared or access.owner == visitor()

    def changes(self, run: Run) -> bool:
        """Whether the visitor may stop, resume, share and delete a run: one's own runs."""
        return not self.users or self.trusted or access_of(run).owner == visitor()

    def presets(self, *, of_files: bool = True) -> dict[str, str]:
        """Return the presets with their descriptions. of_files: also those that need a file to start from.

        Visitors do not have those for real models, which load gigabytes.
        """
        mine = [p for p in presets() if self.trusted or p.about.group != "real"]
        mine = [p for p in mine if p.about.needs_settings.keys() <= {"reference"}]  # the page has no field for others
        return {p.name: p.about.description for p in mine if of_files or not p.about.needs_asset}

    def config(self, prompt: str, preset: str, *layers: Tree) -> RunConfig:
        """Like `own_config`, for settings of a visitor. Raises ConfigError, also for what is the owner's."""
        if self.trusted:
            return self.own_config(prompt, preset, *layers)
        for layer in layers:
            refuse_owners_only(layer)
        config = self.own_config(prompt, preset, *layers)
        refuse_extremes(config, self.own_config(prompt, preset, *(choices_in(layer, config) for layer in layers)))
        return config

    def own_config(self, prompt: str, preset: str, *layers: Tree) -> RunConfig:
        """Build a configuration from a preset, the overrides, the prompt and more settings. Raises ConfigError."""
        known, preset = self.presets(), current_name(preset)
        if preset not in known:  # paths of files are not accepted
            raise ConfigError(f'there is no preset "{preset[:80]}"; {meant(preset, list(known))}')
        base = [parse_override(text) for text in self.overrides]
        config = run_config(*load_preset(preset).layers, *base, {"prompt": prompt}, *layers)
        if config.seed > MAX_SEED:
            raise ConfigError(f"seed = {config.seed}: give a whole number from 0 to {MAX_SEED}")
        if (steps := max(config.steps, total_steps(config))) > MAX_STEPS:
            raise ConfigError(f"steps = {steps}: give {MAX_STEPS} or fewer")
        return config

    def find(self, name: str) -> Run | None:
        """Return the run with this folder name that the visitor may see, or None.

        Names that point outside of `root` are not runs.
        """
        folder = self.root / name
        if not re.fullmatch(r"[\w-][\w.-]{0,200}", name) or folder.is_symlink():
            return None
        run = Run(folder)
        return run if run.config_path.is_file() and self.sees(run) else None

    def open(self, name: str) -> Run:
        """Like `find`. Raises RunError if there is no such run."""
        run = self.find(name)
        if run is None:
            raise RunError("there is no run of that name; it may have been deleted")
        return run

    def open_own(self, name: str) -> Run:
        """Like `open`, for a run that is to be changed. Raises RunError if it is somebody else's."""
        run = self.open(name)
        if not self.changes(run):
            raise RunError("the run belongs to somebody else, who shares it; start your own with another seed")
        return run

    def share(self, run: Run, shared: bool) -> None:
        """Let the other users see a run, or not. Raises OSError."""
        give_access(run, replace(access_of(run), shared=shared))

    def runs(self) -> list[Run]:
        """Return all runs that the visitor may see, the most recently changed first."""
        return [run for run in list_runs(self.root) if self.find(run.folder.name)]

    def start(self, config: RunConfig, own: Path | None = None, pause_at: int = 0) -> Run:
        """Queue the run of a configuration; equal configurations share a run.

        own: a file to start from, of which the run keeps a copy. pause_at: see `RunState`.
        Raises ConfigError if what it reads cannot be read, RunError, OSError.
        """
        self._refuse_more()
        check_inputs(config, own)
        run = new_run(self.root, config, self._continues, own)
        if self.users and not has_access(run):
            give_access(run, Access(visitor() or ""))
        self.resume(run, pause_at)
        return run

    def own_file(self, run: Run) -> Path | None:
        """Return the uploaded file that a run starts from; None if it starts from none. Raises RunError for others'."""
        if run.own is not None and not self.changes(run):
            raise RunError("the run starts from a file of its owner; start from one of your own")
        return run.own

    def own_references(self, run: Run) -> tuple[ReferenceConfig, ...]:
        """Return the pictures that a run follows. Raises RunError for others', ConfigError."""
        references = read_config(run).reference
        if references and not self.changes(run):
            raise RunError("the run follows pictures of its owner; start with your own")
        return references

    def own_style(self, run: Run) -> Path | None:
        """Return the picture beside a run's prompt; None if it has none. Raises RunError for others', ConfigError."""
        image = read_config(run).prompts.image
        if image and not self.changes(run):
            raise RunError("the run has a picture of its owner beside the prompt; start with your own")
        return Path(image) if image else None

    def _continues(self, run: Run) -> bool:
        """Whether a run can stand for a new one of the visitor with the same settings."""
        if self.changes(run):
            return True
        with suppress(RunError):
            return self.sees(run) and run.state.status == "done"
        return False

    def _refuse_more(self) -> None:
        """Raise RunError if the queue is full, as a whole or for the visitor."""
        waiting = queue.waiting(queue.runs_in(self.root))
        if len(waiting) >= MAX_WAITING:
            raise RunError(f"{MAX_WAITING} runs are waiting already; try again later")
        if self.users and not self.trusted and sum(self.changes(run) for run in waiting) >= MAX_EACH:
            raise RunError(f"{MAX_EACH} of your runs are waiting already; try again later")

    def resume(self, run: Run, pause_at: int = 0) -> None:
        """Queue a run to continue, up to the step `pause_at` if it is given. Raises RunError, OSError."""
        if self.changes(run) and not 0 < pause_at <= run.state.step:
            queue.enqueue(run, pause_at)
        ensure_workers(self.root)

    def expect_runs(self) -> None:
        """Start the workers that a visitor is going to need, while the prompt is typed."""
        with suppress(OSError):  # reported when a run is started
            ensure_workers(self.root)

    def delete(self, run: Run) -> None:
        """Delete a run's folder. Raises RunError if it is running or queued, and OSError."""
        try:
            with hold(run.folder / "lock", f"{run.folder} is in use"):  # a run with links cannot run, but be deleted
                if run.state.status == "queued":
                    raise RunError("the run is queued; cancel it first")
                gone = run.folder.with_name(f".deleted-{run.folder.name}-{time.time_ns()}")
                run.folder.rename(gone)  # at once, so that a new run of the same name can start
        except RunBusyError:
            raise RunError("the run is running; cancel it first") from None
        shutil.rmtree(gone)

    def redacted(self, text: str) -> str:
        """Return a text for visitors; in a studio that is open to others, without folders of this machine."""
        if self.trusted:
            return text
        text = text.replace(f"{self.root}/", "").replace(str(self.root), self.root.name)  # the path may contain spaces
        return _FOLDERS.sub("", text)

    def problem(self, error: Exception) -> str:
        """Return an error as a sentence for visitors."""
        return self.redacted(problem(error))


def refuse_without_file(preset: str, config: RunConfig, own: Path | None) -> None:
    """Raise ConfigError if a preset needs a file to start from, or pictures to follow, and has none."""
    check_start(config, own)
    about = load_preset(preset).about
    if about.needs_asset and not (own or config.start_from):
        raise ConfigError(f'the preset "{preset}" paints a mesh of yours: add it under "Your own file"')
    if "reference" in about.needs_settings and not config.reference:
        raise ConfigError(f'the preset "{preset}" follows a picture of yours: add it under "Pictures"')


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


def one_line(prompt: str) -> str:
    """Return the prompt with all white space as single spaces. Raises ValueError like `checked_prompt`."""
    return checked_prompt(" ".join(prompt.split()))


def problem(error: Exception) -> str:
    """Return an error as a sentence."""
    text = str(error).strip() or type(error).__name__
    return text[:1].upper() + text[1:]
