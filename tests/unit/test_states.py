"""The table of moves: what a task can become, and what it never becomes."""

from collections.abc import Iterable

import pytest

from tasks.states import (
    BLOCKED,
    BY_OPERATORS,
    CANCELLED,
    COMPLETED,
    FAILED,
    FINAL,
    GROUPS,
    MOVES,
    QUEUED,
    RETRYING,
    RUNNING,
    SCHEDULED,
    STATES,
    UNFINISHED,
    is_legal,
)


def reachable_from(starts: Iterable[str]) -> set[str]:
    found = set(starts)
    while more := {after for before in found for after in STATES if is_legal(before, after)} - found:
        found |= more
    return found


def test_a_final_state_is_left_by_operators_alone() -> None:
    for verb, (left, _) in MOVES.items():
        assert not left & FINAL or verb in BY_OPERATORS, f"{verb} leaves a final state"
    assert not [(before, after) for before in FINAL for after in STATES if is_legal(before, after)]


def test_an_operator_may_have_what_is_over_run_again_and_never_undo_a_success_otherwise() -> None:
    assert all(is_legal(before, QUEUED, by_operators=True) for before in FINAL)
    assert not is_legal(COMPLETED, FAILED, by_operators=True)
    assert not is_legal(COMPLETED, CANCELLED, by_operators=True)


def test_every_state_can_be_reached_from_a_submission() -> None:
    beginnings = [state for state in STATES if is_legal(None, state)]

    assert reachable_from(beginnings) == set(STATES)


@pytest.mark.parametrize("state", sorted(UNFINISHED))
def test_from_every_unfinished_state_there_is_a_way_to_each_end(state: str) -> None:
    assert reachable_from([state]) >= FINAL


@pytest.mark.parametrize("state", sorted(UNFINISHED))
def test_whatever_is_unfinished_can_be_cancelled(state: str) -> None:
    assert is_legal(state, CANCELLED)


def test_the_table_mentions_only_states_that_exist() -> None:
    mentioned = set[str]().union(*(left | reached for left, reached in MOVES.values()))

    assert mentioned == set(STATES)
    assert set(STATES) == FINAL | UNFINISHED
    assert not FINAL & UNFINISHED


def test_only_a_submission_begins_a_task() -> None:
    assert [verb for verb, (left, _) in MOVES.items() if not left] == ["submit"]
    assert {state for state in STATES if is_legal(None, state)} == {SCHEDULED, BLOCKED, QUEUED}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, QUEUED),
        (SCHEDULED, QUEUED),
        (BLOCKED, QUEUED),
        (QUEUED, RUNNING),
        (QUEUED, SCHEDULED),
        (RUNNING, QUEUED),
        (RUNNING, RETRYING),
        (RUNNING, COMPLETED),
        (RUNNING, FAILED),
        (RETRYING, QUEUED),
        (BLOCKED, FAILED),
    ],
)
def test_the_moves_of_the_diagram_are_legal(before: str | None, after: str) -> None:
    assert is_legal(before, after)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, RUNNING),
        (None, COMPLETED),
        (RETRYING, RUNNING),
        (BLOCKED, RUNNING),
        (RUNNING, SCHEDULED),
        (RUNNING, BLOCKED),
        (RETRYING, COMPLETED),
        (QUEUED, QUEUED),
        (RUNNING, RUNNING),
        (COMPLETED, QUEUED),
        (CANCELLED, FAILED),
        (FAILED, QUEUED),
    ],
)
def test_a_move_that_no_verb_makes_is_not_legal(before: str | None, after: str) -> None:
    assert not is_legal(before, after)


def test_the_words_of_filters_stand_for_the_unfinished_states() -> None:
    assert GROUPS["processing"] == (RUNNING,)
    assert {*GROUPS["processing"], *GROUPS["pending"]} == UNFINISHED
