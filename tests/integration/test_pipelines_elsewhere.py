"""Pipelines that only other processes know: a run without stages, which a clock that knows them begins."""

from typing import Any
from uuid import UUID

import pytest

from actors.submission import Defaults, Order, Submission
from pipelines.catalogue import collect
from tests.support.processes import Installation
from tests.support.waiting import eventually


@pytest.fixture
def stranger(board: Installation) -> Submission:
    """The submission of a process that has none of the board's own modules."""
    return Submission(collect(()), board.kit.ledger, board.kit.queries, Defaults())


def submit(stranger: Submission, payload: Any, **fields: Any) -> UUID:
    order = Order(task_type="numbers", payload=payload, **fields)
    prepared = stranger.prepare(order)
    assert [task.is_run for task in prepared] == [True]
    stranger.record([prepared]).result(10)
    return order.id


def test_a_run_that_was_submitted_elsewhere_runs_like_any_other(
    board: Installation, stranger: Submission
) -> None:
    # Given a run without stages, and nobody who works
    run = submit(stranger, 4)
    eventually(lambda: board.stages(run) == [("make_list", 0, "queued")])
    assert board.task(run).wait_reason == "no worker for its type"

    # When a worker comes
    board.start_worker(queues=["default", "squares"])

    # Then it completes as if it had been submitted by somebody who knows the pipeline
    finished = board.finished(run)
    known = board.finished(board.submit("numbers", 4))
    assert (finished.status, finished.result) == ("completed", known.result)
    assert board.moves(run) == board.moves(known.task_id)


def test_it_begins_when_its_time_has_come_and_what_it_needs_is_done(
    board: Installation, stranger: Submission
) -> None:
    # Given a run that waits for an hour, and one that waits for another task
    needed = board.submit("work", {"key": "needed"})
    late, blocked = submit(stranger, 2, delay=3_600), submit(stranger, 2, depends_on=(needed,))
    eventually(lambda: board.stages(late) == [("make_list", 0, "scheduled")])
    assert (board.task(late).status, board.task(blocked).status) == ("scheduled", "blocked")
    assert board.stages(blocked) == []

    # When that other task is done
    board.start_worker(queues=["default", "squares"])

    # Then the run that waited for it completes, and the other one still waits
    assert board.finished(blocked).status == "completed"
    assert board.stages(late) == [("make_list", 0, "scheduled")]


def test_a_payload_that_its_pipeline_cannot_use_fails_the_run(
    board: Installation, stranger: Submission
) -> None:
    board.start_worker(queues=["default", "squares"])

    finished = board.finished(submit(stranger, "four"))

    assert finished.status == "failed"
    assert finished.error is not None
    assert (finished.error["code"], finished.error["stage"]) == ("invalid_field", "make_list")


def test_what_an_order_says_holds_for_every_stage_of_its_run(board: Installation) -> None:
    # Given a pipeline whose stages have policies of their own
    asked = {"max_retries": 9, "timeout": 77.5, "backoff": {"kind": "fixed", "base": 2.0}}
    run = board.submit("numbers", 4, **asked)

    # When it has run
    board.start_worker(queues=["default", "squares"])
    assert board.finished(run).status == "completed"

    # Then all of them, also those after a join, had what the order said
    sql = (
        "SELECT count(*) FROM tasks WHERE run_id = %s AND (max_retries, timeout) = (9, 77.5) AND backoff = %s"
    )
    stages = len(board.stages(run))
    assert stages == 4
    assert board.value(sql, run, '{"kind": "fixed", "base": 2.0}') == stages
