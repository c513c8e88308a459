"""The run folder: the complete state of a run, consistent on disk at any time.

    runs/<slug>-<hash of the configuration>/
        config.yaml            the complete configuration
        state.json             status and progress, replaced atomically
        events.jsonl           one line per step; a step repeated after a crash has a later line
        checkpoints/*.safetensors   everything the next step depends on; the newest two are kept
        previews/  exports/  run.log
        control                a request to the running process: pause or cancel
        lock                   held by the running process

This module is independent of scenes and priors: checkpoints are flat tensors, and the configuration is text.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from sds3d.config import Config, dump_yaml
from sds3d.files import RunError, disk_error, sweep, write_atomically

if TYPE_CHECKING:
    from torch import Tensor

Status = Literal["new", "queued", "running", "paused", "cancelled", "failed", "done"]
Request = Literal["pause", "cancel"]
STOPPED: dict[Request, Status] = {"pause": "paused", "cancel": "cancelled"}
"""The status of a run after a request."""

KEPT_CHECKPOINTS = 2
CONFIGS = "[!.]*/config.yaml"
"""Pattern of run folders below their root. A folder that is being deleted is hidden."""
EVENT_BYTES = 2048
"""Upper bound of the length of a line in `events.jsonl`."""


class RunBusyError(RunError):
    """Another process holds the run folder."""


@dataclass(frozen=True)
class RunState:
    """The contents of `state.json`.

    status: "queued" runs wait for a worker, "new" ones do not; a run that is "running" but not busy was killed.
    step, total: optimisation steps done and planned. seconds: time spent, over all processes. threads: CPU threads, on
    which the result depends; 0 before the first start. error: one line, if failed. queued: time of queueing in seconds
    since 1970, the order of the queue. attempts: workers that died since then. lean: use less memory, more slowly.
    optimised: seconds until the export began; 0 before. exported: share of the export that is done, 0 to 1.
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
    def exports(self) -> Path:
        """Folder of exported files."""
        return self.folder / "exports"

    @property
    def checkpoints(self) -> list[Path]:
        """Checkpoint files, the newest first."""
        return sorted((self.folder / "checkpoints").glob("[0-9]*.safetensors"), reverse=True)

    @property
    def state(self) -> RunState:
        """The state on disk, or a new one if there is none. Raises RunError if it is damaged."""
        try:
            values = json.loads((self.folder / "state.json").read_text(encoding="utf-8"))
            known = {field.name for field in fields(RunState)}
            return _checked(RunState(**{key: value for key, value in values.items() if key in known}))
        except FileNotFoundError:
            return RunState()
        except (ValueError, TypeError, AttributeError) as error:
            raise RunError(
                f"{self.folder / 'state.json'} is damaged: {error}; delete it, then resume the run"
            ) from error

    def update(self, **changes: Any) -> RunState:
        """Replace fields of the state atomically."""
        state = replace(self.state, **changes)
        write_atomically(self.folder / "state.json", (json.dumps(asdict(state), indent=2) + "\n").encode())
        return state

    def log(self, message: str) -> None:
        """Append a dated line to `run.log`."""
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        _append(self.folder / "run.log", f"{stamp} {message}\n")

    def add_event(self, event: Mapping[str, Any]) -> None:
        """Append one line to `events.jsonl`."""
        _append(self.folder / "events.jsonl", json.dumps(event) + "\n")

    def events(self) -> list[dict[str, Any]]:
        """Read all events; a line that a killed process left incomplete is skipped."""
        try:
            lines = (self.folder / "events.jsonl").read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return []
        return _parsed(lines)

    def last_events(self, count: int) -> list[dict[str, Any]]:
        """Read the newest events, at most `count`, from the end of the file."""
        try:
            with (self.folder / "events.jsonl").open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                start = max(0, size - EVENT_BYTES * count)
                file.seek(start)
                lines = file.read().decode(errors="replace").splitlines()
        except FileNotFoundError:
            return []
        return _parsed(lines[1:] if start else lines)[-count:]

    def save_checkpoint(self, step: int, tensors: Mapping[str, Tensor]) -> Path:
        """Write CPU tensors as the newest checkpoint, and delete all but the newest two."""
        from safetensors.torch import save

        data = save(dict(tensors), metadata={"step": str(step), "sha256": _fingerprint(tensors)})
        path = write_atomically(self.folder / "checkpoints" / f"{step:08d}.safetensors", data)
        for old in self.checkpoints[KEPT_CHECKPOINTS:]:
            old.unlink(missing_ok=True)
        return path

    def load_checkpoint(self, *, mend: bool = False) -> dict[str, Tensor] | None:
        """Load the newest undamaged checkpoint; None if there is none.

        mend: log damaged checkpoints and rename them to `<step>.damaged`; only for the process inside `locked()`.
        Raises OSError if a checkpoint cannot be read at the moment.
        """
        for path in self.checkpoints:
            try:
                return read_checkpoint(path)
            except FileNotFoundError:
                continue  # a newer one has just replaced it
            except RunError as error:
                if mend:
                    self.log(f"warning: {error}; using the previous checkpoint")
                    path.replace(path.with_suffix(".damaged"))
        return None

    def sweep(self) -> None:
        """Remove temporary files of killed processes; only for the process inside `locked()`."""
        for folder in (self.folder, self.folder / "checkpoints", self.previews, self.exports):
            sweep(folder)

    def request(self, what: Request) -> None:
        """Ask the running process to pause or cancel after its current step."""
        write_atomically(self.folder / "control", what.encode())

    def requested(self) -> Request | None:
        """Return the pending request, if any."""
        try:
            text = (self.folder / "control").read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return None
        return next((known for known in get_args(Request) if text == known), None)

    def clear_request(self) -> None:
        """Withdraw the pending request."""
        (self.folder / "control").unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder against other processes. The lock ends with its process, so it cannot become stale.

        Raises RunBusyError if another process holds it.
        """
        with hold(self.folder / "lock", f"{self.folder} is in use"):
            yield

    def holder(self) -> int:
        """Process id of the current or last holder of the lock, on the holder's machine; 0 if there was none."""
        try:
            return int((self.folder / "lock").read_bytes()[:32])
        except (OSError, ValueError):
            return 0

    def busy(self) -> bool:
        """Return whether a process holds the lock. A run that is "running" but not busy was killed and can resume."""
        return is_held(self.folder / "lock")


