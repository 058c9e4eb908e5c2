"""A pipeline that changes while it runs: a run ends on the plan on which it began, or says why it waits."""

from uuid import UUID

import pytest

from actors.submission import Defaults, Order, Submission
from pipelines.catalogue import Catalogue, collect
from pipelines.recovery import Recoverer, Recovery
from tasks.errors import Conflict
from tests.support.processes import Installation
from tests.support.versioned_actors import BOTH, NEW, OLD
from tests.support.waiting import eventually

WORDS = ["b", "a"]


def known(modules: str) -> Catalogue:
    return collect(modules.split(","))


def submit(board: Installation, modules: str) -> UUID:
    """Submit from a process that knows these versions."""
    submission = Submission(known(modules), board.kit.ledger, board.kit.queries, Defaults())
    order = Order(task_type="versioned", payload=WORDS)
    submission.record([submission.prepare(order)]).result(10)
    return order.id


def names(board: Installation, run: UUID) -> list[str]:
    return sorted(stage for stage, _, _ in board.stages(run))


def test_a_run_waits_for_a_worker_of_its_version_and_ends_on_the_plan_on_which_it_began(
    board: Installation,
) -> None:
    # Given a run of the old version, and a worker that knows the new one alone
    run = submit(board, OLD)
    worker = board.start_worker(ACTORS=NEW)

    # Then it does not run, and says why; the new version's runs are not held up
    newer = submit(board, NEW)
    assert board.finished(newer).result == "a b"
    (stage,) = [task for task in board.kit.details.graph(run).nodes if task.stage]
    eventually(lambda: board.task(stage.task_id).wait_reason == "no worker for its version")
    assert board.task(stage.task_id).attempts == 0

    # When one comes in its place that knows both
    worker.kill()
    board.start_worker(ACTORS=BOTH)

    # Then the old run ends as it would have, and new ones go by the new version
    assert board.finished(run).result == 2
    assert names(board, run) == ["collect", "count"]
    assert board.finished(submit(board, BOTH)).result == "a b"


def test_a_run_of_a_version_that_is_gone_can_only_begin_anew_on_the_new_one(board: Installation) -> None:
    # Given a finished run of the old version
    worker = board.start_worker(ACTORS=BOTH)
    run = submit(board, OLD)
    assert board.finished(run).result == 2
    worker.kill()
    recoverer = Recoverer(known(NEW), board.kit.queries, Defaults())

    # Then a process that knows the new version alone does not recover a part of it
    with pytest.raises(Conflict, match="in the version that the run goes by"):
        recoverer.decide(run, Recovery(mode="stage", stage="count"))

    # When it has all of it run again
    decision = recoverer.decide(run, Recovery(mode="all"))
    assert board.kit.ledger.recover(decision).result(10) == "recovered"
    board.start_worker(ACTORS=NEW)

    # Then it goes by the new version
    assert board.finished(run).result == "a b"
    assert names(board, run) == ["collect", "join", "sort"]


def test_a_run_that_nobody_here_knows_goes_by_the_version_that_begins_it(board: Installation) -> None:
    # Given a run that was submitted by a process without the pipeline, which knows it is one
    submit(board, OLD)
    stranger = Submission(collect(()), board.kit.ledger, board.kit.queries, Defaults())
    board.start_worker(ACTORS=BOTH)
    eventually(lambda: "versioned" in board.kit.queries.task_types())
    order = Order(task_type="versioned", payload=WORDS)
    stranger.record([stranger.prepare(order)]).result(10)

    # When somebody who knows it begins it
    board.start_clock(ACTORS=BOTH)

    # Then that is the newest version
    assert board.finished(order.id).result == "a b"
    found = board.kit.queries.run(order.id)
    assert found is not None
    assert found.task.version is not None
    assert found.task.version.startswith("2-")
