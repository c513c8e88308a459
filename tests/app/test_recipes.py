"""The preset of a run, and the settings that differ from it."""

from __future__ import annotations

import ast
import shlex

import pytest

from sds3d.app.edits import nested
from sds3d.app.recipes import command_line, edits_of, python_call, recipe
from sds3d.app.studio import Studio
from sds3d.app.tab_create import consistent
from sds3d.run.config import RunConfig, make_config, new_run, stage_config


def stages_of(config: RunConfig) -> list[RunConfig]:
    return [stage_config(config, i) for i in range(len(config.stages))]


@pytest.mark.parametrize("preset", ["toybox", "splats", "mesh", "vsd", "prolificdreamer", "cfd-ode"])
def test_the_preset_and_edits_of_a_run_are_found(preset: str, studio: Studio):
    config = make_config("a blue car", preset, ["seed=7", "steps=33", "export.formats=[glb]"])
    made = recipe(studio, new_run(studio.root, config))
    assert (made.preset, made.edits) == (preset, {"steps": 33, "export.formats": ["glb"]})


def test_another_choice_has_its_own_settings(studio: Studio):
    more = ["guidance=sds", "guidance.schedule=sqrt", "guidance.schedule.max=0.9", "representation=gaussians"]
    config = make_config("a blue car", "toybox", more)
    edits = edits_of(config, lambda given: studio.config("a blue car", "toybox", nested(given)))
    assert edits == {
        "guidance.name": "sds",
        "guidance.schedule.name": "sqrt",
        "guidance.schedule.max": 0.9,
        "representation.name": "gaussians",
    }
    assert studio.config("a blue car", "toybox", nested(edits)) == config
    # Another representation than a preset's stages replaces them, also in the form.
    config = make_config("a blue car", "mesh", ["representation=voxel_grid", "steps=50"])
    edits = edits_of(config, lambda given: studio.config("a blue car", "mesh", nested(given)))
    assert edits == {"representation.name": "voxel_grid", "steps": 50}
    of_stages = {"stages.1.steps": 5, "guidance.name": "sds", "guidance.scale": 3.0}
    assert consistent(of_stages | edits, of_stages) == {
        "guidance.name": "sds", "guidance.scale": 3.0, "representation.name": "voxel_grid", "steps": 50,
    }  # fmt: skip
    assert consistent({"steps": 50}, edits | {"representation.resolution": 8}) == {"steps": 50}


EDITS_OF_STAGES = [
    (["guidance.scale=4"], {"guidance.scale": 4.0}),
    (["representation.geometry.sdf_lr=0.5"], {"stages.1.representation.geometry.sdf_lr": 0.5}),
    (["stages.1.steps=50"], {"stages.1.steps": 50}),
    (["stages.0.representation=hash_nerf", "steps=28"], None),
    (["stages=[{representation: gaussians, steps: 3}]"], {"stages": [{"representation": "gaussians", "steps": 3}]}),
]


@pytest.mark.parametrize(("given", "expected"), EDITS_OF_STAGES)
def test_edits_of_stages_are_found(given: list[str], expected: dict[str, object] | None, studio: Studio):
    config = make_config("a blue car", "mesh", given)
    edits = edits_of(config, lambda edits: studio.config("a blue car", "mesh", nested(edits)))
    assert expected is None or edits == expected
    assert all(key.startswith("stages.") or key == "steps" for key in edits) or expected
    again = studio.config("a blue car", "mesh", nested(edits))
    assert stages_of(again) == stages_of(config)


def test_a_new_choice_drops_the_settings_of_the_old_one():
    edits = {"guidance.name": "sds", "guidance.scale": 3.0, "representation.name": "gaussians"}
    # A new choice drops the settings of the old choice, and nothing else.
    assert consistent({**edits, "guidance.name": "vsd"}, edits) == {
        "guidance.name": "vsd",
        "representation.name": "gaussians",
    }


OTHERS = [
    ("a red mug", "toybox", []),
    ('it\'s "the" mug, $HOME', "mesh", ["seed=12", "optimizer.eps=1e-07"]),
    ("a red mug", "mesh", ["representation=hash_nerf", "representation.levels=4"]),
    ("a red mug", "vsd", ["guidance.scale=4", "background=[1, 0.5, 0]", "export.formats=[glb, spz]"]),
    ("a red mug", "toybox", ["guidance=sds", "guidance.schedule=sqrt", "representation=gaussians", "gradient=[]"]),
    ("a red mug", "texture", ["start_from=my meshes/mug.obj", "up_axis=z"]),
    ("a red mug", "prolificdreamer", ["background=null", "cameras.elevation=[-10, 45]"]),
]


def settings(config: RunConfig) -> RunConfig:
    """Return a configuration without the names of other presets, which are those of the preset nearest to it."""
    return config.model_copy(update={"other_presets": ()})


@pytest.mark.filterwarnings("ignore:.*replaces the stages")
@pytest.mark.parametrize(("prompt", "preset", "more"), OTHERS, ids=[preset for _, preset, _ in OTHERS])
def test_the_recipe_as_text_gives_the_same_settings(prompt: str, preset: str, more: list[str], studio: Studio):
    config = make_config(prompt, preset, more)
    made = recipe(studio, new_run(studio.root, config))

    program, verb, said, option, name, *rest = shlex.split(command_line(made))
    seed, rest = (rest[1], rest[2:]) if rest[:1] == ["--seed"] else ("0", rest)
    assert (program, verb, option) == ("sds3d", "generate", "--preset")
    assert settings(make_config(said, name, [*rest, f"seed={seed}"])) == settings(config)

    call = ast.parse(python_call(made)).body[1].value  # type: ignore[attr-defined]
    keywords = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    assert ast.unparse(call.func) == "sds3d.generate"
    again = make_config(ast.literal_eval(call.args[0]), keywords.pop("preset"), settings=keywords)
    assert settings(again) == settings(config)
