"""Settings by dotted key."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sds3d.app.edits import flat, nested

KEYS = st.dictionaries(
    st.text("abc", min_size=1, max_size=3), st.integers() | st.none() | st.lists(st.floats(allow_nan=False)), min_size=1
)


@given(st.dictionaries(st.text("xyz", min_size=1, max_size=2), KEYS | st.integers()))
def test_dotted_keys_round_trip_nested_settings(tree: dict[str, object]):
    assert nested(flat(tree)) == tree
