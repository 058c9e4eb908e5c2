"""The record in memory does what the one on Postgres does, whatever is asked of both in whatever order."""

from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, multiple, rule, run_state_machine_as_test
from playhouse.pool import PooledPostgresqlDatabase

from tasks.ledger import Ledger
from tasks.memory import Clock, MemoryLedger, MemoryQueries, Store
from tasks.ports import Questions, Verbs
from tasks.queries import Queries
from tasks.records import Page, Task, TaskFilter
from tasks.values import Advance, Claimed, Complete, NewTask, RunProgress, TaskError

QUEUE, TYPE = "default", "work"
OOPS = TaskError("actor_error", "RuntimeError: oops")
HOUR = 3_600.0
TABLES = ["dead_letters", "dependencies", "snapshots", "events", "attempts", "workers", "task_state", "tasks"]
#: What both must agree about.
FIELDS = (
    *("status", "progress", "phase", "message", "details", "result", "error", "attempts"),
    *("depends_on", "parent_id", "run_id", "stage", "payload"),
)
#: A claim of the same task in both.
Pair = tuple[Claimed, Claimed]


class Side:
    """One of the two records."""

    def __init__(self, ledger: Verbs, queries: Questions, pass_time: Callable[[], object]) -> None:
        self.ledger, self.queries, self.pass_time = ledger, queries, pass_time

    def tasks(self) -> dict[UUID, Task]:
        """All tasks, stages too."""
        page = self.queries.tasks(TaskFilter(stages=True), Page(limit=1_000))
        return {task.task_id: task for task in page.tasks}

    def history(self, task_id: UUID) -> list[tuple[Any, ...]]:
        """The events of a task, apart from their moments."""
        return [
            (event.event_id, event.kind, event.status, event.phase, event.progress, event.message, event.data)
            for event in self.queries.history(task_id)
        ]


