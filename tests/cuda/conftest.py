"""Tests of a GPU: at most four minutes on an H100. Without one, they are skipped, also in CI."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.conftest import NO_GPU

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip everything in this folder if there is no GPU."""
    if not torch.cuda.is_available():
        for item in items:
            if item.path.parent == HERE:
                item.add_marker(pytest.mark.skip(reason=NO_GPU))


@pytest.fixture(scope="session")
def gpu() -> torch.device:
    return torch.device("cuda")
