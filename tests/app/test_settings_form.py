"""Widgets made from the configuration models."""

from __future__ import annotations

import gradio as gr
import pytest

from sds3d.app.edits import choices_of, leaves_of
from sds3d.app.settings_form import editable_settings, edited, lay_out
from sds3d.app.studio import Studio


@pytest.mark.parametrize("preset", ["toybox", "splats", "vsd", "prolificdreamer", "perp-neg"])
def test_untouched_widgets_change_nothing(preset: str, studio: Studio):
    config = studio.config("a red mug", preset)
    fields = editable_settings(config)
    assert {field.key for field in fields} >= {"steps", "guidance.name", "representation.name", "export.formats"}
    assert all(field.help() for field in fields if not field.is_choice)
    with gr.Blocks():
        widgets = lay_out(fields, lambda _: False)
    shown = [widget.value for widget in widgets]  # type: ignore[attr-defined]
    assert edited(fields, leaves_of(config), shown) == {}
    steps = [field.key for field in fields].index("steps")
    assert edited(fields, leaves_of(config), [*shown[:steps], 77, *shown[steps + 1 :]]) == {"steps": 77}
    assert choices_of(leaves_of(config))["prior.name"] == "diffusers"
