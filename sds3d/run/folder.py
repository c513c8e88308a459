"""The run folder: the complete state of a run, consistent on disk at any time.

    runs/<slug>-<hash of the configuration>/
        config.yaml            the complete configuration
        machine.json           the device and the number of threads that the run was started with
        state.json             status and progress, replaced atomically
        events.jsonl           one line per step; a step repeated after a crash has a later line
        checkpoints/*.safetensors   everything the next step depends on; the newest two are kept
        previews/  exports/  run.log
        own/                   a copy of the file that the run starts from, if somebody uploaded it
        live/                  views that visitors look through while the run is under way; see `sds3d.run.live`
        control                a request to the running process: pause or cancel
        lock                   held by the running process

Run folders may come from untrusted sources, so symbolic links in them are followed neither to read nor to write.

This module is independent of scenes and priors: checkpoints are flat tensors, and the configuration is text.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import yaml

from sds3d.config import Config, dump_yaml, load_yaml
from sds3d.files import (
    NotPlainError,
    RunError,
    append_line,
    open_plain,
    printable,
    read_plain,
    sweep,
    write_atomically,
)
from sds3d.run.locks import hold, is_held

if TYPE_CHECKING:
    from torch import Tensor

Status = Literal["new", "queued", "running", "paused", "cancelled", "failed", "done"]
Request = Literal["pause", "cancel"]
STOPPED: dict[Request, Status] = {"pause": "paused", "cancel": "cancelled"}
"""The status of a run after a request."""

KEPT_CHECKPOINTS = 2
NOT_OF_A_RESULT = {"export", "log_to", "other_presets", "preview_every", "checkpoint_every"}
"""Settings that may change between two checkpoints: they do not change what is optimised."""
NOT_OF_A_PRIOR = {"offline", "offload", "vae_slicing", "vae_tiling", "chunk", "compile"}
"""Settings of a prior that may change: they change its memory and speed."""
CONFIGS = "[!.]*/config.yaml"
"""Pattern of run folders below their root. A folder that is being deleted is hidden."""
EVENT_BYTES = 2048
"""Upper bound of the length of a line in `events.jsonl`."""


@dataclass(frozen=True)
class Machine:
    """What a run was started with, on which its result depends. threads: CPU threads; 0 or "": not known yet."""

    threads: int = 0
    device: str = ""


@dataclass(frozen=True)
class RunState:
    """The contents of `state.json`.

    status: "queued" runs wait for a worker, "new" ones do not; a run that is "running" but not busy was killed.
    step, total: optimisation steps done and planned. seconds: time spent, over all processes. threads, device: those of
    the last start, see `Run.machine`. error: one line, if failed. queued: time of queueing in seconds since 1970, the
    order of the queue. attempts: workers that died since then. lean: use less memory, more slowly.
    optimised: seconds until the export began; 0 before. exported: share of the export that is done, 0 to 1.
    exporting: the part of it that is under way: surface, texture, files or pictures.
    pause_at: step after which the run pauses once, as a draft; 0: none.
    """

    status: Status = "new"
    step: int = 0
    total: int = 0
    seconds: float = 0.0
    threads: int = 0
    device: str = ""
    error: str = ""
    queued: float = 0.0
    attempts: int = 0
    lean: bool = False
    optimised: float = 0.0
    exported: float = 0.0
    exporting: str = ""
    pause_at: int = 0


def _checked(state: RunState) -> RunState:
    """Return the state if each value has the type of its default. Raises ValueError."""
    if state.status not in get_args(Status):
        raise ValueError(f"the status {state.status!r} is unknown")
    for field in fields(RunState):
        value, kind = getattr(state, field.name), type(field.default)
        if not isinstance(value, (int, float) if kind is float else kind):
            raise ValueError(f"{field.name} is {value!r}")
    return state


@dataclass(frozen=True)
class Run:
    """One run folder. Reading needs no lock; only the process inside `locked()` may write."""

    folder: Path

    @property
    def config_path(self) -> Path:
        """The complete configuration."""
        return self.folder / "config.yaml"

    @property
    def previews(self) -> Path:
        """Folder of preview pictures."""
        return self.folder / "previews"

    @property
    def preview(self) -> Path | None:
        """The newest preview picture; None if there is none in the folder itself: links are not followed."""
        path = self.previews / "latest.png"
        return path if path.is_file() and not (path.is_symlink() or self.previews.is_symlink()) else None

    @property
    def exports(self) -> Path:
        """Folder of exported files."""
        return self.folder / "exports"

    @property
    def own(self) -> Path | None:
        """The file in the folder `own`; None if there is none. Links are not followed."""
        folder = self.folder / "own"
        files = [] if folder.is_symlink() else [path for path in folder.glob("[!.]*") if not path.is_symlink()]
        return files[0] if len(files) == 1 and files[0].is_file() else None

    @property
    def checkpoints(self) -> list[Path]:
        """Checkpoint files, the newest first."""
        return sorted((self.folder / "checkpoints").glob("[0-9]*.safetensors"), reverse=True)

    @property
    def state(self) -> RunState:
        """The state on disk, or a new one if there is none. Raises RunError if it is damaged, and OSError."""
        path = self.folder / "state.json"
        try:
            values = json.loads(read_plain(path))
            known = {field.name for field in fields(RunState)}
            return _checked(RunState(**{key: value for key, value in values.items() if key in known}))
        except FileNotFoundError:
            return RunState()
        except NotPlainError as error:
            raise RunError(str(error)) from None
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise RunError(f"{path} is damaged: {error}; delete it, then resume the run") from error

    def update(self, **changes: Any) -> RunState:
        """Replace fields of the state atomically."""
        state = replace(self.state, **changes)
        write_atomically(self.folder / "state.json", (json.dumps(asdict(state), indent=2) + "\n").encode())
        return state

    @property
    def machine(self) -> Machine:
        """What the run was started with: from `machine.json` or, without it, from the state or the checkpoint.

        Raises RunError if the state is damaged, and OSError.
        """
        with suppress(FileNotFoundError, NotPlainError, ValueError, TypeError, RecursionError):
            machine = Machine(**json.loads(read_plain(self.folder / "machine.json")))
            if isinstance(machine.threads, int) and isinstance(machine.device, str):
                return machine
        state = self.state
        if state.threads:
            return Machine(state.threads, state.device)
        checkpoint = self.load_checkpoint() or {}
        if "run/threads" not in checkpoint:  # of an older version, or none
            return Machine()
        return Machine(int(checkpoint["run/threads"]), bytes(checkpoint["run/device"].numpy()).decode())

    def start_on(self, machine: Machine) -> None:
        """Write `machine.json`; only for the process inside `locked()`."""
        path = self.folder / "machine.json"
        data = (json.dumps(asdict(machine)) + "\n").encode()
        with suppress(OSError):
            if read_plain(path) == data:
                return
        write_atomically(path, data)

    def log(self, message: str) -> None:
        """Append a dated message to `run.log`. Its further lines are marked, and control characters are escaped."""
        first, *others = message.rstrip("\n").split("\n")
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        lines = [f"{stamp} {printable(first)}", *(f"    | {printable(line)}" for line in others)]
        append_line(self.folder / "run.log", "\n".join(lines))

    def add_event(self, event: Mapping[str, Any]) -> None:
        """Append one line to `events.jsonl`."""
        append_line(self.folder / "events.jsonl", json.dumps(event))

    def events(self) -> list[dict[str, Any]]:
        """Read all events; a line that a killed process left incomplete is skipped."""
        return _parsed(self._end_of_events(None).decode(errors="replace").splitlines())

    def last_events(self, count: int) -> list[dict[str, Any]]:
        """Read the newest events, at most `count`, from the end of the file."""
        most = EVENT_BYTES * count
        data = self._end_of_events(most)
        lines = data.decode(errors="replace").splitlines()
        return _parsed(lines[1:] if len(data) == most else lines)[-count:]

    def _end_of_events(self, most: int | None) -> bytes:
        """Return the last bytes of `events.jsonl`, all by default. Raises RunError if it is a link or a pipe."""
        try:
            with open_plain(self.folder / "events.jsonl") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(0 if most is None else max(0, size - most))
                return file.read()
        except FileNotFoundError:
            return b""
        except NotPlainError as error:
            raise RunError(str(error)) from None

    def save_checkpoint(self, step: int, tensors: Mapping[str, Tensor]) -> Path:
        """Write CPU tensors as the newest checkpoint, and delete all but the newest two."""
        from safetensors.torch import save

        # safetensors writes several keys of metadata in random order: with one, equal runs have equal files.
        data = save(dict(tensors), metadata={"sha256": _fingerprint(tensors)})
        path = write_atomically(self.folder / "checkpoints" / f"{step:08d}.safetensors", data)
        for old in self.checkpoints[KEPT_CHECKPOINTS:]:
            old.unlink(missing_ok=True)
        return path

    def load_checkpoint(self, *, mend: bool = False) -> dict[str, Tensor] | None:
        """Load the newest undamaged checkpoint; None if there is none.

        mend: log damaged checkpoints and rename them to `<step>.damaged`; only for the process inside `locked()`.
        Raises RunError if it was made with other settings, and OSError if a checkpoint cannot be read at the moment.
        """
        for path in self.checkpoints:
            try:
                tensors = read_checkpoint(path)
                break
            except FileNotFoundError:
                continue  # a newer one has just replaced it
            except RunError as error:
                if mend:
                    self.log(f"warning: {error}; using the previous checkpoint")
                    path.replace(path.with_suffix(".damaged"))
        else:
            return None
        made_with = tensors.get("run/settings")  # older versions wrote none
        if made_with is not None and bytes(made_with.numpy()) != self.settings_digest():
            raise RunError(
                f"{path} was made with other settings than {self.config_path}: restore them, or delete the folder "
                f"{path.parent} to start over"
            )
        return tensors

    def origin(self, machine: Machine) -> dict[str, Tensor]:
        """Return what every checkpoint of a run on this machine contains in addition, as tensors "run/..."."""
        import torch

        return {
            "run/threads": torch.tensor(machine.threads),
            "run/device": torch.tensor(list(machine.device.encode()), dtype=torch.uint8),
            "run/settings": torch.tensor(list(self.settings_digest()), dtype=torch.uint8),
        }

    def settings_digest(self) -> bytes:
        """Return a digest of the settings in `config.yaml` that a result depends on. Raises ConfigError."""
        settings = load_yaml(self.config_path, follow=False)
        tree = _of_a_result({key: value for key, value in settings.items() if key not in NOT_OF_A_RESULT})
        return hashlib.sha256(yaml.safe_dump(tree).encode()).digest()

    def sweep(self) -> None:
        """Remove temporary files of killed processes; only for the process inside `locked()`."""
        inner = [path for path in self.exports.rglob("*") if path.is_dir()]
        for folder in (self.folder, self.folder / "checkpoints", self.previews, self.exports, *inner):
            sweep(folder)

    def request(self, what: Request) -> None:
        """Ask the running process to pause or cancel after its current step."""
        write_atomically(self.folder / "control", what.encode())

    def requested(self) -> Request | None:
        """Return the pending request, if any."""
        try:
            text = read_plain(self.folder / "control").decode(errors="replace").strip()
        except (FileNotFoundError, NotPlainError):
            return None
        return next((known for known in get_args(Request) if text == known), None)

    def clear_request(self) -> None:
        """Withdraw the pending request."""
        (self.folder / "control").unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder against other processes.

        Raises RunBusyError if another process holds it, and RunError if it contains links.
        """
        refuse_links(self.folder)
        with hold(self.folder / "lock", f"{self.folder} is in use"):
            yield

    def holder(self) -> int:
        """Process id of the current or last holder of the lock, on the holder's machine; 0 if there was none."""
        try:
            return int(read_plain(self.folder / "lock")[:32])
        except (OSError, ValueError):
            return 0

    def busy(self) -> bool:
        """Return whether a process holds the lock. A run that is "running" but not busy was killed and can resume."""
        return is_held(self.folder / "lock")


