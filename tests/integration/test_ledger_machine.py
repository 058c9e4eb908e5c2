"""Any sequence of verbs, by anybody, in any order: the record stays consistent.

Hypothesis plays the users, the workers and the clock on a real Postgres; a small model remembers what must
be on record after each step.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import msgspec
import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from playhouse.pool import PooledPostgresqlDatabase

from actors.submission import Defaults
from pipelines import flow
from pipelines.catalogue import Catalogue
from pipelines.composition import Pipeline, stage
from pipelines.recovery import Recoverer, Recovery
from tasks import statistics
from tasks.callbacks import NewWebhook, WebhookFilter
from tasks.database import connect
from tasks.ids import new_id
from tasks.ledger import Ledger
from tasks.ledger.recovery import MOST_DEATHS
from tasks.migrations import migrate
from tasks.queries import Queries
from tasks.records import Event
from tasks.states import FINAL, is_legal
from tasks.values import Claimed, Complete, NewTask, RunProgress, TaskError

QUEUE, TYPE, RUN = "default", "work", "lengths"
TYPES = [TYPE, f"{RUN}.split", f"{RUN}.measure", f"{RUN}.total"]
OOPS = TaskError("actor_error", "RuntimeError: oops")
SECONDS = 10
#: So many tasks with the same key may run at once.
MOST = 2
#: What a task cannot wait for: also one that a recovery of its run has removed.
BAD = frozenset({"failed", "cancelled", "gone"})
DEFAULTS = Defaults()


@stage
def split(text: str) -> list[str]:
    return text.split()


@stage
def measure(word: str) -> int:
    return len(word)


@stage
def total(lengths: list[int]) -> int:
    return sum(lengths)


PIPELINE = Pipeline(RUN, split | measure.map() | total)
CATALOGUE = Catalogue([], [PIPELINE])


class World:
    """One record with two worker processes, shared by all examples."""

    def __init__(self, database: PooledPostgresqlDatabase, url: str) -> None:
        self.queries = Queries(database)
        self.recoverer = Recoverer(CATALOGUE, self.queries, DEFAULTS)
        self.workers = [Ledger(url).start(), Ledger(url).start()]
        self.sql = psycopg.connect(url, autocommit=True)
        everything = NewWebhook(
            id=new_id(),
            owner=None,
            url="https://hooks.example/",
            secret="s" * 16,
            events=tuple(FINAL),
            filter=WebhookFilter(stages=True),
            created_by="system",
        )
        self.workers[0].add_webhook(everything).result(SECONDS)

    def clear(self) -> None:
        self.sql.execute(
            "TRUNCATE tasks, task_state, attempts, events, workers, queues, dead_letters, dependencies,"
            " snapshots, tallies, statistics, deliveries"
        )

    def close(self) -> None:
        for worker in self.workers:
            worker.close()
        self.sql.close()


class Expected:
    """A plain task as the model sees it."""

    def __init__(
        self, status: str, needs: tuple[UUID, ...] = (), *, waits: bool = False, key: str | None = None
    ) -> None:
        self.status = status
        self.key = key
        self.needs, self.waits = needs, waits
        self.attempt = self.failures = self.deaths = self.snapshot = self.rounds = 0
        self.state: int | None = None
        self.token: int | None = None


class LedgerMachine(RuleBasedStateMachine):
    """The verbs as rules, and what must hold after each of them.

    Tasks are drawn in the order in which they came into being: their ids are others in each run.
    """

    world: World
    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.world.clear()
        self.ledger = self.world.workers[0]
        self.expected: dict[UUID, Expected] = {}
        self.runs: list[UUID] = []
        self.ended: dict[UUID, str] = {}
        self.seen: dict[UUID, list[Event]] = {}

    # --- asking for work -------------------------------------------------------------------------

    @rule(
        count=st.integers(1, 3),
        delayed=st.booleans(),
        priority=st.integers(0, 10),
        key=st.sampled_from([None, "a", "b"]),
    )
    def submit(self, count: int, delayed: bool, priority: int, key: str | None) -> None:
        delay = 3_600.0 if delayed else None
        limit: dict[str, Any] = {} if key is None else {"concurrency": MOST, "concurrency_key": key}
        tasks = [
            NewTask(task_type=TYPE, queue_name=QUEUE, priority=priority, delay=delay, **limit)
            for _ in range(count)
        ]
        status = "scheduled" if delayed else "queued"
        accepted = self.ledger.submit(tasks).result(SECONDS)
        assert [(one.id, one.status) for one in accepted] == [(task.id, status) for task in tasks]
        self.expected |= {task.id: Expected(status, key=key) for task in tasks}

    @rule(text=st.sampled_from(["", "a", "a bc def"]))
    def submit_run(self, text: str) -> None:
        run = NewTask(task_type=RUN, queue_name=QUEUE, payload=text, is_run=True)
        first = flow.begin(PIPELINE, run, DEFAULTS)
        self.ledger.submit([run, *first]).result(SECONDS)
        self.runs.append(run.id)
        self._expect_new(run.id)

    @rule(data=st.data(), waits=st.booleans())
    def submit_dependent(self, data: st.DataObject, waits: bool) -> None:
        """Submit a task that depends on one or two others, whatever has become of them."""
        known = list(self.expected)
        if not known:
            return
        needs = tuple(data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=2, unique=True)))
        policy = "wait" if waits else "fail"
        task = NewTask(task_type=TYPE, queue_name=QUEUE, depends_on=needs, on_dependency_failure=policy)
        (accepted,) = self.ledger.submit([task]).result(SECONDS)
        met = all(self.expected[need].status == "completed" for need in needs)
        assert accepted.status == ("queued" if met else "blocked")
        self.expected[task.id] = Expected(accepted.status, needs, waits=waits)
        self._unblock()

    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        """Replay a dead letter, twice at once."""
        open_ones = self.world.sql.execute(
            "SELECT d.id, d.task_id, t.run_id FROM dead_letters d JOIN tasks t ON t.id = d.task_id"
            " WHERE resolution IS NULL"
        ).fetchall()
        places = list(self.expected)
        open_ones.sort(key=lambda row: places.index(row[1]))
        if not open_ones:
            return
        letter, task_id, run_id = data.draw(st.sampled_from(open_ones))
        answers = [worker.replay(letter) for worker in self.world.workers]
        outcomes = sorted(answer.result(SECONDS) for answer in answers)
        if run_id is not None and self.expected[run_id].status in ("cancelled", "completed"):
            assert outcomes == ["run_is_over"] * 2
            return
        assert outcomes == ["not_failed", "replayed"]
        again = [task_id]
        if run_id is not None and self.expected[run_id].status == "failed":
            cancelled = [one for one in self._stages(run_id) if self.expected[one].status == "cancelled"]
            again += [run_id, *cancelled]
        for one in again:
            self._open_round(one)

    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        """Retry a task, a run or a stage, twice at once."""
        failed = [task_id for task_id, one in self.expected.items() if one.status == "failed"]
        if not failed:
            return
        task_id = data.draw(st.sampled_from(failed))
        answers = [worker.retry(task_id) for worker in self.world.workers]
        outcomes = sorted(answer.result(SECONDS) for answer in answers)
        run_id = task_id if task_id in self.runs else self._run_of(task_id)
        if run_id is None:
            assert outcomes == ["not_failed", "retried"]
            self._open_round(task_id)
            return
        if self.expected[run_id].status in ("cancelled", "completed"):
            assert outcomes == ["run_is_over"] * 2
            return
        assert outcomes == ["not_failed", "retried"]
        run_failed = self.expected[run_id].status == "failed"
        fallen = ("failed", "cancelled") if run_failed else ("failed",)
        again = [one for one in self._stages(run_id) if self.expected[one].status in fallen]
        for one in [*again, *([run_id] if run_failed else [])]:
            self._open_round(one)

    @rule(data=st.data(), afresh=st.booleans())
    def recover(self, data: st.DataObject, afresh: bool) -> None:
        """Recover a plain task from its last checkpoint or from the beginning."""
        states = FINAL if afresh else FINAL - {"completed"}
        over = [
            task_id
            for task_id, one in self.expected.items()
            if one.status in states and task_id not in self.runs and self._run_of(task_id) is None
        ]
        if not over:
            return
        task_id = data.draw(st.sampled_from(over))
        self._recover(task_id, Recovery(mode="all" if afresh else "checkpoint"))
        expected = self.expected[task_id]
        if afresh:
            expected.state = None
            expected.snapshot += expected.snapshot > 0
        self._open_round(task_id)

    @rule(data=st.data(), mode=st.sampled_from(["failed", "stage", "all"]))
    def recover_run(self, data: st.DataObject, mode: Any) -> None:
        """Recover a run: what fell, from a stage on, or as a whole."""
        states = FINAL - {"completed"} if mode == "failed" else FINAL
        over = [run_id for run_id in self.runs if self.expected[run_id].status in states]
        if not over:
            return
        run_id = data.draw(st.sampled_from(over))
        names = self._names(run_id)
        come_to = [step.name for step in PIPELINE.stages if step.name in names.values()]
        again = None
        if mode == "stage":
            if not come_to:
                return
            again = data.draw(st.sampled_from(come_to))
        self._recover(run_id, Recovery(mode=mode, stage=again))
        kept = {"failed": come_to, "stage": come_to[: come_to.index(again) + 1] if again else [], "all": []}
        for one, name in names.items():
            if name not in kept[mode]:
                self._expect_removal(one)
            elif name == again or self.expected[one].status in ("failed", "cancelled"):
                self._open_round(one)
        self._open_round(run_id)
        self._expect_new(run_id)
        self._unblock()

    def _expect_removal(self, task_id: UUID) -> None:
        """What had completed goes on counting for those that waited for it."""
        if self.expected.pop(task_id).status == "completed":
            for other in self.expected.values():
                other.needs = tuple(need for need in other.needs if need != task_id)
        self.ended.pop(task_id, None)
        self.seen.pop(task_id, None)

    def _recover(self, task_id: UUID, asked: Recovery) -> None:
        """Recover something, twice at once."""
        how = [self.world.recoverer.decide(task_id, asked) for _ in self.world.workers]
        answers = [worker.recover(one) for worker, one in zip(self.world.workers, how, strict=True)]
        assert sorted(answer.result(SECONDS) for answer in answers) == ["changed", "recovered"]

    def _open_round(self, task_id: UUID) -> None:
        expected = self.expected[task_id]
        expected.status = "running" if task_id in self.runs else "queued"
        expected.failures = expected.deaths = 0
        expected.rounds += 1
        expected.token = None
        self.ended.pop(task_id)

    def _unblock(self) -> None:
        """Let what waits for an end move on, on record and in the model."""
        while any(worker.unblock().result(SECONDS) for worker in self.world.workers):
            pass
        while moved := [one for one in self.expected.values() if self._moves_on(one)]:
            for one in moved:
                bad = any(self._known(need).status in BAD for need in one.needs)
                one.status = "failed" if bad else "queued"

    def _moves_on(self, one: Expected) -> bool:
        states = [self._known(need).status for need in one.needs]
        bad = any(state in BAD for state in states)
        met = all(state == "completed" for state in states)
        return one.status == "blocked" and (met or "gone" in states or (bad and not one.waits))

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        known = list(self.expected)
        if not known:
            return
        task_id = data.draw(st.sampled_from(known))
        answer = self.ledger.cancel(task_id).result(SECONDS)
        expected = self.expected[task_id]
        if expected.status in FINAL - {"cancelled"}:
            assert answer == "finished"
            return
        assert answer == "cancelled"
        for member in (task_id, *self._stages(task_id)):
            if self.expected[member].status not in FINAL:
                self.expected[member].status = "cancelled"
        self._unblock()

    # --- working ---------------------------------------------------------------------------------

    @rule(target=claims, worker=st.integers(0, 1), limit=st.integers(1, 3))
    def fetch(self, worker: int, limit: int) -> Any:
        return multiple(*self._fetch(worker, limit))

    @rule(worker=st.integers(0, 1))
    def work_off(self, worker: int) -> None:
        """Work off what is ready, with what follows from it."""
        while held := self._fetch(worker, 20):
            for one in held:
                self.complete(one)
            self.settle()

    def _fetch(self, worker: int, limit: int) -> list[tuple[int, Claimed]]:
        self.ledger.sweep_parked().result(SECONDS)
        ready = [one for task_id, one in self.expected.items() if self._may_be_claimed(task_id)]
        places = self._places(ready)
        fetched = self.world.workers[worker].fetch([QUEUE], TYPES, limit).result(SECONDS)
        if any(one.key for one in ready):  # a key that is judged by the other process is left to it
            assert min(1, places) <= len(fetched) <= min(limit, places)
        else:
            assert len(fetched) == min(limit, len(ready))
        for claim in fetched:
            expected = self._known(claim.id)
            assert expected in ready
            expected.status, expected.token = "running", claim.token
            expected.attempt += 1
            assert (claim.attempt, claim.failures, claim.deaths, claim.snapshot) == (
                expected.attempt,
                expected.failures,
                expected.deaths,
                expected.snapshot,
            )
            state = None if claim.state is None else int(bytes(claim.state))
            assert state == expected.state
            if claim.run_id is not None and self.expected[claim.run_id].status == "queued":
                self.expected[claim.run_id].status = "running"
        return [(worker, claim) for claim in fetched]

    @rule(held=claims, percent=st.integers(0, 100))
    def report(self, held: tuple[int, Claimed], percent: int) -> None:
        worker, claim = held
        answer = self.world.workers[worker].report(claim, percent, "phase", None).result(SECONDS)
        assert answer is self._is_valid(claim)

    @rule(held=claims)
    def checkpoint(self, held: tuple[int, Claimed]) -> None:
        worker, claim = held
        expected = self._known(claim.id)
        version = expected.snapshot + 1
        answer = self.world.workers[worker].checkpoint(claim, version, version).result(SECONDS)
        assert answer is self._is_valid(claim)
        if answer:
            expected.snapshot = expected.state = version

    @rule(held=claims)
    def lose(self, held: tuple[int, Claimed]) -> None:
        """The process of its own that ran an attempt dies."""
        worker, claim = held
        answer = self.world.workers[worker].lose(claim, "it was killed").result(SECONDS)
        assert answer is self._is_valid(claim)
        if answer:
            self._expect_death(claim.id)
            self._unblock()

    def _expect_death(self, task_id: UUID) -> None:
        expected = self.expected[task_id]
        expected.deaths += 1
        expected.token = None
        expected.status = "failed" if expected.deaths >= MOST_DEATHS else "queued"

    @rule(held=claims)
    def complete(self, held: tuple[int, Claimed]) -> None:
        worker, claim = held
        completion = Complete(claim.id, claim.token, "done")
        if claim.run_id is not None:
            actor = next(step.actor for step in PIPELINE.stages if step.name == claim.stage)
            result = actor.run(msgspec.json.decode(claim.payload))
            following = flow.after(PIPELINE, claim, result, DEFAULTS)
            told = RunProgress(claim.run_id, following.progress, following.phase, following.details)
            completion = Complete(claim.id, claim.token, result, following.successors, told)
        answer = self.world.workers[worker].complete(claim, completion).result(SECONDS)
        # A repeated complete with the same token is answered as the first one was.
        assert answer is self._is_valid(claim, done=("completed",))
        if self._known(claim.id).status == "running" and answer:
            self._known(claim.id).status = "completed"
            if claim.run_id is not None:
                self._expect_new(claim.run_id)
            self._unblock()

    @rule(held=claims, retry=st.booleans())
    def fail(self, held: tuple[int, Claimed], retry: bool) -> None:
        worker, claim = held
        retry_in = 3_600.0 if retry else None
        answer = self.world.workers[worker].fail(claim, OOPS, retry_in=retry_in).result(SECONDS)
        assert answer is self._is_valid(claim, done=("failed", "retrying"))
        expected = self._known(claim.id)
        if expected.status == "running" and answer:
            expected.status = "retrying" if retry else "failed"
            expected.failures += 1
            self._unblock()

    @rule(held=claims)
    def release(self, held: tuple[int, Claimed]) -> None:
        worker, claim = held
        answer = self.world.workers[worker].release(claim).result(SECONDS)
        assert answer is self._is_valid(claim)
        if answer:
            expected = self._known(claim.id)
            expected.status, expected.token = "queued", None
            expected.attempt -= 1

    # --- the clock -------------------------------------------------------------------------------

    @rule()
    def time_passes(self) -> None:
        self.world.sql.execute(
            "UPDATE task_state SET ready_at = now() WHERE status IN ('scheduled', 'retrying')"
        )
        due = [one for one in self.expected.values() if one.status in ("scheduled", "retrying")]
        assert self.ledger.promote().result(SECONDS) == len(due)
        for expected in due:
            expected.status, expected.token = "queued", None

    @rule(worker=st.integers(0, 1))
    def a_worker_dies(self, worker: int) -> None:
        owner = self.world.workers[worker].owner
        held = self._held_by(owner)
        assert self.ledger.rescue(owner).result(SECONDS) == len(held)
        for task_id in held:
            self._expect_death(task_id)
        self._unblock()

    @rule(worker=st.integers(0, 1))
    def a_worker_freezes(self, worker: int) -> None:
        """Its work is taken back, but nobody died."""
        owner = self.world.workers[worker].owner
        held = self._held_by(owner)
        assert self.ledger.rescue(owner, died=False).result(SECONDS) == len(held)
        for task_id in held:
            self.expected[task_id].status, self.expected[task_id].token = "queued", None

    @rule()
    def settle(self) -> None:
        for run_id in self.runs:
            run = self.world.queries.run(run_id)
            assert run is not None
            if run.status in FINAL:
                continue
            decision = flow.settle(
                PIPELINE, run, lambda name, run_id=run_id: self.world.queries.outputs(run_id, name), DEFAULTS
            )
            if decision is None:
                continue
            assert self.ledger.advance(decision).result(SECONDS) is True
            if decision.status is not None:
                self.expected[run_id].status = decision.status
                for member in self._stages(run_id):
                    if self.expected[member].status not in FINAL:
                        self.expected[member].status = "cancelled"
            self._expect_new(run_id)
        self._unblock()

    # --- what always holds -----------------------------------------------------------------------

    @invariant()
    def no_key_has_more_tasks_running_than_may(self) -> None:
        running = "SELECT concurrency_key FROM task_state WHERE status = 'running' AND queue IS NOT NULL"
        counts = Counter(row[0] for row in self.world.sql.execute(running) if row[0] is not None)
        assert max(counts.values(), default=0) <= MOST

    @invariant()
    def the_record_is_what_the_model_expects(self) -> None:
        rows = self.world.sql.execute(
            "SELECT id, status, attempt, failures, deaths, events, s::text FROM task_state s"
        ).fetchall()
        assert {row[0]: row[1:5] for row in rows} == {
            task_id: (one.status, one.attempt, one.failures, one.deaths)
            for task_id, one in self.expected.items()
        }
        for task_id, status, *_, events, whole in rows:
            if status in FINAL:  # then nothing of it changes any more
                assert self.ended.setdefault(task_id, whole) == whole
            if events != len(self.seen.get(task_id, [])):
                self.look_at(task_id)

    def the_statistics_know_what_is_on_record(self) -> None:
        counted = Counter(one.status for one in self.expected.values() if one.status in FINAL)
        known = statistics.kept(
            self.world.sql.execute, user=None, task_type=None, queue_name=None, stages=True
        )
        assert known.pop(statistics.SUBMITTED, 0) == len(self.expected)
        assert {status: number for status, number in known.items() if number} == counted

    def _each_end_is_to_be_told(self, task_id: UUID, events: list[Event]) -> None:
        """There is one delivery for each end of a task, and none for anything else."""
        sql = "SELECT event_id, event, ended->>'status' FROM deliveries WHERE task_id = %s ORDER BY event_id"
        ends = [one for one in events if one.kind == "state" and one.status in FINAL]
        expected = [(one.event_id, one.status, one.status) for one in ends]
        assert self.world.sql.execute(sql, (task_id,)).fetchall() == expected

    def look_at(self, task_id: UUID) -> None:
        """The history of a task is a legal one, is what the model expects, and only grows."""
        events = self.world.queries.history(task_id)
        assert [event.event_id for event in events] == list(range(1, len(events) + 1))
        states = [event.status for event in events if event.kind == "state"]
        assert states[-1] == self.expected[task_id].status
        replayed = self.expected[task_id].rounds
        self._each_end_is_to_be_told(task_id, events)
        pairs = zip([None, *states], states, strict=False)
        assert all(is_legal(before, after, by_operators=replayed > 0) for before, after in pairs), states
        assert sum(state in FINAL for state in states) == replayed + (states[-1] in FINAL)
        seen = self.seen.get(task_id, [])
        assert [(e.kind, e.status) for e in events[: len(seen)]] == [(e.kind, e.status) for e in seen]
        self.seen[task_id] = events

    def teardown(self) -> None:
        self.the_statistics_know_what_is_on_record()
        for task_id in self.expected:
            self.look_at(task_id)
        for run_id in self.runs:
            run = self.world.queries.task(run_id)
            if run is not None and run.status == "completed":
                assert run.result == sum(map(len, run.payload.split()))

    # --- the model -------------------------------------------------------------------------------

    def _held_by(self, owner: UUID) -> set[UUID]:
        sql = "SELECT id FROM task_state WHERE worker = %s AND status = 'running'"
        return {row[0] for row in self.world.sql.execute(sql, (owner,))}

    def _stages(self, run_id: UUID) -> list[UUID]:
        return list(self._names(run_id))

    def _names(self, run_id: UUID) -> dict[UUID, str]:
        sql = "SELECT id, stage FROM tasks WHERE run_id = %s ORDER BY stage, stage_index"
        rows = self.world.sql.execute(sql, (run_id,))
        return {row[0]: row[1] for row in rows}

    def _run_of(self, task_id: UUID) -> UUID | None:
        row = self.world.sql.execute("SELECT run_id FROM tasks WHERE id = %s", (task_id,)).fetchone()
        assert row is not None
        return None if row[0] is None else UUID(str(row[0]))

    def _known(self, task_id: UUID) -> Expected:
        return self.expected.get(task_id) or Expected("gone")

    def _expect_new(self, run_id: UUID) -> None:
        """From now on expect what came into being with a step of a run."""
        for task_id in (run_id, *self._stages(run_id)):
            self.expected.setdefault(task_id, Expected("queued"))

    def _may_be_claimed(self, task_id: UUID) -> bool:
        if task_id in self.runs or self.expected[task_id].status != "queued":
            return False
        row = self.world.sql.execute("SELECT run_id FROM tasks WHERE id = %s", (task_id,)).fetchone()
        assert row is not None
        return row[0] is None or self.expected[row[0]].status not in FINAL

    def _places(self, ready: list[Expected]) -> int:
        """How many of these may run now: of each key no more than `MOST`, with those that run already."""
        running = Counter(one.key for one in self.expected.values() if one.status == "running")
        wanted = Counter(one.key for one in ready)
        return sum(count if key is None else min(count, MOST - running[key]) for key, count in wanted.items())

    def _is_valid(self, claim: Claimed, done: tuple[str, ...] = ()) -> bool:
        """Whether a write under this claim is accepted: it holds, or it is the one that ended it."""
        expected = self._known(claim.id)
        return expected.token == claim.token and expected.status in ("running", *done)


@pytest.fixture(scope="module")
def world(postgres_url: str) -> Iterator[World]:
    name = f"test_{new_id().hex}"
    url = postgres_url.rpartition("/")[0] + f"/{name}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        database = connect(url)
        migrate(database)
        made = World(database, url)
        yield made
        made.close()
        database.close_all()
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.timeout(600)  # only a failure takes that long: Hypothesis looks for its shortest example
def test_whatever_happens_the_record_stays_consistent(world: World) -> None:
    LedgerMachine.world = world
    run_state_machine_as_test(
        LedgerMachine,
        settings=settings(
            max_examples=25,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
