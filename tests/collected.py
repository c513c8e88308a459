"""What a test process collected."""

import pytest

COLLECTED = pytest.StashKey[list[str]]()
"""In a configuration's stash: ids of all tests that this process collected, also of those that -m leaves out."""
