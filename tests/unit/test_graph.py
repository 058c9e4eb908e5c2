"""The graph of a pipeline: what follows what, and which stages a run has passed by."""

from typing import Any

import pytest

from pipelines import plan
from pipelines.composition import Pipeline, gather, stage, when


def untyped(name: str) -> Any:
    return stage(name=name)(lambda value: value)


A, B, C, D, E = map(untyped, "abcde")

SHAPES: dict[str, tuple[Any, set[tuple[str, str, str]]]] = {
    "a chain": (A | B, {("a", "b", "next")}),
    "a map": (A | B.map() | C, {("a", "b", "map"), ("b", "c", "next")}),
    "side by side": (
        A | gather(B, C) | D,
        {("a", "b", "next"), ("a", "c", "next"), ("b", "d", "next"), ("c", "d", "next")},
    ),
    "a choice": (
        when(A, B, C) | D,
        {("a", "b", "then"), ("a", "c", "otherwise"), ("b", "d", "next"), ("c", "d", "next")},
    ),
    "a choice of one": (
        when(A, B) | C,
        {("a", "b", "then"), ("b", "c", "next"), ("a", "c", "next")},
    ),
    "guarded": (
        (A | B).on_failure(C) | D,
        {
            ("a", "b", "next"),
            ("a", "c", "failure"),
            ("b", "c", "failure"),
            ("b", "d", "next"),
            ("c", "d", "next"),
        },
    ),
    "nested": (A | Pipeline("p", B | C), {("a", "p.b", "next"), ("p.b", "p.c", "next")}),
}


@pytest.mark.parametrize("name", SHAPES)
def test_stages_are_linked_as_they_follow_each_other(name: str) -> None:
    parts, links = SHAPES[name]

    found = {(one.source, one.target, one.kind) for one in plan.links(Pipeline("shape", parts).plan)}

    assert found == links


@pytest.mark.parametrize(
    ("parts", "begun", "passed"),
    [
        (A | B, "a", set()),
        (when(A, B, C) | D, "a", set()),
        (when(A, B, C) | D, "ab", {"c"}),
        (when(A, B, C) | D, "ac", {"b"}),
        (when(A, B) | C, "ac", {"b"}),
        (A.on_failure(B) | C, "a", set()),
        (A.on_failure(B) | C, "ac", {"b"}),
        (gather(A | B, C) | D, "ac", set()),
    ],
)
def test_what_a_run_has_passed_by_is_known(parts: Any, begun: str, passed: set[str]) -> None:
    assert plan.passed_by(Pipeline("shape", parts).plan, set(begun), is_over=False) == passed


def test_of_a_run_that_is_over_all_that_did_not_begin_is_passed_by() -> None:
    assert plan.passed_by(Pipeline("shape", A | B | C).plan, {"a"}, is_over=True) == {"b", "c"}