def create_run(
    root: Path,
    slug: str,
    config: Config,
    aside: Set[str] = frozenset(),
    mine: Callable[[Run], bool] = lambda run: True,
) -> Run:
    """Return the run folder of this configuration under `root`, and create it if it does not exist.

    aside: settings that do not identify a run: if only these differ, it is the same run, with the new values.
    mine: whether an existing run may be returned; if not, another folder is created.
    Raises RunError if the folder cannot be written.
    """
    identity = dump_yaml(config, exclude=aside)
    given = {name for name in aside if getattr(config, name) != type(config).model_fields[name].default}
    text = identity + dump_yaml(config, include=given)
    digest = hashlib.sha256(identity.encode()).hexdigest()
    for attempt in range(100):
        name = f"{slug}-{digest[:8]}" + (f"-{attempt + 1}" if attempt else "")
        run = Run(root / name)
        try:
            if run.config_path.exists() and not mine(run):
                continue
            if not run.config_path.exists():
                run.folder.mkdir(parents=True, exist_ok=True)
                write_atomically(run.config_path, text.encode())
            if is_of_another_user(run.folder):
                continue
            before = read_plain(run.config_path).decode(errors="replace")
            if before == text:
                return run
            if before.startswith(identity) and _has_only(before.removeprefix(identity), aside):
                write_atomically(run.config_path, text.encode())
                return run
        except NotPlainError as error:
            raise RunError(str(error)) from None
        except OSError as error:
            raise RunError(f"cannot write {run.folder}: {error.strerror}; choose another folder with --out") from error
    raise RunError(f"{root} has a hundred other configurations with the name {slug}-{digest[:8]}")


