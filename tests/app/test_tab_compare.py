"""Runs side by side."""

from __future__ import annotations

from sds3d.app.studio import Studio
from sds3d.app.tab_compare import differing, side_by_side
from sds3d.app.tab_library import RunCard, card_of
from sds3d.run.config import make_config, new_run


def put(studio: Studio, preset: str) -> RunCard:
    return card_of(studio, new_run(studio.root, make_config("a red mug", preset)))


def test_runs_with_stages_are_told_by_what_they_end_in(studio: Studio):
    entries = [put(studio, preset) for preset in ("toybox", "mesh")]
    rows = dict(differing(entries))
    assert rows["preset (nearest)"] == ["toybox", "mesh"]
    assert rows["representation"] == ["voxel_grid", "mesh"]
    assert rows["steps"] == ["300", "280"]
    none, told = rows["stages"]
    assert none == "none"
    stages = (1, "gaussians", 190), (2, "mesh", 55), (3, "mesh", 35)
    assert told == "; ".join(f"{n}: {kind} by multiview, {steps} steps" for n, kind, steps in stages)


def test_pictures_stand_above_their_columns_and_steps_are_planned_ones(studio: Studio):
    html = side_by_side([put(studio, "toybox"), put(studio, "mesh")])
    first, *rows = html.split("<tr")[1:]
    assert first.count("<td>") == 3
    assert first.count("<article") == 2
    assert all(row.count("<td>") == 2 for row in rows if "colspan" not in row)
    assert "0 of 300" in html
    assert "0 of 280" in html
