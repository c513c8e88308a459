"""Widgets made from the configuration models."""

from __future__ import annotations

import gradio as gr
import pytest

from sds3d.app.edits import choices_of, leaves_of
from sds3d.app.settings_form import changed_list, editable_settings, edited, find, found_list, lay_out
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


def test_settings_are_found_by_words_of_their_key_and_help(studio: Studio):
    fields = editable_settings(studio.config("a red mug", "vsd"))
    keys = [field.key for field in find(fields, "guidance SCALE")]
    assert keys[0] == "guidance.scale"
    assert "cameras.elevation" in [field.key for field in find(fields, "degrees range")]
    assert find(fields, "") == find(fields, "xyzzy") == []
    assert "guidance" in found_list(find(fields, "guidance scale"), "guidance scale").lower()
    assert "&lt;b&gt;" in found_list([], "<b>")
    assert found_list([], " ") == ""


def test_changed_settings_are_named_and_marked():
    html = changed_list(["guidance.name", "guidance.scale"])
    assert "Changed: guidance, guidance.scale" in html
    assert "#set-guidance-name, #set-guidance-scale {" in html
    assert changed_list([]) == ""
