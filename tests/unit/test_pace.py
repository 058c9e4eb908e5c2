"""The pace of a pipeline: how far a run is, by what its stages took in earlier runs."""

from typing import Any

import pytest

from pipelines import flow
from pipelines.composition import Pipeline, stage
from pipelines.pace import Pace
from tasks.records import Spent


def untyped(name: str) -> Any:
    return stage(name=name)(lambda value: value)


BOOK = Pipeline("book", untyped("write") | untyped("read").map() | untyped("print"))


def spent(**milliseconds: float) -> Pace:
    """The pace after two runs, in which the tasks of the stages took so long all together."""
    tasks = {f"book.{name}": Spent(2, 2 * ms) for name, ms in milliseconds.items()}
    return Pace({"book": Spent(2, 0.0)} | tasks)


def test_without_earlier_runs_all_stages_count_the_same() -> None:
    assert [round(flow.NO_PACE.reached(BOOK, name)) for name in ("write", "read", "print")] == [0, 33, 67]


def test_stages_count_by_what_they_took_in_earlier_runs() -> None:
    pace = spent(write=999.0, read=7_999.0, print=999.0)

    assert pace.reached(BOOK, "read") == pytest.approx(10)
    assert pace.reached(BOOK, "read", 0.5) == pytest.approx(50)
    assert pace.reached(BOOK, "print") == pytest.approx(90)
    assert pace.expected(BOOK, "read") == 7_999.0


def test_a_new_stage_counts_as_much_as_the_others_do_on_average() -> None:
    pace = spent(write=1_499.0, print=499.0)

    assert pace.expected(BOOK, "read") is None
    assert pace.reached(BOOK, "print") - pace.reached(BOOK, "read") == pytest.approx(33.3, abs=0.1)


def test_all_stages_of_a_map_are_one_stretch_of_the_way() -> None:
    pace = spent(write=999.0, read=1_999.0, print=999.0)

    assert pace.within(BOOK, ("write", "read"), 0.0) == 0.0
    assert pace.within(BOOK, ("write", "read"), 1.0) == pytest.approx(75)
