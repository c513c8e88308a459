"""The HTTP API that `gradio_client` calls. All other events of the page are private."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import gradio as gr
from gradio.exceptions import Error

from sds3d.app import estimates
from sds3d.app.serving import name_of
from sds3d.app.studio import Studio, files, one_line, refuse_without_file
from sds3d.app.tab_create import checked_seed
from sds3d.config import ConfigError, parse_override
from sds3d.files import RunError
from sds3d.jobs import queue
from sds3d.jobs.queue import Wait
from sds3d.presets import DEFAULT_PRESET

ENDPOINTS = ("generate", "status", "files", "stop", "resume")

_EXPECTED = (ValueError, RunError, OSError)  # reported to the caller; ConfigError is a ValueError


def lay_out(studio: Studio) -> None:
    """Add the endpoints to the open Blocks."""

    def generate(
        prompt: str, preset: str = DEFAULT_PRESET, seed: int = 0, steps: int = 0, settings: list[str] | None = None
    ) -> str:
        """Queue a run. steps: 0: the preset's. settings: KEY=VALUE texts such as "guidance.scale=4".
        Returns the run's name for the other endpoints. The same arguments give the same run."""
        with _reported(studio):
            if not isinstance(settings, list | None) or not all(isinstance(text, str) for text in settings or []):
                raise ConfigError('settings must be a list of strings, such as ["guidance.scale=4"]')
            layers = [parse_override(text) for text in settings or []]
            if given := {"prompt", "seed"} & {key for layer in layers for key in layer}:
                raise ConfigError(f"settings: give {min(given)} as a separate argument")
            layers.append({"seed": checked_seed(seed)})
            if steps:
                layers.append({"steps": steps})
            config = studio.config(one_line(prompt), preset, *layers)
            refuse_without_file(preset, config, None)
            return studio.start(config).folder.name

    def status(run: str) -> dict[str, Any]:
        """Progress of a run: status ("queued", "starting", "running", "exporting", "paused", "cancelled", "failed",
        "done", "stopped" or "new"), step, total, error, position: the number of runs before it in the queue,
        starts_in: seconds until it starts, and seconds_left: from its start or from now until it is done, its export
        included. Both are estimates, and 0 if unknown."""
        with _reported(studio):
            found = studio.open(run)
            progress = estimates.planned(studio, found, queue.progress(found))
            ahead = estimates.wait(studio, found) if progress.status == "queued" else Wait(0, 0.0)
            left = estimates.seconds_left(progress, estimates.cost_of(studio, found)) if progress.active else 0.0
            return {
                "status": progress.status,
                "step": progress.step,
                "total": progress.total,
                "seconds_left": round(left, 1),
                "starts_in": round(ahead.seconds, 1),
                "error": studio.redacted(progress.error),
                "position": ahead.place,
            }

    def exports(run: str) -> list[dict[str, Any]]:
        """Files of a run, the mesh first. The client downloads them and returns their paths on your machine."""
        with _reported(studio):
            return [
                gr.FileData(
                    path=name_of(path), orig_name=path.name, size=path.stat().st_size, is_stream=True
                ).model_dump()
                for path in files(studio.open(run))
            ]

    def stop(run: str, request: Literal["pause", "cancel"] = "pause") -> str:
        """Pause or cancel a run after its current step. Returns its status."""
        with _reported(studio):
            if request not in ("pause", "cancel"):
                raise ValueError(f'the request {request!r} is unknown; use "pause" or "cancel"')
            found = studio.open_own(run)
            queue.stop(found, request)
            return queue.progress(found).status

    def resume(run: str) -> str:
        """Continue a run that was paused, cancelled, stopped or failed. Returns its status."""
        with _reported(studio):
            found = studio.open_own(run)
            studio.resume(found)
            return queue.progress(found).status

    for name, function in zip(ENDPOINTS, (generate, status, exports, stop, resume), strict=True):
        gr.api(function, api_name=name)


@contextmanager
def _reported(studio: Studio) -> Iterator[None]:
    """Report expected errors to the caller, as one line."""
    try:
        yield
    except _EXPECTED as error:
        raise Error(studio.problem(error), print_exception=False) from None