def _has_only(text: str, keys: Set[str]) -> bool:
    """Return whether YAML text that ends a file has no keys but these at its top level."""
    outer = [line for number, line in enumerate(text.splitlines()) if number == 0 or line[:1] not in ("-", " ")]
    return all(line.partition(":")[0] in keys for line in outer)


def _of_a_result(settings: Any) -> Any:
    """Return the settings of a run, a stage or a teacher without those of its priors that change no result."""
    if not isinstance(settings, dict):
        return settings
    tree = dict(settings)
    if isinstance(prior := tree.get("prior"), dict):
        tree["prior"] = {key: value for key, value in prior.items() if key not in NOT_OF_A_PRIOR}
    for name in ("stages", "teachers"):
        if isinstance(parts := tree.get(name), list):
            tree[name] = [_of_a_result(part) for part in parts]
    return tree


def open_run(folder: Path) -> Run:
    """Open an existing run.

    Raises RunError if the folder contains links or is not a run; the message then names a nearby run.
    """
    run = Run(folder)
    if run.config_path.is_file():
        refuse_links(folder)
        return run
    nearby = list_runs(folder) or list_runs(folder.parent)
    hint = f"; did you mean {nearby[0].folder}?" if nearby else ""
    raise RunError(f"{folder} is not a run folder (it has no config.yaml){hint}")


