"""What tests of several files of runs share."""

from __future__ import annotations

import pytest

from sds3d.run.config import new_run
from sds3d.run.folder import Run
from tests.run.tiny_runs import finish, tiny


@pytest.fixture(scope="session")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An uninterrupted run."""
    run = new_run(tmp_path_factory.mktemp("straight"), tiny())
    finish(run)
    return run
