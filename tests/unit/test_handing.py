"""To which maps a stage can hand out what it yields while it runs."""

from collections.abc import Iterator
from typing import Any

import pytest

from pipelines.composition import Pipeline, gather, stage, when
from pipelines.handing import opening


def untyped(name: str) -> Any:
    return stage(name=name)(lambda value: value)


A, B, C, D = map(untyped, "abcd")


@pytest.mark.parametrize(
    ("parts", "stages", "unit"),
    [
        (A | B.map(), ("b",), 1),
        (A | B.map(batch=3) | C, ("b",), 3),
        (A | (B | C).map(), ("b", "c"), 1),
        (A | gather(B, C).map(), ("b", "c"), 1),
        (A | when(B, C, D).map(), ("b", "c", "d"), 1),
        (gather(A | B.map(), C), ("b",), 1),
        ((A | B.map()).on_failure(C), ("b",), 1),
    ],
)
def test_it_hands_out_to_the_map_that_comes_right_after_it(
    parts: Any, stages: tuple[str, ...], unit: int
) -> None:
    found = opening(Pipeline("shape", parts), "a")

    assert found is not None
    assert (found.stages, found.unit) == (stages, unit)


@pytest.mark.parametrize(
    "parts",
    [
        A | B,
        A | B | C.map(),
        A | B.map(key="size"),
        A | B.map().map(),
        D | (A | B.map()).map(),
        gather(A, B) | C.map(),
    ],
)
def test_without_such_a_map_it_hands_out_nothing(parts: Any) -> None:
    assert opening(Pipeline("shape", parts), "a") is None


def test_a_stage_that_yields_gives_a_list() -> None:
    @stage
    def words(text: str) -> Iterator[str]:
        yield from text.split()

    @stage
    def count(words: list[str]) -> int:
        return len(words)

    assert words.result_type == list[str]
    Pipeline("counting", words | count)