def refuse_links(folder: Path, inside: str = "") -> None:
    """Raise RunError if a run folder contains a symbolic link, a pipe or a device, which could lead out of it.

    inside: a folder in it. W&B makes links in its own folder, which is left out: nothing else is written there.
    """
    try:
        entries = sorted(os.scandir(folder / inside), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        name = f"{inside}{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            if name != "wandb":
                refuse_links(folder, f"{name}/")
        elif not entry.is_file(follow_symlinks=False):
            kind = "a symbolic link" if entry.is_symlink() else "a pipe or a device"
            raise RunError(f"{folder / name} is {kind}, which is not followed: replace it by what it leads to")


def is_of_another_user(folder: Path) -> bool:
    """Return whether a run folder belongs neither to this user nor to the owner of its parent folder.

    On network drives all files may belong to one user.
    """
    if not hasattr(os, "geteuid"):
        return False
    owner = folder.stat().st_uid
    return owner not in (os.geteuid(), folder.parent.stat().st_uid)


def list_runs(root: Path) -> list[Run]:
    """List the runs in a folder, the most recently changed first."""
    found = [Run(path.parent) for path in root.glob(CONFIGS)]

    def touched(run: Run) -> float:
        for path in (run.folder / "state.json", run.config_path):
            with suppress(OSError):
                return path.stat().st_mtime
        return 0.0  # deleted in the meantime

    return sorted(found, key=touched, reverse=True)


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read a checkpoint. Raises RunError if it is truncated or damaged, OSError if it cannot be read."""
    from safetensors import SafetensorError, safe_open

    open_plain(path).close()  # safetensors follows links
    try:
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except (SafetensorError, ValueError) as error:
        raise RunError(f"{path} is damaged ({error})") from error
    if metadata.get("sha256") != _fingerprint(tensors):
        raise RunError(f"{path} is damaged (its contents do not match its checksum)")
    return tensors


def _fingerprint(tensors: Mapping[str, Tensor]) -> str:
    import torch

    digest = hashlib.sha256()
    for key in sorted(tensors):
        digest.update(key.encode())
        digest.update(tensors[key].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _parsed(lines: list[str]) -> list[dict[str, Any]]:
    """Parse the lines that are complete events."""
    events = []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            events.append(event)
    return events
