"""JSON that is JSON, whatever is in it."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxch5.files import to_json

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def as_expected(value):
    if isinstance(value, list):
        return [as_expected(one) for one in value]
    if isinstance(value, dict):
        return {key: as_expected(one) for key, one in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


@given(values)
def test_what_is_no_number_is_null_and_all_else_as_it_was(value):
    """Read as strictly as other readers do, which do not know NaN."""
    text = to_json(value)
    assert json.loads(text, parse_constant=pytest.fail) == as_expected(value)
    assert "\n" not in text
