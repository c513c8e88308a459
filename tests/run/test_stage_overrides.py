"""Settings on top of a preset with stages: each holds in the stages, or is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sds3d.config import ConfigError
from sds3d.guidance.csd import CSDConfig
from sds3d.guidance.sds import SDSConfig
from sds3d.presets import DEFAULT_PRESET
from sds3d.run.backgrounds import SolidBackground
from sds3d.run.config import RunConfig, make_config, new_run, read_config, run_config, stage_config, total_steps

STAGES: tuple[dict[str, Any], ...] = (
    {"share": 3, "representation": "gaussians", "background": [1.0, 1.0, 1.0]},
    {"share": 1, "representation": {"name": "mesh", "geometry": "flexicubes"}, "guidance": {"scale": 2.0}},
)
BELOW = {"prompt": "a mug", "steps": 80, "guidance": {"name": "sds", "scale": 20.0}, "stages": STAGES}


def both(*layers: dict[str, Any]) -> tuple[RunConfig, RunConfig]:
    """The stages of the configuration above with layers on top."""
    config = run_config(BELOW, *layers)
    return stage_config(config, 0), stage_config(config, 1)


def scales(*layers: dict[str, Any]) -> list[float]:
    return [stage.guidance.model_dump()["scale"] for stage in both(*layers)]


def test_without_a_layer_on_top_stages_are_as_they_say():
    assert scales() == [20.0, 2.0]
    assert run_config(BELOW).stages == STAGES


def test_a_setting_holds_in_all_stages():
    assert scales({"guidance": {"scale": 7.5}}) == [7.5, 7.5]
    assert scales({"guidance": {"scale": 7.5}}, {"guidance": {"scale": 8.5}}) == [8.5, 8.5]
    grey = SolidBackground(color=(0.5, 0.5, 0.5))
    assert [stage.background for stage in both({"background": [0.5, 0.5, 0.5]})] == [grey] * 2
    assert [stage.cameras.size for stage in both({"cameras": {"size": 32}})] == [32, 32]


def test_a_rule_replaces_the_rule_of_each_stage_with_its_settings():
    assert [stage.guidance for stage in both({"guidance": "csd"})] == [CSDConfig()] * 2
    given = SDSConfig(scale=33.0)
    assert [stage.guidance for stage in both({"guidance": given})] == [given, given]


def test_an_inner_choice_replaces_the_settings_of_the_former_one():
    below = BELOW | {"guidance": {"name": "sds", "schedule": {"name": "annealed"}}}
    refined = {"guidance": {"schedule": {"min": [0.5, 0.2], "max": [0.8, 0.55]}}}
    config = run_config(below | {"stages": (STAGES[0], STAGES[1] | refined)}, {"guidance": {"schedule": "uniform"}})
    assert {stage_config(config, i).guidance.schedule.name for i in (0, 1)} == {"uniform"}  # type: ignore[union-attr]


def test_a_setting_of_one_representation_holds_where_there_is_one():
    first, second = both({"representation": {"geometry": {"sdf_lr": 0.5}}})
    assert (first.representation.name, second.representation.geometry.sdf_lr) == ("gaussians", 0.5)  # type: ignore[union-attr]
    first, second = both({"representation": {"count": 77, "geometry": {"sdf_lr": 0.5}}})
    assert first.representation.count == 77  # type: ignore[union-attr]
    assert second.representation.geometry.sdf_lr == 0.5  # type: ignore[union-attr]


def test_a_setting_of_the_run_s_representation_holds_in_the_stages_without_their_own():
    stages = ({"share": 1}, STAGES[1])
    config = run_config(BELOW | {"stages": stages}, {"representation": {"resolution": 32}})
    assert stage_config(config, 0).representation.resolution == 32  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            {"representation": {"resolution": 64}},
            'unknown key "representation.resolution" in all stages (gaussians, mesh); did you mean '
            '"representation.geometry.resolution"?',
        ),
        ({"representation": {"geometry": {"sdf_lrr": 1}}}, 'did you mean "representation.geometry.sdf_lr"?'),
        ({"representation": {"zzzzz": 1}}, "or choose one for the whole run: representation=NAME"),
        ({"guidance": {"scal": 1}}, 'unknown key "guidance.scal" in all stages (sds); did you mean "guidance.scale"?'),
        ({"guidance": {"scale": -1}}, "guidance.scale = -1: "),
        ({"guidance": 7}, "guidance"),
        ({"stages": {2: {"steps": 3}}}, "stages.2: give a setting of a stage, such as stages.0.KEY=VALUE; there are"),
        ({"stages": {"x": {"steps": 3}}}, "stages.x: give a setting of a stage"),
        ({"stages": {"1": 3}}, "stages.1: give a setting of a stage"),
        ({"stages": {"1": {"stepz": 3}}}, 'in stages.1: unknown key "stepz"; did you mean "steps"?'),
        (
            {"representation": "voxel_grid", "stages": {"1": {"steps": 3}}},
            "representation=voxel_grid replaces the stages",
        ),
    ],
)
def test_what_no_stage_has_is_refused(layer: dict[str, Any], message: str):
    with pytest.raises(ConfigError) as error:
        run_config(BELOW, layer)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "stage", [{"share": "half"}, {"steps": "many"}, {"representation": 7}, {"share": True}, 7, {"guidance": [1]}]
)
@pytest.mark.parametrize(
    "layer",
    [
        {"steps": 5},
        {"representation": {"geometry": {"sdf_lr": 1}}},
        {"guidance": {"scale": 2}},
        {"stages": {"0": {"steps": 4}}},
        {"stages": {"0": {"share": 4}}},
    ],
)
def test_wrong_stages_are_refused_below_any_layer(stage: Any, layer: dict[str, Any]):
    with pytest.raises(ConfigError):
        run_config(BELOW | {"stages": (STAGES[0], stage)}, layer)


def test_a_stage_of_a_run_without_stages_is_refused():
    with pytest.raises(ConfigError, match=r"stages\.0: give a setting of a stage, .*; there are none"):
        run_config({"prompt": "a mug"}, {"stages": {"0": {"steps": 3}}})


def test_a_representation_replaces_the_stages():
    config = run_config(BELOW, {"representation": {"name": "voxel_grid", "resolution": 32}}, {"guidance": {"scale": 4}})
    assert (config.stages, total_steps(config), config.representation.resolution) == ((), 80, 32)  # type: ignore[union-attr]
    assert config.guidance.model_dump()["scale"] == 4.0


def test_a_list_of_stages_is_as_it_says_in_its_layer():
    config = run_config(BELOW, {"stages": [{"representation": "voxel_grid"}], "representation": "gaussians"})
    assert stage_config(config, 0).representation.name == "voxel_grid"
    assert run_config(BELOW, {"stages": []}).stages == ()


def test_steps_are_those_of_the_run_and_stages_keep_their_parts():
    assert [stage.steps for stage in both()] == [60, 20]
    assert [stage.steps for stage in both({"steps": 40})] == [30, 10]
    counted = BELOW | {"stages": ({"steps": 30}, {"steps": 10})}
    config = run_config(counted, {"steps": 400})
    assert [stage_config(config, i).steps for i in (0, 1)] == [300, 100]


def test_settings_of_one_stage():
    assert scales({"stages": {"1": {"guidance": {"scale": 9.0}}}}) == [20.0, 9.0]
    assert scales({"guidance": {"scale": 7.5}}, {"stages": {0: {"guidance": {"scale": 9.0}}}}) == [9.0, 7.5]
    assert [stage.steps for stage in both({"stages": {"1": {"steps": 50}}})] == [60, 50]
    assert [stage.steps for stage in both({"stages": {"1": {"steps": 60}}}, {"steps": 12})] == [6, 6]
    assert [stage.steps for stage in both({"stages": {"0": {"share": 7}}})] == [70, 10]
    first, second = both({"stages": {"1": {"representation": "gaussians"}}})
    assert first.representation == second.representation


def test_a_preset_file_on_top_of_a_preset_with_stages(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text("base: mesh\nguidance: {schedule: {min: [0.4, 0.1]}}\n")
    config = make_config("a mug", str(path))
    assert [stage_config(config, i).guidance.schedule.min for i in range(3)] == [(0.4, 0.1)] * 3  # type: ignore[union-attr]
    path.write_text("base: mesh\nrepresentation: gaussians\n")
    with pytest.warns(UserWarning, match="representation=gaussians replaces the stages"):
        assert make_config("a mug", str(path)).stages == ()


def test_the_default_says_that_a_representation_replaces_its_stages():
    expected = 'representation=hash_nerf replaces the stages of the preset "mesh" (gaussians, mesh, mesh): the run has'
    with pytest.warns(UserWarning, match="replaces the stages") as caught:
        config = make_config("a mug", DEFAULT_PRESET, ["representation=hash_nerf"])
    assert [str(warning.message).startswith(expected) for warning in caught] == [True]
    same = ["representation=hash_nerf", "steps=280", "cameras.coarse_size=64"]
    hints = {"other_presets": config.other_presets}  # which belong to the preset
    assert config == make_config("a mug", "toybox", same).model_copy(update=hints)


def test_an_old_run_folder_resumes_as_it_was(tmp_path: Path):
    """Its settings name another scale and representation than its stages: the stages had precedence."""
    config = run_config(BELOW | {"guidance": {"name": "sds", "scale": 4.0}, "representation": "hash_nerf"})
    run = new_run(tmp_path, config)
    again = read_config(run)
    assert again == config
    assert [stage_config(again, i).representation.name for i in (0, 1)] == ["gaussians", "mesh"]
    assert stage_config(again, 1).guidance.model_dump()["scale"] == 2.0
