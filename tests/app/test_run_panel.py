"""The panel of the run that a visitor watches."""

from __future__ import annotations

import errno

import gradio as gr
import pytest

from sds3d.app.run_panel import POLL, REST, RunPanel
from sds3d.app.studio import Studio
from sds3d.run.config import make_config, new_run


def test_a_finished_run_is_shown_as_finished_even_if_its_files_cannot_be_read(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
):
    run = new_run(studio.root, make_config("a red mug"))
    run.exports.mkdir(exist_ok=True)
    (run.exports / "a-red-mug.glb").write_bytes(b"glTF")
    run.update(status="done", step=4, total=4)

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error", "a-red-mug.glb")

    monkeypatch.setattr("sds3d.app.result_panel.measures", broken)
    with gr.Blocks():
        live = RunPanel.lay_out(studio)
    for updates in (live.show(run.folder.name, "exporting 0 100"), live.opened(run.folder.name, again=True)):
        assert "Finished: a red mug" in updates[live.status].value
        assert "a-red-mug.glb" in updates[live.message].value
        assert "Input/output error" in updates[live.message].value
        assert not updates[live.timer].active


def test_the_page_polls_while_a_run_can_continue(studio: Studio):
    run = new_run(studio.root, make_config("a red mug"))
    with gr.Blocks():
        live = RunPanel.lay_out(studio)
    for status, timer in {
        "new": (REST, True), "paused": (REST, True), "cancelled": (REST, True), "failed": (REST, True),
        "queued": (POLL, True), "running": (POLL, True), "done": (REST, False),
    }.items():  # fmt: skip
        run.update(status=status)
        made = live.show(run.folder.name, "")[live.timer]
        assert (made.value, made.active) == timer, status