class Twins(RuleBasedStateMachine):
    """Every verb is asked of both; what they answer, and what is on record then, must be the same."""

    postgres: Side
    clear: Callable[[], object]
    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        type(self).clear()
        store = Store(clock := Clock())
        memory = Side(MemoryLedger(store), MemoryQueries(store), lambda: clock.advance(2 * HOUR))
        self.sides = (self.postgres, memory)
        self.known: list[UUID] = []
        self.runs: list[UUID] = []
        #: What was on record when both were compared the last time.
        self.seen: dict[UUID, Task] = {}

    def both(self, verb: Callable[[Side], Any]) -> Any:
        """The answer of both to a verb."""
        first, second = (verb(side) for side in self.sides)
        assert first == second
        return first

    @rule(data=st.data(), count=st.integers(1, 2), delayed=st.booleans(), waits=st.booleans())
    def submit(self, data: st.DataObject, count: int, delayed: bool, waits: bool) -> None:
        needs = data.draw(st.lists(st.sampled_from(self.known or [None]), max_size=2, unique=True))
        key = data.draw(st.sampled_from([None, None, "a", "b"]))
        tasks = [
            NewTask(
                task_type=TYPE,
                queue_name=QUEUE,
                delay=HOUR if delayed else None,
                depends_on=tuple(need for need in needs if need is not None and self._is_there(need)),
                on_dependency_failure="wait" if waits else "fail",
                unique_key=key,
                payload={"n": len(self.known)},
            )
            for _ in range(count)
        ]
        self.both(lambda side: [one.id for one in side.ledger.submit(tasks).result(10)])
        self.known += [task.id for task in tasks]
        self.compare()

    @rule(stages=st.integers(1, 2))
    def submit_run(self, stages: int) -> None:
        run = NewTask(task_type="run", queue_name=QUEUE, is_run=True)
        tasks = [self._stage(run.id, "first", index) for index in range(stages)]
        self.both(lambda side: [(one.id, one.status) for one in side.ledger.submit([run, *tasks]).result(10)])
        self.runs.append(run.id)
        self.known += [run.id, *(task.id for task in tasks)]
        self.compare()

    @rule(data=st.data(), verb=st.sampled_from(["cancel", "retry", "delete"]))
    def move(self, data: st.DataObject, verb: str) -> None:
        if self.known:
            task_id = data.draw(st.sampled_from(self.known))
            self.both(lambda side: getattr(side.ledger, verb)(task_id).result(10))
            self.compare()

    @rule(target=claims)
    def fetch(self) -> Any:
        fetched = [side.ledger.fetch([QUEUE], [TYPE], 100).result(10) for side in self.sides]
        first, second = ({claim.id: claim for claim in claims} for claims in fetched)
        assert first.keys() == second.keys()
        for task_id, claim in first.items():
            assert self._told(claim) == self._told(second[task_id])
        self.compare()
        return multiple(*((first[one], second[one]) for one in sorted(first)))

    @rule(held=claims, percent=st.integers(0, 100), state=st.integers(0, 3))
    def report_and_save(self, held: Pair, percent: int, state: int) -> None:
        self._asked(
            held, lambda side, claim: side.ledger.report(claim, percent, "step", None, {"n": 1}).result(10)
        )
        version = held[0].snapshot + 1
        self._asked(held, lambda side, claim: side.ledger.checkpoint(claim, version, state).result(10))
        self._asked(held, lambda side, claim: side.ledger.log(claim, "info", "x", "line").result(10))  # type: ignore[union-attr]
        self.compare()

    @rule(held=claims, follows=st.booleans())
    def complete(self, held: Pair, follows: bool) -> None:
        run_id = held[0].run_id
        successors = [self._stage(run_id, "second", 0)] if follows and run_id is not None else []

        def complete(side: Side, claim: Claimed) -> bool:
            told = None if run_id is None else RunProgress(run_id, 50.0, "second")
            completion = Complete(claim.id, claim.token, {"r": [1]}, successors, told)
            return side.ledger.complete(claim, completion).result(10)

        self._asked(held, complete)
        self.known += [task.id for task in successors if self._is_there(task.id)]
        self.compare()

    @rule(held=claims, how=st.sampled_from(["fail", "retry", "release", "lose"]))
    def end(self, held: Pair, how: str) -> None:
        verbs: dict[str, Callable[[Side, Claimed], Any]] = {
            "fail": lambda side, claim: side.ledger.fail(claim, OOPS, retry_in=None),
            "retry": lambda side, claim: side.ledger.fail(claim, OOPS, retry_in=HOUR),
            "release": lambda side, claim: side.ledger.release(claim),
            "lose": lambda side, claim: side.ledger.lose(claim, "it was killed"),
        }
        self._asked(held, lambda side, claim: verbs[how](side, claim).result(10))
        self.compare()

    @rule(data=st.data(), status=st.sampled_from([None, "completed", "failed", "cancelled"]))
    def advance(self, data: st.DataObject, status: str | None) -> None:
        runs = [one for one in self.runs if self._is_there(one)]
        if not runs:
            return
        run_id = data.draw(st.sampled_from(runs))
        round_ = data.draw(st.integers(0, 1))
        successors = [self._stage(run_id, "third", 0)] if status is None else []
        error = {"code": "actor_error", "message": "oops"} if status == "failed" else None
        decision = Advance(run_id, successors, status, {"r": 1}, error, round_)
        self.both(lambda side: side.ledger.advance(decision).result(10))
        self.known += [task.id for task in successors if self._is_there(task.id)]
        self.compare()

    @rule()
    def time_passes(self) -> None:
        for side in self.sides:
            side.pass_time()
        self.both(lambda side: side.ledger.promote().result(10))
        self.compare()

    @rule(died=st.booleans())
    def a_worker_is_lost(self, died: bool) -> None:
        self.both(lambda side: side.ledger.rescue(side.ledger.owner, died=died).result(10))
        self.compare()

    def compare(self) -> None:
        """Both have the same on record."""
        for side in self.sides:  # what follows from an end is another verb
            while side.ledger.unblock().result(10):
                pass
        first, second = (side.tasks() for side in self.sides)
        assert first.keys() == second.keys()
        for task_id, task in first.items():
            told = [[getattr(one[task_id], name) for name in FIELDS] for one in (first, second)]
            assert told[0] == told[1]
            if self.seen.get(task_id) != task:
                self.both(lambda side, task_id=task_id: side.history(task_id))
        for run_id in self.runs:
            if self.seen.get(run_id) != first.get(run_id):
                self.both(lambda side, run_id=run_id: self._round_and_stages(side, run_id))
        self.seen = first

    def _round_and_stages(self, side: Side, run_id: UUID) -> tuple[Any, ...] | None:
        run = side.queries.run(run_id)
        return run and (run.round, run.stages, side.queries.is_at_work(run_id))

    def _asked(self, held: Pair, verb: Callable[[Side, Claimed], Any]) -> None:
        first, second = (verb(side, claim) for side, claim in zip(self.sides, held, strict=True))
        assert first == second

    def _told(self, claim: Claimed) -> tuple[Any, ...]:
        state = None if claim.state is None else bytes(claim.state)
        return claim.attempt, claim.failures, claim.deaths, claim.suspect, claim.snapshot, state, claim.stage

    def _stage(self, run_id: UUID, stage: str, index: int) -> NewTask:
        return NewTask(task_type=TYPE, queue_name=QUEUE, run_id=run_id, stage=stage, stage_index=index)

    def _is_there(self, task_id: UUID) -> bool:
        return self.sides[0].queries.task(task_id) is not None


@pytest.fixture
def machine(shared: PooledPostgresqlDatabase, url: str) -> Iterator[type[Twins]]:
    ledger = Ledger(url).start()
    with psycopg.connect(url, autocommit=True) as sql:

        def clear() -> None:
            for table in TABLES:  # a TRUNCATE takes longer for so few rows
                sql.execute(f"DELETE FROM {table}")

        def pass_time() -> None:
            sql.execute("UPDATE task_state SET ready_at = ready_at - make_interval(secs => %s)", (2 * HOUR,))

        Twins.postgres, Twins.clear = Side(ledger, Queries(shared), pass_time), staticmethod(clear)
        yield Twins
    ledger.close()


@pytest.mark.timeout(600)  # only a failure takes that long: Hypothesis looks for its shortest example
def test_memory_and_postgres_agree_whatever_happens(machine: type[Twins]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=5,
            stateful_step_count=25,
            deadline=None,
            phases=(Phase.explicit, Phase.reuse, Phase.generate),  # shrinking takes minutes here
            suppress_health_check=list(HealthCheck),
        ),
    )
