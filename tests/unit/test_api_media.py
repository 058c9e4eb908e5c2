"""What of a JSON body is let through, and what is said about the rest."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.fields import spell
from api.errors import Unparsable
from api.media import DEEPEST, parse
from tasks.errors import InvalidField


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"{", "not JSON"),
        (b"{'a': 1}", "not JSON"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b'{"a": 1, "b": 2, "a": 3}', "'a' appears twice"),
        (b'[{"a": {"b": 1, "b": 1}}]', "'b' appears twice"),
        (b"[NaN]", "NaN is not JSON"),
        (b"[-Infinity]", "-Infinity is not JSON"),
        (b"[1e999]", "1e999 is too large"),
        (b"[18446744073709551616]", "more than 64 bits"),
        (b"[-9223372036854775809]", "more than 64 bits"),
        (b"[" + b"9" * 5_000 + b"]", "more than 64 bits"),
        (b"[" * (DEEPEST + 1) + b"]" * (DEEPEST + 1), "levels deep"),
        (b'{"a":' * 100_000, "levels deep"),
    ],
)
def test_what_is_no_unambiguous_json_is_unparsable(raw: bytes, why: str) -> None:
    with pytest.raises(Unparsable, match=why):
        parse(raw)


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (rb'{"payload": {"a": [1, {"b": "x\u0000"}]}}', "payload.a[1].b"),
        (rb'{"payload": {"a\u0000b": 1}}', r"payload.a\u0000b"),
        (rb'"\u0000"', "body"),
        (rb'{"tags": ["\ud800"]}', "tags[0]"),
        (rb'{"\udfff": 1}', r"\udfff"),
    ],
)
def test_characters_that_cannot_be_kept_are_refused_by_the_path_of_their_field(
    raw: bytes, field: str
) -> None:
    with pytest.raises(InvalidField) as refused:
        parse(raw)

    assert refused.value.errors[0][0] == field


def test_the_deepest_and_the_largest_that_is_allowed_is_read() -> None:
    assert parse(b"[" * DEEPEST + b"]" * DEEPEST)
    assert parse(b"[18446744073709551615, -9223372036854775808]") == [2**64 - 1, -(2**63)]
    assert parse(rb'"\ud83d\ude00"') == "\N{GRINNING FACE}"


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=20,
)


@given(VALUES)
def test_everything_else_is_read_as_the_standard_library_reads_it(value: Any) -> None:
    raw = json.dumps(value).encode()
    if r"\u0000" in raw.decode():
        return

    assert parse(raw) == value


@given(st.text(st.characters(), max_size=200))
def test_a_callers_words_can_always_be_repeated(text: str) -> None:
    assert len(spell(text).encode()) <= 700
