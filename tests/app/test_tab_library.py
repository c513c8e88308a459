"""The library."""

from __future__ import annotations

import pytest

from sds3d.app.recipes import Recipe, recipe
from sds3d.app.studio import Studio
from sds3d.app.tab_library import matching
from sds3d.run.config import make_config, new_run
from sds3d.run.folder import Run


def test_the_library_reads_only_the_runs_it_shows(studio: Studio, monkeypatch: pytest.MonkeyPatch):
    runs = [new_run(studio.root, make_config("a red mug", overrides=[f"seed={seed}"])) for seed in range(3)]
    read: list[str] = []

    def counted(studio: Studio, run: Run) -> Recipe:
        read.append(run.folder.name)
        return recipe(studio, run)

    monkeypatch.setattr("sds3d.app.tab_library.recipe", counted)
    assert next(matching(studio, "", "All")).name == read[0]
    assert len(read) == 1
    assert len(list(matching(studio, "mug seed", "All"))) == len(runs)
