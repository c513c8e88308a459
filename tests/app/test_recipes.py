"""The preset of a run, and the settings that differ from it."""

from __future__ import annotations

import pytest

from sds3d.app.edits import nested
from sds3d.app.recipes import edits_of, recipe
from sds3d.app.studio import Studio
from sds3d.app.tab_create import consistent
from sds3d.run.config import make_config, new_run


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
    # A new choice drops the settings of the old choice, and nothing else.
    assert consistent({**edits, "guidance.name": "vsd"}, edits) == {
        "guidance.name": "vsd",
        "representation.name": "gaussians",
    }
