"""A studio over an empty folder, of one user or of several."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sds3d.app.studio import Studio


@pytest.fixture
def studio(tmp_path: Path) -> Studio:
    return Studio(tmp_path.resolve())


@pytest.fixture
def shop(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> Studio:
    """A studio with two users. No worker starts."""
    monkeypatch.setattr("sds3d.app.studio.ensure_workers", lambda root: None)
    return replace(studio, local=False, users=frozenset({"ada", "bob"}))
