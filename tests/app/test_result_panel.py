"""Files made on demand."""

from __future__ import annotations

import pytest

from sds3d.app.result_panel import make_file
from sds3d.app.studio import Studio
from sds3d.files import RunError
from sds3d.run.config import make_config, new_run


def test_impossible_files_are_refused(studio: Studio):
    run = new_run(studio.root, make_config("a red mug"))
    with pytest.raises(ValueError, match='format "exe" is unknown'):
        make_file(run, "exe", 0, 1024)
    with pytest.raises(ValueError, match="64 to 4096"):
        make_file(run, "glb", 0, 100_000)
    with pytest.raises(RunError, match="no checkpoint"):
        make_file(run, "glb", 0, 1024)
