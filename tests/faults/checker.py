"""The checker: reads the whole record and the whole sink, and holds one against the other.

It fails on the first promise that was broken: an accepted task has exactly one final state, its moves are
legal and its event ids dense, what is recorded comes from the last claim, no claim ran twice, nothing ran
without a claim, a stage exists once, no run is left unsettled, and each failure is a dead letter.
"""

from collections import Counter, defaultdict
from collections.abc import Collection
from typing import Any
from uuid import UUID

import msgspec
import psycopg
from psycopg.rows import namedtuple_row

from tasks.history import derive
from tasks.records import Event
from tasks.states import CANCELLED, COMPLETED, FAILED, FINAL, RUNNING, is_legal
from tests.faults.board import Board
from tests.faults.sink import Mark


class Report(msgspec.Struct, frozen=True):
    """What a scenario came to.

    ``again`` counts starts beyond the first of each task: allowed, not hidden. ``errors`` and ``lost`` are
    the attempts on record that explain them; ``released`` ones were handed back.
    """

    accepted: int
    recorded: int
    completed: int
    failed: int
    cancelled: int
    runs: int
    starts: int
    again: int
    errors: int
    lost: int
    released: int

    def __str__(self) -> str:
        return " ".join(f"{name}={getattr(self, name)}" for name in self.__struct_fields__)


class _Record(msgspec.Struct):
    """Everything on record, by task."""

    tasks: dict[UUID, Any]
    states: dict[UUID, Any]
    attempts: dict[UUID, list[Any]]
    events: dict[UUID, list[Any]]
    letters: list[Any]


def check(board: Board, accepted: Collection[UUID]) -> Report:
    """Hold the record and the sink against each other.

    Raises:
      AssertionError: a promise was broken; the message says which.
    """
    record = _read(board)
    marks: dict[UUID, list[Mark]] = defaultdict(list)
    for one in board.marks():
        marks[one.task_id].append(one)
    lost = [task_id for task_id in accepted if task_id not in record.states]
    assert not lost, f"{len(lost)} accepted tasks are not on record: {lost[:3]}"
    strangers = set(marks) - set(record.states)
    assert not strangers, f"{len(strangers)} tasks ran without being on record"
    for task_id in record.tasks:
        _check_task(record, task_id, marks[task_id])
    _check_runs(record)
    _check_dead_letters(record)
    return _report(record, accepted, marks)


def _check_task(record: _Record, task_id: UUID, marks: list[Mark]) -> None:
    state = record.states[task_id]
    history = derive(record.tasks[task_id], state, record.attempts[task_id], record.events[task_id])
    said = f"{task_id} ({record.tasks[task_id].task_type}): {[event.status for event in history]}"
    _check_history(history, state, said)
    starts = [one for one in marks if one.word == "start"]
    tokens = [one.token for one in starts]
    assert len(set(tokens)) == len(tokens), f"one claim ran twice: {said}"
    claims = sum(event.kind == "state" and event.status == RUNNING for event in history)
    assert len(starts) <= claims, f"{len(starts)} starts under {claims} recorded claims: {said}"
    if state.status == COMPLETED and state.queue is not None:
        ended = [one.token for one in marks if one.word == "end"]
        assert state.token in ended, f"completed without the end of its last claim: {said}"
        if isinstance(state.result, dict) and "token" in state.result:
            assert state.result["token"] == state.token, f"a stale claim wrote the result: {said}"


def _check_history(history: list[Event], state: Any, said: str) -> None:
    ids = [event.event_id for event in history]
    assert ids == list(range(1, state.events + 1)), f"event ids {ids} are not 1..{state.events}: {said}"
    states = [event.status for event in history if event.kind == "state"]
    for before, after in zip([None, *states], states, strict=False):
        assert is_legal(before, after), f"{before} -> {after}: {said}"
    final = [status for status in states if status in FINAL]
    assert final == states[-1:] == [state.status], f"not exactly one final state at the end: {said}"


def _check_runs(record: _Record) -> None:
    stages = Counter(
        (task.run_id, task.stage, task.stage_index)
        for task in record.tasks.values()
        if task.run_id is not None
    )
    twice = [stage for stage, count in stages.items() if count > 1]
    assert not twice, f"stages exist twice: {twice[:3]}"
    for task in record.tasks.values():
        if task.run_id is not None and record.states[task.run_id].status == COMPLETED:
            assert record.states[task.id].status == COMPLETED, (
                f"a completed run has an unfinished {task.stage}"
            )


def _check_dead_letters(record: _Record) -> None:
    failed = [
        task_id
        for task_id, state in record.states.items()
        if state.status == FAILED and state.queue is not None
    ]
    letters = Counter(letter.task_id for letter in record.letters if letter.resolution is None)
    assert letters == Counter(failed), f"{len(failed)} tasks failed, but the dead letters are {letters}"


def _report(record: _Record, accepted: Collection[UUID], marks: dict[UUID, list[Mark]]) -> Report:
    statuses = Counter(state.status for state in record.states.values())
    outcomes = Counter(one.outcome for many in record.attempts.values() for one in many)
    starts = [one.task_id for of_task in marks.values() for one in of_task if one.word == "start"]
    return Report(
        accepted=len(accepted),
        recorded=len(record.tasks),
        completed=statuses[COMPLETED],
        failed=statuses[FAILED],
        cancelled=statuses[CANCELLED],
        runs=sum(state.queue is None for state in record.states.values()),
        starts=len(starts),
        again=len(starts) - len(set(starts)),
        errors=outcomes["error"],
        lost=outcomes["lost"],
        released=outcomes["released"],
    )


def _read(board: Board) -> _Record:
    with psycopg.connect(board.database_url, row_factory=namedtuple_row) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        rows: dict[str, list[Any]] = {
            table: connection.execute(f"SELECT * FROM {table}").fetchall()
            for table in ("tasks", "task_state", "attempts", "events", "dead_letters")
        }
    return _Record(
        {row.id: row for row in rows["tasks"]},
        {row.id: row for row in rows["task_state"]},
        _by_task(rows["attempts"]),
        _by_task(rows["events"]),
        rows["dead_letters"],
    )


def _by_task(rows: list[Any]) -> dict[UUID, list[Any]]:
    found: dict[UUID, list[Any]] = defaultdict(list)
    for row in rows:
        found[row.task_id].append(row)
    return found
