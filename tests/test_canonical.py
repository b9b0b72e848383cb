import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.canonical import canonical_json, content_hash

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("abc"), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text("abcd"), JSON))
def test_the_order_of_keys_does_not_matter(value: dict[str, object]) -> None:
    assert content_hash(value) == content_hash(dict(reversed(value.items())))


def test_bytes_are_as_json_prints_them_without_spaces() -> None:
    assert canonical_json({"b": [1, 2.5], "a": "ü"}) == '{"a":"ü","b":[1,2.5]}'.encode()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_not_json_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"x": value})
