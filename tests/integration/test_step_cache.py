"""The step cache: the same input costs nothing the second time; over Postgres and in memory."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any, Protocol
from uuid import UUID

import psycopg
import pytest
from playhouse.pool import PooledPostgresqlDatabase

from actors import Permanent, actor, current_task
from actors.attempt import Attempts
from actors.board import Board
from actors.clock import Clock
from actors.context import Resources
from actors.delivery import Delivery, message_for
from actors.handing import Handings
from actors.interrupts import Interrupts
from actors.recorded_call import RecordedCall
from actors.step_cache import StepCache
from actors.submission import Defaults, Submission
from actors.testing import MemoryBoard, in_memory
from pipelines import Done, Pipeline, stage
from pipelines.catalogue import Catalogue
from pipelines.recovery import Recoverer, Recovery
from pipelines.settling import Settler
from tasks.coroner import Coroner
from tasks.ledger import Ledger, step_outputs
from tasks.queries import Queries
from tasks.records import Task
from tasks.values import Complete, Keep, NewTask

HOUR = 3_600.0
TABLES = "tasks, task_state, attempts, events, snapshots, dependencies, dead_letters, queues, step_outputs"

calls: list[Any] = []
moods: list[str] = []


@stage(cache=HOUR)
def spread(most: int) -> list[int]:
    calls.append("spread")
    return list(range(1, most + 1))


@stage(cache=HOUR, code_version="1")
def square(number: int) -> int:
    calls.append(number)
    return number * number


@stage
def add_up(squares: list[int]) -> int:
    calls.append("add_up")
    return sum(squares)


@stage(cache=HOUR)
def stop_early(number: int) -> Any:
    calls.append("stop_early")
    return Done(number)


@actor(cache=HOUR, max_retries=0)
def moody(payload: Any) -> str:
    """Fail, or return the mood of the hour."""
    calls.append("moody")
    if moods[-1] == "bad":
        raise Permanent("not today")
    return moods[-1]


@actor(cache=60)
def whose() -> list[str | None]:
    calls.append("whose")
    return [current_task().user_id, current_task().kb_id]


newer_square = stage(name="square", cache=HOUR, code_version="2")(square.function)
NUMBERS = Pipeline("numbers", spread | square.map() | add_up)
SQUARED = Pipeline("squared", square)
NEWER = Pipeline("newer", newer_square)
EARLY = Pipeline("early", stop_early | square)
TYPES = [NUMBERS, SQUARED, NEWER, EARLY, moody, whose]


class House(Protocol):
    """A board on some record with somebody who works."""

    board: Board

    def work(self) -> None:
        """Run all that is ready."""

    def pass_time(self, seconds: float) -> None:
        """Let kept outputs grow older."""


class InMemory:
    def __init__(self, board: MemoryBoard) -> None:
        self.board = board
        self.work = board.run
        self.pass_time = board.clock.advance


class OnPostgres:
    """A worker without processes and messages: what is ready is run on the thread of the test."""

    def __init__(self, database: PooledPostgresqlDatabase, url: str) -> None:
        catalogue = Catalogue([moody, whose], [NUMBERS, SQUARED, NEWER, EARLY])
        self.ledger = Ledger(url).start()
        self.queries = Queries(database)
        self.recoverer = Recoverer(catalogue, self.queries, Defaults())
        self.settler = Settler(catalogue, self.ledger, self.queries, Defaults())
        self.board = Board(
            Submission(catalogue, self.ledger, self.queries, Defaults()), self.ledger, self.queries
        )
        self.registry = catalogue.runnable()
        self._interrupts = Interrupts().start()
        attempts = Attempts(
            self.registry, Resources(), self._interrupts, lambda *_: None, self.ledger.checkpoint
        )
        cache = StepCache(self.registry, self.queries)
        handings = Handings(self.registry, self.ledger, self.queries, self.settler)
        self._call = RecordedCall(self.ledger, attempts, self.settler, cache, handings)
        self.sql = psycopg.connect(url, autocommit=True)
        self.sql.execute(f"TRUNCATE {TABLES}")

    def close(self) -> None:
        self._interrupts.close()
        self.ledger.close()
        self.sql.close()

    def work(self) -> None:
        while claims := self.ledger.fetch(["default"], self.registry.names, 10).result(10):
            deliveries = [Delivery(message_for(claim), claim) for claim in claims]
            for delivery in deliveries:
                self._call(delivery)
            for delivery in deliveries:
                recorded: Future[Any] | None = delivery.recorded
                assert recorded is not None
                assert recorded.result(10)
            for run_id in {claim.run_id for claim in claims if claim.run_id is not None}:
                self.settler.settle(run_id)

    def pass_time(self, seconds: float) -> None:
        self.sql.execute(
            "UPDATE step_outputs SET expires_at = expires_at - make_interval(secs => %s)", (seconds,)
        )

    def recover(self, task_id: UUID, **asked: Any) -> None:
        how = self.recoverer.decide(task_id, Recovery(**asked))
        assert self.ledger.recover(how).result(10) == "recovered"
        self.work()

    def kept(self) -> int:
        row = self.sql.execute("SELECT count(*) FROM step_outputs").fetchone()
        assert row is not None
        return int(row[0])


@pytest.fixture
def postgres(shared: PooledPostgresqlDatabase, url: str) -> Iterator[OnPostgres]:
    calls.clear()
    house = OnPostgres(shared, url)
    yield house
    house.close()


@pytest.fixture(params=["postgres", "memory"])
def house(request: pytest.FixtureRequest) -> Iterator[House]:
    if request.param == "postgres":
        yield request.getfixturevalue("postgres")
    else:
        calls.clear()
        with in_memory(*TYPES) as board:
            yield InMemory(board)


def run(house: House, what: Any, payload: Any = None, **fields: Any) -> Task:
    task = house.board.submit(what, payload, **fields)
    house.work()
    return house.board.status(task.task_id)


def called() -> list[Any]:
    """What was called since the last time that it was asked."""
    seen = list(calls)
    calls.clear()
    return seen


def stages_of(house: House, run_id: UUID, name: str) -> list[Task]:
    return [one for one in house.board.list_tasks(run_id=run_id).tasks if one.stage == name]


# --- the second time ---------------------------------------------------------------------------------


def test_a_pipeline_that_has_the_same_input_again_calls_only_what_is_not_kept(house: House) -> None:
    # Given a run
    first = run(house, NUMBERS, 3)
    assert Counter(called()) == Counter(["spread", 1, 2, 3, "add_up"])

    # When it is asked for with the same input, and then with one that has some items in common
    second = run(house, NUMBERS, 3)
    assert called() == ["add_up"]
    third = run(house, NUMBERS, 4)

    # Then the outputs that are kept are in the place of those that would be made.
    assert called() == ["spread", 4, "add_up"]
    assert [first.result, second.result, third.result] == [14, 14, 30]
    assert [one.status for one in stages_of(house, second.task_id, "square")] == ["completed"] * 3


def test_the_history_says_whose_output_it_was(house: House) -> None:
    first, second = run(house, NUMBERS, 2), run(house, NUMBERS, 2)

    (made,) = stages_of(house, first.task_id, "spread")
    (reused,) = stages_of(house, second.task_id, "spread")
    history = house.board.history(reused.task_id)
    assert [event.status for event in history] == ["queued", "running", "running", "completed"]
    assert [event.event_id for event in history] == [1, 2, 3, 4]
    assert history[2].kind == "progress"
    assert history[2].message == reused.message == f"reused the output of task {made.task_id}"
    assert made.message is None
    assert (reused.attempts, reused.progress, reused.result) == (1, 100, [1, 2])


def test_two_pipelines_share_the_outputs_of_a_stage(house: House) -> None:
    run(house, NUMBERS, 3)
    called()

    assert run(house, SQUARED, 3).result == 9
    assert called() == []


def test_an_output_that_ends_its_pipeline_ends_it_again(house: House) -> None:
    assert [run(house, EARLY, 5).result, run(house, EARLY, 5).result] == [5, 5]
    assert called() == ["stop_early"]


def test_the_order_of_fields_makes_no_other_input(house: House) -> None:
    moods.append("good")

    run(house, moody, {"a": 1, "b": [{"c": 2, "d": 3}]})
    run(house, moody, {"b": [{"d": 3, "c": 2}], "a": 1})
    run(house, moody, {"b": [{"d": 3, "c": 2}], "a": 1.5})

    assert called() == ["moody", "moody"]


# --- when it runs all the same -----------------------------------------------------------------------


def test_another_version_of_the_code_makes_its_own_outputs(house: House) -> None:
    run(house, SQUARED, 3)

    assert run(house, NEWER, 3).result == 9
    assert called() == [3, 3]


def test_nobody_gets_the_output_of_another_user_or_knowledge_base(house: House) -> None:
    for user, kb in [("ann", "a"), ("bob", "a"), ("ann", "b"), ("ann", None), ("ann", "a")]:
        assert run(house, whose, user_id=user, kb_id=kb).result == [user, kb]

    assert len(called()) == 4


def test_an_output_that_has_expired_is_made_again(house: House) -> None:
    run(house, whose)

    house.pass_time(59)
    run(house, whose)
    assert called() == ["whose"]

    house.pass_time(2)
    run(house, whose)
    assert called() == ["whose"]
    run(house, whose)
    assert called() == []


def test_an_output_goes_with_the_task_that_it_came_from(house: House) -> None:
    first = run(house, SQUARED, 3)
    second = run(house, SQUARED, 3)

    house.board.delete(second.task_id)
    run(house, SQUARED, 3)
    assert called() == [3]

    house.board.delete(first.task_id)
    run(house, SQUARED, 3)
    assert called() == [3]


def test_a_failure_is_not_kept_and_what_is_retried_runs_and_replaces_what_was_kept(house: House) -> None:
    # Given a task that failed, and one with the same input that was better off
    moods.append("bad")
    failed = run(house, moody)
    moods.append("good")
    assert run(house, moody).result == "good"
    assert called() == ["moody", "moody"]

    # When an operator has the first one run again
    moods.append("excellent")
    house.board.retry(failed.task_id)
    house.work()

    # Then it really runs, and what it comes to is the output from now on.
    assert house.board.status(failed.task_id).result == "excellent"
    assert run(house, moody).result == "excellent"
    assert called() == ["moody"]


def test_what_is_recovered_of_a_run_runs(postgres: OnPostgres) -> None:
    run(postgres, NUMBERS, 2)
    again = run(postgres, NUMBERS, 2)
    assert Counter(called()) == Counter(["spread", 1, 2, "add_up", "add_up"])

    # When a stage of a run is recovered, then it runs, and so does what follows from it
    postgres.recover(again.task_id, mode="stage", stage="square")
    assert Counter(called()) == Counter([1, 2, "add_up"])

    # And as a whole everything runs
    postgres.recover(again.task_id, mode="all")
    assert Counter(called()) == Counter(["spread", 1, 2, "add_up"])

    # And what came of it is kept in the place of what was kept before.
    last = run(postgres, NUMBERS, 2)
    assert called() == ["add_up"]
    (made,) = stages_of(postgres, again.task_id, "spread")
    (reused,) = stages_of(postgres, last.task_id, "spread")
    assert reused.message == f"reused the output of task {made.task_id}"


# --- on record ---------------------------------------------------------------------------------------


def claim_with(house: OnPostgres, key: bytes) -> tuple[Any, Complete]:
    house.ledger.submit([NewTask(task_type="work", queue_name="default")]).result(10)
    (claim,) = house.ledger.fetch(["default"], ["work"], 1).result(10)
    return claim, Complete(claim.id, claim.token, "done", keep=Keep(key, HOUR))


def test_what_a_stale_claim_made_is_not_kept(postgres: OnPostgres) -> None:
    claim, completion = claim_with(postgres, b"k")
    postgres.ledger.release(claim).result(10)

    assert postgres.ledger.complete(claim, completion).result(10) is False
    assert postgres.kept() == 0


def test_nobody_waits_for_another_process_that_keeps_the_same_output(postgres: OnPostgres, url: str) -> None:
    # Given a process that holds the key of an output in a transaction
    claim, completion = claim_with(postgres, b"k")
    with psycopg.connect(url) as other:
        other.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (step_outputs.name(b"k"),))

        # When a task with that key completes, then it does so at once and leaves the output to the other.
        assert postgres.ledger.complete(claim, completion).result(10)
        assert postgres.kept() == 0


def test_the_clock_forgets_what_has_expired_in_batches(
    postgres: OnPostgres, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given five outputs that have expired, and one that has not
    monkeypatch.setattr(step_outputs, "BATCH", 2)
    monkeypatch.setattr("actors.clock.FORGOTTEN_AT_ONCE", 2)
    run(postgres, NUMBERS, 4)
    postgres.pass_time(HOUR)
    run(postgres, whose)
    assert postgres.kept() == 6

    # When the clock prunes, then it goes on until only that one is left.
    assert postgres.ledger.forget_outputs().result(10) == 2
    Clock(postgres.ledger, postgres.queries, Coroner(url), postgres.settler).prune()
    assert postgres.kept() == 1
