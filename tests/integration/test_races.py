"""Races between processes: events that commit out of order, and the last two children of a join."""

import threading
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
from playhouse.pool import PooledPostgresqlDatabase

from actors.submission import Defaults
from pipelines import flow
from pipelines.catalogue import Catalogue
from pipelines.composition import Pipeline, stage
from pipelines.settling import Settler
from tasks.ledger import Ledger
from tasks.queries import Queries
from tasks.values import Claimed, Complete, NewTask, TaskError
from tests.support.waiting import eventually

DEFAULTS = Defaults()
ROUNDS = 25


@stage
def part(text: str) -> list[str]:
    return text.split()


@stage
def measure(word: str) -> int:
    return len(word)


@stage
def total(lengths: list[int]) -> int:
    return sum(lengths)


LENGTHS = Pipeline("lengths", part | measure.map() | total)
CATALOGUE = Catalogue([], [LENGTHS])


class Process:
    """What one worker process has: a ledger, and the flow of the pipeline."""

    def __init__(self, url: str, queries: Queries) -> None:
        self.ledger = Ledger(url).start()
        self.settler = Settler(CATALOGUE, self.ledger, queries, DEFAULTS).start()

    def close(self) -> None:
        self.settler.close()
        self.ledger.close()

    def fetch(self, task_type: str, limit: int) -> list[Claimed]:
        return self.ledger.fetch(["default"], [task_type], limit).result(10)

    def finish(self, claim: Claimed, result: Any) -> None:
        """Complete a stage as the recorded call does: what follows is looked at after the commit."""
        following = flow.after(LENGTHS, claim, result, DEFAULTS)
        completion = Complete(claim.id, claim.token, result, following.successors)
        assert self.ledger.complete(claim, completion).result(10)
        assert claim.run_id is not None
        self.settler.settle_soon(claim.run_id, claim)


@pytest.fixture
def queries(shared: PooledPostgresqlDatabase) -> Queries:
    return Queries(shared)


@pytest.fixture
def processes(queries: Queries, url: str) -> Iterator[tuple[Process, Process]]:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("TRUNCATE tasks, task_state, attempts, events")
    two = Process(url, queries), Process(url, queries)
    yield two
    for one in two:
        one.close()


def test_the_last_two_children_that_finish_at_once_make_their_join_once(
    processes: tuple[Process, Process], queries: Queries
) -> None:
    one, other = processes
    for _ in range(ROUNDS):
        # Given a run whose two last children are at work in two processes
        run = NewTask(task_type="lengths", queue_name="default", payload="ab cde", is_run=True)
        one.ledger.submit([run, *flow.begin(LENGTHS, run, DEFAULTS)]).result(10)
        (first,) = one.fetch("lengths.part", 1)
        one.finish(first, ["ab", "cde"])
        children = eventually(lambda: one.fetch("lengths.measure", 2))
        held = [(one, children[0], 2), (other, children[1], 3)]
        # When both finish at the same moment
        gate = threading.Barrier(2)
        threads = [threading.Thread(target=finish_together, args=(gate, *each)) for each in held]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # Then their join is there, once, without any clock
        (join,) = eventually(lambda: one.fetch("lengths.total", 5))
        one.finish(join, 5)
        eventually(lambda run_id=run.id: status(queries, run_id) == "completed")  # type: ignore[misc]
        stages = queries.run(run.id)
        assert stages is not None
        assert len(stages.stages) == 4


def finish_together(gate: threading.Barrier, process: Process, claim: Claimed, result: int) -> None:
    gate.wait()
    process.finish(claim, result)


def status(queries: Queries, task_id: UUID) -> str:
    task = queries.task(task_id)
    assert task is not None
    return task.status


def test_a_reader_that_goes_on_after_the_last_event_it_saw_misses_none_of_several_writers(
    processes: tuple[Process, Process], queries: Queries
) -> None:
    """Global ids would commit out of order: those of a task are given out under the lock of its row."""
    one, other = processes
    for _ in range(ROUNDS):
        # Given a task that goes through a failure and is finished, while two groups write about it at once
        task = NewTask(task_type="plain", queue_name="default")
        one.ledger.submit([task]).result(10)
        lived = threading.Thread(target=live, args=(one.ledger, other.ledger))
        lived.start()
        # When a reader follows, always from the last event that it has seen
        seen: list[int] = []
        while lived.is_alive():
            follow(queries, task.id, seen)
        follow(queries, task.id, seen)
        # Then it has seen every event, in order
        assert seen == list(range(1, len(seen) + 1))
        assert status(queries, task.id) == "completed"


def live(ledger: Ledger, clock: Ledger) -> None:
    """The life of a task, with reports and checkpoints side by side."""
    (claim,) = ledger.fetch(["default"], ["plain"], 1).result(10)
    work(ledger, claim)
    ledger.fail(claim, TaskError("actor_error", "oops"), retry_in=0.0).result(10)
    clock.promote().result(10)
    (claim,) = ledger.fetch(["default"], ["plain"], 1).result(10)
    work(ledger, claim)
    ledger.complete(claim, Complete(claim.id, claim.token, "done")).result(10)


def work(ledger: Ledger, claim: Claimed) -> None:
    for step in range(1, 6):
        reported = ledger.report(claim, step, "working", None)
        saved = ledger.checkpoint(claim, claim.snapshot + step, step)
        assert (reported.result(10), saved.result(10)) == (True, True)


def follow(queries: Queries, task_id: UUID, seen: list[int]) -> None:
    last = seen[-1] if seen else 0
    seen.extend(event.event_id for event in queries.history(task_id) if event.event_id > last)
