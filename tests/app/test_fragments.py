"""HTML fragments."""

from __future__ import annotations

import pytest

from sds3d.app import fragments


@pytest.mark.parametrize(("n", "word"), [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (12, "12th"), (22, "22nd")])
def test_places_in_line(n: int, word: str):
    assert fragments.ordinal(n) == word
