"""How long a failed task waits: the kinds of backoff, and which descriptions of one are refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.backoff import DEFAULT_MAX, JITTER, KINDS, parse, seconds
from tasks.errors import InvalidField

LONGEST = 86_400 * 30
numbers = st.one_of(st.integers(1, LONGEST), st.floats(0, LONGEST, exclude_min=True))
backoffs = st.fixed_dictionaries(
    {"kind": st.sampled_from(KINDS)}, optional={"base": numbers, "factor": numbers, "max": numbers}
)


def spread(wait: float) -> Any:
    """A wait that is ``wait`` or up to a tenth longer."""
    return pytest.approx(wait * (1 + JITTER / 2), rel=JITTER / 2)


@pytest.mark.parametrize(
    ("backoff", "waits"),
    [
        (None, [1, 4, 9, 16]),
        ({"kind": "quadratic"}, [1, 4, 9, 16]),
        ({"kind": "quadratic", "base": 2}, [2, 8, 18, 32]),
        ({"kind": "exponential"}, [1, 2, 4, 8]),
        ({"kind": "exponential", "base": 5, "factor": 3}, [5, 15, 45, 135]),
        ({"kind": "fixed", "base": 7}, [7, 7, 7, 7]),
        ({"kind": "quadratic", "max": 5}, [1, 4, 5, 5]),
    ],
)
def test_a_kind_says_how_the_waits_grow(backoff: dict[str, Any] | None, waits: list[float]) -> None:
    assert [seconds(backoff, failures) for failures in (1, 2, 3, 4)] == [spread(wait) for wait in waits]


def test_the_factor_of_an_exponential_backoff_can_come_from_the_settings() -> None:
    assert seconds({"kind": "exponential"}, 3, factor=10) == spread(100)
    assert seconds({"kind": "exponential", "factor": 2}, 3, factor=10) == spread(4)


@given(backoffs, st.integers(1, 2_000))
def test_a_wait_is_never_negative_nor_longer_than_its_maximum(backoff: dict[str, Any], failures: int) -> None:
    wait = seconds(backoff, failures)

    assert 0 <= wait <= backoff.get("max", DEFAULT_MAX) * (1 + JITTER)


@given(backoffs.filter(lambda one: one.get("factor", 2) >= 1), st.integers(1, 100))
def test_but_for_the_jitter_a_later_failure_never_waits_shorter(
    backoff: dict[str, Any], failures: int
) -> None:
    assert seconds(backoff, failures + 1) * (1 + JITTER) >= seconds(backoff, failures) * (1 - 1e-9)


@given(backoffs)
def test_what_is_valid_is_kept_as_it_was_given(backoff: dict[str, Any]) -> None:
    assert parse(backoff) == backoff
    assert parse(parse(backoff)) == backoff


@pytest.mark.parametrize("kind", KINDS)
def test_the_name_of_a_kind_is_enough(kind: str) -> None:
    assert parse(kind) == {"kind": kind}


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ("linear", "backoff"),
        (None, "backoff"),
        (5, "backoff"),
        ([], "backoff"),
        ({}, "backoff"),
        ({"kind": "linear"}, "backoff"),
        ({"kind": ["fixed"]}, "backoff"),
        ({"kind": "fixed", "bass": 1}, "backoff.bass"),
        ({"kind": "fixed", "base": 0}, "backoff.base"),
        ({"kind": "fixed", "base": -1}, "backoff.base"),
        ({"kind": "fixed", "base": "1"}, "backoff.base"),
        ({"kind": "fixed", "base": True}, "backoff.base"),
        ({"kind": "fixed", "base": float("nan")}, "backoff.base"),
        ({"kind": "exponential", "factor": float("inf")}, "backoff.factor"),
        ({"kind": "exponential", "max": LONGEST + 1}, "backoff.max"),
        ({"kind": "exponential", "max": None}, "backoff.max"),
    ],
)
def test_what_is_no_backoff_is_refused_by_the_name_of_the_field(value: object, field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        parse(value)

    assert [name for name, _ in caught.value.errors] == [field]


def test_the_field_may_have_another_name() -> None:
    with pytest.raises(InvalidField, match=r"^tasks\[3\]\.backoff: "):
        parse("linear", field="tasks[3].backoff")
