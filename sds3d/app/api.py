"""The HTTP API: what `gradio_client` can call. Everything else on the page is private."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import gradio as gr
from gradio.exceptions import Error

from sds3d.app.studio import Studio, checked, files, served
from sds3d.app.tab_create import checked_seed
from sds3d.config import ConfigError, parse_override
from sds3d.files import RunError
from sds3d.jobs import queue

ENDPOINTS = ("generate", "status", "files", "stop", "resume")

_EXPECTED = (ValueError, RunError, OSError)  # told to the caller; ConfigError is a ValueError


def lay_out(studio: Studio) -> None:
    """The endpoints, in the Blocks that are open."""

    def generate(
        prompt: str, preset: str = "toybox", seed: int = 0, steps: int = 0, settings: list[str] | None = None
    ) -> str:
        """Queue a run. steps: 0 takes the preset's own. settings: KEY=VALUE texts such as "guidance.scale=4".
        Returns the run's name, which the other endpoints take; the same arguments give the same run."""
        with _told(studio):
            if not isinstance(settings, list | None) or not all(isinstance(text, str) for text in settings or []):
                raise ConfigError('settings must be a list of texts, such as ["guidance.scale=4"]')
            layers = [parse_override(text) for text in settings or []]
            if given := {"prompt", "seed"} & {key for layer in layers for key in layer}:
                raise ConfigError(f"settings: give {min(given)} as an argument of its own")
            layers.append({"seed": checked_seed(seed)})
            if steps:
                layers.append({"steps": steps})
            return studio.start(studio.config(checked(prompt), preset, *layers)).folder.name

    def status(run: str) -> dict[str, Any]:
        """How far a run is: status ("queued", "starting", "running", "exporting", "paused", "cancelled", "failed",
        "done", "stopped" or "new"), step, total, seconds_left (0 when unknown), error, and position: runs before it
        when it is queued."""
        with _told(studio):
            found = studio.open(run)
            progress = queue.progress(found)
            return {
                "status": progress.status,
                "step": progress.step,
                "total": progress.total,
                "seconds_left": progress.seconds_left,
                "error": studio.told(progress.error),
                "position": studio.place(found) if progress.status == "queued" else 0,
            }

    def exports(run: str) -> list[dict[str, Any]]:
        """The files of a run, the mesh first; the client downloads them and returns their paths on your machine."""
        with _told(studio):
            return [
                gr.FileData(path=served(path), orig_name=path.name, size=path.stat().st_size).model_dump()
                for path in files(studio.open(run))
            ]

    def stop(run: str, request: Literal["pause", "cancel"] = "pause") -> str:
        """Pause or cancel a run, after its current step. Returns its status."""
        with _told(studio):
            if request not in ("pause", "cancel"):
                raise ValueError(f'the request {request!r} is unknown: give "pause" or "cancel"')
            found = studio.open(run)
            queue.stop(found, request)
            return queue.progress(found).status

    def resume(run: str) -> str:
        """Let a run go on that was paused, cancelled, stopped or failed. Returns its status."""
        with _told(studio):
            found = studio.open(run)
            studio.resume(found)
            return queue.progress(found).status

    for name, function in zip(ENDPOINTS, (generate, status, exports, stop, resume), strict=True):
        gr.api(function, api_name=name)


@contextmanager
def _told(studio: Studio) -> Iterator[None]:
    """Errors that callers can do something about are told to them, as one line."""
    try:
        yield
    except _EXPECTED as error:
        raise Error(studio.problem(error), print_exception=False) from None
