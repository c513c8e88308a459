"""Optional sinks of a run's events: TensorBoard and Weights & Biases.

A sink receives each line of `events.jsonl` and the preview pictures. The setting `log_to` chooses sinks. They do not
affect the run: a sink that fails is dropped with one warning, and the run continues.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import secrets
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, assert_never

import numpy as np
from PIL import Image

from sds3d.extras import install_command
from sds3d.files import RunError, read_plain, write_atomically
from sds3d.run.config import RunConfig, SinkName
from sds3d.run.folder import Run

PROJECT = "sds3d"
"""Name of the project in Weights & Biases."""


class Sink(Protocol):
    """Receives the events of a run."""

    def write(self, event: Mapping[str, Any]) -> None:
        """Take the event of one step, as in `events.jsonl`."""
        ...

    def show(self, step: int, picture: Path) -> None:
        """Take a preview picture that was drawn after this step."""
        ...

    def close(self) -> None:
        """Finish writing."""
        ...


class TensorBoard:
    """Writes into the run's folder `tensorboard`; view it with `tensorboard --logdir runs`."""

    def __init__(self, run: Run, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Steps after the checkpoint that a killed run is resumed from are repeated: TensorBoard drops the old ones.
        self._writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=step + 1)

    def write(self, event: Mapping[str, Any]) -> None:
        """See `Sink`."""
        for name, value in scalars(event).items():
            self._writer.add_scalar(name, value, event["step"])

    def show(self, step: int, picture: Path) -> None:
        """See `Sink`."""
        with Image.open(picture) as image:
            self._writer.add_image("preview", np.asarray(image.convert("RGB")), step, dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        """See `Sink`."""
        self._writer.close()


class WeightsAndBiases:
    """Logs to Weights & Biases. Its environment variables apply: WANDB_MODE=offline writes into the run's folder.

    A resumed run continues the same W&B run: its id is kept in the run's folder.
    """

    def __init__(self, run: Run, config: Mapping[str, Any]) -> None:
        import wandb

        self._wandb = wandb
        path = run.folder / "wandb" / "id"
        if not path.is_file():
            write_atomically(path, secrets.token_hex(4).encode())
        self._run = wandb.init(
            project=PROJECT,
            name=run.folder.name,
            id=read_plain(path, 64).decode(),
            resume="allow",
            dir=str(run.folder),
            config=dict(config),
            reinit="create_new",  # a worker process drives several runs
            settings=wandb.Settings(console="off", silent=True),
        )
        # Repeated steps of a resumed run would be dropped on W&B's own axis, which only grows.
        self._run.define_metric("*", step_metric="step")

    def write(self, event: Mapping[str, Any]) -> None:
        """See `Sink`."""
        self._run.log({"step": event["step"], **scalars(event)})

    def show(self, step: int, picture: Path) -> None:
        """See `Sink`."""
        with Image.open(picture) as image:
            self._run.log({"step": step, "preview": self._wandb.Image(image.convert("RGB"))})

    def close(self) -> None:
        """See `Sink`."""
        self._run.finish()


class Sinks:
    """Passes the events of a run to all its sinks, and drops sinks that fail."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._sinks: dict[SinkName, Sink] = {}

    def open(self, name: SinkName, config: Mapping[str, Any], step: int) -> None:
        """Add a sink. Raises RunError if its package is missing."""
        try:
            self._sinks[name] = _make(name, self._run, config, step)
        except ImportError as error:
            raise RunError(f"log_to: {name} is not installed: {install_command(name)}, or leave it out") from error
        except Exception as error:
            self._report(name, error)

    def write(self, event: Mapping[str, Any]) -> None:
        """See `Sink`."""
        self._each(lambda sink: sink.write(event))

    def show(self, step: int, picture: Path) -> None:
        """See `Sink`."""
        self._each(lambda sink: sink.show(step, picture))

    def close(self) -> None:
        """See `Sink`."""
        self._each(lambda sink: sink.close())

    def _each(self, action: Callable[[Sink], None]) -> None:
        for name, sink in list(self._sinks.items()):
            try:
                action(sink)
            except Exception as error:
                del self._sinks[name]
                self._report(name, error)

    def _report(self, name: SinkName, error: Exception) -> None:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        message = f"{name} failed and gets no more events; the run continues: {reason}"
        self._run.log(f"warning: {message}")
        warnings.warn(message, stacklevel=2)


@contextmanager
def sinks_of(run: Run, config: RunConfig, step: int) -> Iterator[Sinks]:
    """Open the sinks that a configuration chooses, and close them at the end of the block.

    step: the step that the run continues after. Raises RunError if a package is missing.
    """
    sinks = Sinks(run)
    try:
        for name in dict.fromkeys(config.log_to):
            sinks.open(name, config.model_dump(mode="json"), step)
        yield sinks
    finally:
        sinks.close()


def scalars(event: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of an event by name: "grad_norm", "seconds", "losses/image", "metrics/t" and so on."""
    groups = {f"{group}/{name}": value for group in ("losses", "metrics") for name, value in event[group].items()}
    return {"grad_norm": event["grad_norm"], "seconds": event["seconds"], **groups}


def _make(name: SinkName, run: Run, config: Mapping[str, Any], step: int) -> Sink:
    match name:
        case "tensorboard":
            return TensorBoard(run, step)
        case "wandb":
            return WeightsAndBiases(run, config)
        case _:
            assert_never(name)