def create_run(root: Path, slug: str, config: Config, aside: Set[str] = frozenset()) -> Run:
    """Return the run folder of this configuration under `root`, and create it if it does not exist.

    aside: settings that do not identify a run: if only these differ, it is the same run, with the new values.
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
            if not run.config_path.exists():
                run.folder.mkdir(parents=True, exist_ok=True)
                write_atomically(run.config_path, text.encode())
            before = run.config_path.read_text(encoding="utf-8")
            if before == text:
                return run
            if before.startswith(identity) and _has_only(before.removeprefix(identity), aside):
                write_atomically(run.config_path, text.encode())
                return run
        except OSError as error:
            raise RunError(f"cannot write {run.folder}: {error.strerror}; choose another folder with --out") from error
    raise RunError(f"{root} has a hundred other configurations with the name {slug}-{digest[:8]}")


def _has_only(text: str, keys: Set[str]) -> bool:
    """Return whether YAML text that ends a file has no keys but these at its top level."""
    outer = [line for number, line in enumerate(text.splitlines()) if number == 0 or line[:1] not in ("-", " ")]
    return all(line.partition(":")[0] in keys for line in outer)


def open_run(folder: Path) -> Run:
    """Open an existing run. Raises RunError, naming a nearby run, if the folder is not a run."""
    run = Run(folder)
    if run.config_path.is_file():
        return run
    nearby = list_runs(folder) or list_runs(folder.parent)
    hint = f"; did you mean {nearby[0].folder}?" if nearby else ""
    raise RunError(f"{folder} is not a run folder (it has no config.yaml){hint}")


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


@contextmanager
def hold(path: Path, busy: str) -> Iterator[None]:
    """Hold a lock file, which contains the holder's process id. Raises RunBusyError, starting with `busy`, if held."""
    with path.open("ab+", buffering=0) as file:  # closing it releases the lock
        try:
            _lock_patiently(file.fileno())
        except OSError:
            file.seek(0)
            holder = file.read(32).decode(errors="replace").strip()
            who = f"process {holder}" if holder else "another process"
            raise RunBusyError(f"{busy} by {who}; wait for it, or stop it first") from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n".encode())
        yield


def is_held(path: Path) -> bool:
    """Return whether a process holds a lock file. The check itself holds it for an instant."""
    for mode in ("rb+", "rb"):  # also works in a read-only folder
        with suppress(OSError), path.open(mode) as file:
            try:
                _lock(file.fileno())
            except OSError:
                return True
            return False
    return False


def _append(path: Path, line: str) -> None:
    """Append a line; first end the incomplete line that a killed process may have left."""
    try:
        with path.open("ab+", buffering=0) as file:
            torn = False
            if file.seek(0, os.SEEK_END) > 0:
                file.seek(-1, os.SEEK_END)
                torn = file.read(1) != b"\n"
            file.write(("\n" * torn + line).encode())  # a single write, so that lines of two processes never mix
    except OSError as error:
        raise disk_error(error, path, len(line)) from error


def _lock_patiently(descriptor: int) -> None:
    """Lock; retry for a moment, because a `busy()` elsewhere holds the lock for an instant. Raises OSError."""
    for _ in range(20):
        with suppress(OSError):
            return _lock(descriptor)
        time.sleep(0.02)
    return _lock(descriptor)


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, 1 << 20, os.SEEK_SET)  # on Windows, others cannot read the locked range
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
