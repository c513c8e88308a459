"""Settings by dotted key."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sds3d.app.edits import flat, nested, text_of

KEYS = st.dictionaries(
    st.text("abc", min_size=1, max_size=3), st.integers() | st.none() | st.lists(st.floats(allow_nan=False)), min_size=1
)


@given(st.dictionaries(st.text("xyz", min_size=1, max_size=2), KEYS | st.integers()))
def test_dotted_keys_round_trip_nested_settings(tree: dict[str, object]):
    assert nested(flat(tree)) == tree


def test_values_are_written_for_readers():
    stages = [{"share": 150, "representation": "gaussians"}, {"guidance": {"scale": 5.0, "perp_neg": False}}]
    assert text_of(stages) == "[share: 150, representation: gaussians, guidance: scale: 5, perp_neg: no]"
    assert [text_of(value) for value in (None, True, 0.30000000000000004, "x", ())] == ["none", "yes", "0.3", "x", "[]"]
