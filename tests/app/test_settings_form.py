"""Widgets made from the configuration models."""

from __future__ import annotations

import gradio as gr
import pytest

from sds3d.app.edits import choices_of, leaves_of, nested
from sds3d.app.settings_form import changed_list, editable_settings, edited, find, found_list, lay_out, read, widget
from sds3d.app.studio import Studio
from sds3d.config import ConfigError
from sds3d.run.config import RunConfig, stage_config


@pytest.mark.parametrize("preset", ["toybox", "splats", "mesh", "vsd", "prolificdreamer", "perp-neg"])
def test_untouched_widgets_change_nothing(preset: str, studio: Studio):
    config = studio.config("a red mug", preset)
    fields = editable_settings(config, config)
    start = leaves_of(config) | {field.key: field.value for field in fields}
    assert {field.key for field in fields} >= {"steps", "guidance.name", "representation.name", "export.formats"}
    assert all(field.help() for field in fields if not field.is_choice)
    with gr.Blocks():
        widgets = lay_out(fields, lambda _: False)
    shown = [widget.value for widget in widgets]  # type: ignore[attr-defined]
    assert edited(fields, start, shown) == {}
    steps = [field.key for field in fields].index("steps")
    assert edited(fields, start, [*shown[:steps], 77, *shown[steps + 1 :]]) == {"steps": 77}
    assert choices_of(leaves_of(config))["prior.name"] == "diffusers"


def test_stages_have_widgets_and_are_an_option_of_the_representation(studio: Studio):
    own = studio.config("a red mug", "mesh")
    fields = {field.key: field for field in editable_settings(own, own)}
    assert fields["representation.name"].value == "in stages: gaussians, mesh, mesh"
    assert fields["stages.0.representation.name"].value == "gaussians"
    assert fields["stages.1.representation.geometry.sdf_lr"].value == 0.001
    assert fields["stages.1.guidance.schedule.min"].value == [0.5, 0.2]
    assert not any(key.startswith("representation.") for key in fields if key != "representation.name")
    with gr.Blocks():
        widgets = lay_out(list(fields.values()), lambda _: False)
    values = dict(zip(fields, [widget.value for widget in widgets], strict=True))  # type: ignore[attr-defined]
    start = leaves_of(own) | {key: field.value for key, field in fields.items()}

    def config_of(**given: object) -> RunConfig:
        changed = values | {key.replace("__", "."): value for key, value in given.items()}
        return studio.config("a red mug", "mesh", nested(edited(list(fields.values()), start, list(changed.values()))))

    assert config_of() == own
    config = config_of(stages__1__representation__geometry__sdf_lr=0.5, guidance__scale=4.0)
    stages = [stage_config(config, i) for i in (0, 1)]
    assert [stage.guidance.scale for stage in stages] == [4.0, 4.0]  # type: ignore[union-attr]
    assert stages[1].representation.geometry.sdf_lr == 0.5  # type: ignore[union-attr]
    single = config_of(representation__name="voxel_grid")  # the representation of the run itself, which no stage uses
    assert (single.stages, single.representation.name) == ((), "voxel_grid")
    again = {field.key: field for field in editable_settings(single, own)}["representation.name"]
    assert again.value == "voxel_grid"
    assert again.options[0] == "in stages: gaussians, mesh, mesh"


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


def test_a_number_over_time_is_typed_as_a_number_or_as_knots(studio: Studio):
    (field,) = (f for f in editable_settings(studio.config("a red mug", "toybox")) if f.key == "representation.entropy")
    assert "a number, or knots [[progress, value], ...]" in field.help()
    with gr.Blocks():
        assert widget(field).value == "0.02"  # type: ignore[attr-defined]
    assert read(field, "1e-05") == 1e-05  # which YAML reads as a word
    assert read(field, "[[0, 0], [0.4, 100]]") == [[0.0, 0.0], [0.4, 100.0]]
    config = studio.config("a red mug", "toybox", {"representation": {"entropy": read(field, "[[0, 1], [1, 2]]")}})
    assert config.representation.entropy.at(0.5) == 1.5  # type: ignore[union-attr]
    csd = studio.config("a red mug", "csd")
    (pair,) = (f for f in editable_settings(csd) if f.key == "guidance.negative")
    assert read(pair, "[0, -1]") == [[0.0, 0.0], [1.0, -1.0]]
    with pytest.raises(ConfigError, match=r"representation\.entropy: the knot at 0 follows the one at 1: .*example: 0"):
        read(field, "[[1, 0], [0, 100]]")
