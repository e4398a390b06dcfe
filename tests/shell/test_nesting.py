"""JSON that is nested too deeply: what is cut, and that the rest stays as it was."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.observe.nesting import TOO_DEEP, shallow

VALUES = st.recursive(
    st.none() | st.integers() | st.text(alphabet='ab"\\{}[]\n'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet='k"{', max_size=3), inner, max_size=3),
)


def cut(value: Any, levels: int) -> Any:
    if not isinstance(value, dict | list):
        return value
    if levels == 0:
        return json.loads(TOO_DEEP)
    if isinstance(value, list):
        return [cut(item, levels - 1) for item in value]
    return {key: cut(item, levels - 1) for key, item in value.items()}


@given(VALUES, st.integers(1, 6))
def test_what_is_deeper_is_a_mark_and_all_else_is_the_same(value: Any, most: int) -> None:
    assert json.loads(shallow(json.dumps(value).encode(), most)) == cut(value, most)


@pytest.mark.parametrize("levels", [1_000, 10_000])
def test_as_deep_as_an_api_server_allows(levels: int) -> None:
    body = b'{"b":2,"a":' * levels + b"1" + b"}" * levels
    assert shallow(body, 2) == b'{"b":2,"a":{"b":2,"a":' + TOO_DEEP + b"}}"
