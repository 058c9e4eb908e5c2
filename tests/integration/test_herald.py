"""Notices: every verb that gives a task an event tells of it, soon, and no notice grows without bounds."""

import time
from collections.abc import Iterator
from uuid import UUID

import pytest
from playhouse.pool import PooledPostgresqlDatabase

from tasks.herald import MOST_IDS, OFTEN, Herald
from tasks.ids import new_id
from tasks.ledger import EVENTS_CHANNEL, READY_CHANNEL, Ledger
from tasks.ledger.endings import Complete
from tasks.ledger.runs import Advance
from tasks.notices import Listener
from tasks.values import Claimed, NewTask, TaskError
from tests.support.waiting import eventually

OOPS = TaskError("actor_error", "oops")


class Told:
    """What is heard on the channels."""

    def __init__(self, url: str) -> None:
        self.ready: list[str] = []
        self.events: list[str] = []
        handlers = {READY_CHANNEL: self.ready.append, EVENTS_CHANNEL: self.events.append}
        self.listener = Listener(url, handlers).start()
        herald = Herald(url).start()

        def is_heard() -> bool:
            herald.tell([(READY_CHANNEL, "are you there?")], [])
            return bool(self.ready)

        eventually(is_heard)
        herald.close()

    def of(self, task_id: UUID) -> bool:
        return any(str(task_id) in text for text in self.events)


@pytest.fixture
def ledger(url: str, shared: PooledPostgresqlDatabase) -> Iterator[Ledger]:
    ledger = Ledger(url).start()
    yield ledger
    ledger.close()


@pytest.fixture
def told(url: str, shared: PooledPostgresqlDatabase) -> Iterator[Told]:
    told = Told(url)
    yield told
    told.listener.close()


def claimed(ledger: Ledger, **fields: object) -> Claimed:
    queue = f"q{new_id().hex}"
    task = NewTask(task_type="work", queue_name=queue, **fields)  # type: ignore[arg-type]
    ledger.submit([task]).result(10)
    (claim,) = ledger.fetch([queue], ["work"], 1).result(10)
    return claim


VERBS = {
    "report": lambda ledger, claim: ledger.report(claim, 10, "phase", None),
    "log": lambda ledger, claim: ledger.log(claim, "info", "logger", "a line"),
    "checkpoint": lambda ledger, claim: ledger.checkpoint(claim, 1, {}),
    "complete": lambda ledger, claim: ledger.complete(claim, Complete(claim.id, claim.token, None)),
    "fail": lambda ledger, claim: ledger.fail(claim, OOPS, retry_in=None),
    "retry": lambda ledger, claim: ledger.fail(claim, OOPS, retry_in=60),
    "release": lambda ledger, claim: ledger.release(claim),
    "lose": lambda ledger, claim: ledger.lose(claim, "It died"),
    "cancel": lambda ledger, claim: ledger.cancel(claim.id),
}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_tells_of_the_task_that_it_moves(ledger: Ledger, told: Told, verb: str) -> None:
    # Given a task that runs, of which was told
    claim = claimed(ledger)
    eventually(lambda: told.of(claim.id))
    told.events.clear()
    # When a verb gives it an event, then that is told too
    VERBS[verb](ledger, claim).result(10)
    eventually(lambda: told.of(claim.id))


def test_the_end_of_a_run_is_told(ledger: Ledger, told: Told) -> None:
    run = NewTask(task_type="run", queue_name="runs", is_run=True)
    ledger.submit([run]).result(10)
    ledger.advance(Advance(run.id, 0, status="completed", result=1)).result(10)
    eventually(lambda: told.of(run.id))


def test_of_very_many_tasks_only_that_they_moved_is_told(ledger: Ledger, told: Told) -> None:
    # Given more tasks in one commit than a notice has room for
    queue = f"q{new_id().hex}"
    tasks = [NewTask(task_type="work", queue_name=queue) for _ in range(MOST_IDS + 1)]
    ledger.submit(tasks).result(10)
    # When all are claimed at once, then the notice says that anything may have moved
    assert len(ledger.fetch([queue], ["work"], len(tasks)).result(10)) == len(tasks)
    eventually(lambda: "" in told.events)


def test_what_waits_is_told_before_the_herald_ends(told: Told, url: str) -> None:
    task_id = new_id()
    herald = Herald(url).start()
    for _ in range(3):
        herald.tell([(READY_CHANNEL, "last words")], [task_id])
    herald.close()
    eventually(lambda: told.of(task_id) and "last words" in told.ready)


def test_notices_that_come_often_are_few_and_the_last_one_is_heard(told: Told, url: str) -> None:
    # Given a herald that is told something at every turn
    herald = Herald(url).start()
    said = [f"notice {number}" for number in range(40 * OFTEN)]
    for number, text in enumerate(said):
        herald.tell([(READY_CHANNEL, "the same"), (READY_CHANNEL, text)], [])
        time.sleep(0.001 if number % 2 else 0)
    # When it falls silent, then each text is heard, and what was said over and over far less often
    eventually(lambda: set(said) <= set(told.ready))
    assert 1 <= told.ready.count("the same") <= len(said) / 4
    herald.close()


def test_a_notice_that_comes_alone_is_heard_at_once(told: Told, url: str) -> None:
    # Given a herald that has told something, and that tasks have moved
    herald = Herald(url).start()
    task_id = new_id()
    herald.tell([(READY_CHANNEL, "first")], [task_id])
    eventually(lambda: "first" in told.ready and told.of(task_id))
    # When a task moves again, of which is told later, then a notice that comes meanwhile does not wait
    herald.tell([], [task_id])
    began = time.monotonic()
    herald.tell([(READY_CHANNEL, "second")], [])
    eventually(lambda: "second" in told.ready)
    assert time.monotonic() - began < 0.5
    herald.close()
