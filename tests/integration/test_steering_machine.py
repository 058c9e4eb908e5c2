"""Queues that are steered in any order of verbs: limits hold, what may run can, and nothing is lost."""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

import hypothesis.strategies as st
import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from playhouse.pool import PooledPostgresqlDatabase

from actors.rabbitmq.publisher import new_dispatch
from tasks.ledger import Ledger, NoOutlet
from tasks.ledger.queues import Change, Define
from tasks.values import Arrival, Claimed, Complete, Hint, NewTask, Publication, Refused, TaskError
from tests.support.claims import claim_each, claim_one

STEERED, FREE, TYPE, KEY = "steered", "free", "work", "k"
OOPS = TaskError("actor_error", "oops")
READY = "status = 'queued' AND dispatch IS NULL AND NOT parked AND concurrency_key IS NULL"


class Wire(NoOutlet):
    """What would be on RabbitMQ: messages that may arrive in any order, or late."""

    def __init__(self) -> None:
        self.hints: deque[Hint] = deque()

    def stamp(self) -> int | None:
        return new_dispatch()

    def room(self, queue: str) -> int:
        return 3

    def publish(self, dispatch: int, publications: Sequence[Publication]) -> None:
        self.hints.extend(one for one in publications if isinstance(one, Hint))


class World:
    """Two processes on one record."""

    def __init__(self, url: str) -> None:
        self.wire = Wire()
        self.ledgers = [Ledger(url).start(), Ledger(url).start()]
        self.ledgers[1].publish_through(self.wire)
        self.sql = psycopg.connect(url, autocommit=True)

    def close(self) -> None:
        for one in self.ledgers:
            one.close()
        self.sql.close()

    def clear(self) -> None:
        self.wire.hints.clear()
        self.sql.execute("TRUNCATE tasks, task_state, attempts, events, queues, dispatches, rate_buckets")

    def count(self, where: str) -> int:
        row = self.sql.execute(f"SELECT count(*) FROM task_state WHERE {where}").fetchone()
        assert row is not None
        return int(row[0])


class Steering(RuleBasedStateMachine):
    """One queue that is steered, one that nobody has defined, and a key of which one task may run."""

    world: World

    @initialize()
    def begin(self) -> None:
        self.world.clear()
        self.world.ledgers[0].define_queue(Define(STEERED, concurrency=2)).result(10)
        self.limit: int | None = 2
        self.paused = False
        self.held: list[tuple[int, Claimed]] = []
        self.ids: set[UUID] = set()

    # --- steering --------------------------------------------------------------------------------

    @rule(limit=st.none() | st.integers(1, 4))
    def change(self, limit: int | None) -> None:
        assert self.world.ledgers[0].change_queue(Change(STEERED, concurrency=limit)).result(10)
        self.limit = limit

    @rule(paused=st.booleans())
    def switch(self, paused: bool) -> None:
        ledger = self.world.ledgers[1]
        assert (ledger.pause_queue if paused else ledger.resume_queue)(STEERED).result(10)
        self.paused = paused

    # --- working ---------------------------------------------------------------------------------

    @rule(
        who=st.integers(0, 1),
        queue=st.sampled_from([STEERED, STEERED, FREE]),
        count=st.integers(1, 4),
        keyed=st.booleans(),
    )
    def submit(self, who: int, queue: str, count: int, keyed: bool) -> None:
        limit: dict[str, Any] = {"concurrency": 1, "concurrency_key": KEY} if keyed else {}
        tasks = [NewTask(task_type=TYPE, queue_name=queue, **limit) for _ in range(count)]
        sent = len(self.world.wire.hints)
        self.world.ledgers[who].submit(tasks).result(10)
        self.ids.update(task.id for task in tasks)
        if queue == STEERED and self._places is not None:
            assert len(self.world.wire.hints) == sent, "only the dispatcher publishes what is steered"

    @rule(who=st.integers(0, 1), queue=st.sampled_from([STEERED, FREE]), most=st.integers(1, 5))
    def fetch(self, who: int, queue: str, most: int) -> None:
        places = self._places if queue == STEERED else None
        ready = self.world.count(f"{READY} AND queue = '{queue}'")
        claims = self.world.ledgers[who].fetch([queue], [TYPE], most).result(10)
        assert places is None or len(claims) <= places
        if ready and places != 0:
            assert claims, "there was a place, and who could take it"
        self._hold(who, claims)

    @rule(queue=st.sampled_from([STEERED, FREE]))
    def send(self, queue: str) -> None:
        places = self._places if queue == STEERED else None
        sent = self.world.count(f"queue = '{queue}' AND status = 'queued' AND dispatch IS NOT NULL")
        taken = self.world.ledgers[1].take(queue, 10, new_dispatch()).result(10)
        assert places is None or taken <= max(0, places - sent)

    @rule(who=st.integers(0, 1), data=st.data(), most=st.integers(1, 5))
    def arrive(self, who: int, data: st.DataObject, most: int) -> None:
        hints = self.world.wire.hints
        hints.rotate(data.draw(st.integers(0, max(len(hints) - 1, 0))))
        arrivals = [hints.popleft() for _ in range(min(most, len(hints)))]
        places = self._places
        asked = [Arrival(one.task_id, one.dispatch) for one in arrivals]
        outcomes = claim_each(self.world.ledgers[who], asked)
        claims = [one for one in outcomes if isinstance(one, Claimed)]
        assert places is None or sum(one.queue == STEERED for one in claims) <= places
        assert {one.reason for one in outcomes if isinstance(one, Refused)} <= {
            "parked",
            "sent_back",
            "stale",
            "running",
            "finished",
        }
        self._hold(who, claims)

    @rule(data=st.data(), how=st.sampled_from(["complete", "retry", "release", "rescue"]))
    def end(self, data: st.DataObject, how: str) -> None:
        if not self.held:
            return
        who, claim = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        ledger = self.world.ledgers[who]
        if how == "complete":
            assert ledger.complete(claim, Complete(claim.id, claim.token, None)).result(10)
        elif how == "retry":
            assert ledger.fail(claim, OOPS, retry_in=0).result(10)
            ledger.promote().result(10)
        elif how == "release":
            assert ledger.release(claim).result(10)
        else:
            self.world.ledgers[1 - who].rescue(ledger.owner, died=False).result(10)
            self.held = [one for one in self.held if one[0] != who]

    # --- what must be ----------------------------------------------------------------------------

    @invariant()
    def as_many_run_as_are_held_and_of_the_key_one(self) -> None:
        if hasattr(self, "held"):
            assert self.world.count("status = 'running'") == len(self.held)
            assert self.world.count(f"status = 'running' AND concurrency_key = '{KEY}'") <= 1

    def teardown(self) -> None:
        """When all may run, all do."""
        if not hasattr(self, "held"):
            return
        self.switch(False)
        self.change(None)
        for _ in range(200):
            if not self.world.count("status <> 'completed'"):
                break
            self.world.ledgers[0].sweep_parked().result(10)
            while self.world.wire.hints:
                hint = self.world.wire.hints.popleft()
                found = claim_one(self.world.ledgers[0], Arrival(hint.task_id, hint.dispatch))
                self._hold(0, [found] if isinstance(found, Claimed) else [])
            self._hold(0, self.world.ledgers[0].fetch([STEERED, FREE], [TYPE], 50).result(10))
            for who, claim in self.held:
                ledger = self.world.ledgers[who]
                assert ledger.complete(claim, Complete(claim.id, claim.token, None)).result(10)
            self.held.clear()
        assert self.world.count("status = 'completed'") == len(self.ids)

    @property
    def _places(self) -> int | None:
        """How many more of the steered queue may start; None: any number."""
        if self.paused:
            return 0
        if self.limit is None:
            return None
        return max(0, self.limit - sum(claim.queue == STEERED for _, claim in self.held))

    def _hold(self, who: int, claims: Sequence[Claimed]) -> None:
        self.held += [(who, claim) for claim in claims]


@pytest.fixture(scope="module")
def world(shared: PooledPostgresqlDatabase, url: str) -> Iterator[World]:
    made = World(url)
    yield made
    made.close()


def run(world: World, *, examples: int, steps: int) -> None:
    Steering.world = world
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    run_state_machine_as_test(
        Steering,
        settings=settings(max_examples=examples, stateful_step_count=steps, suppress_health_check=checks),
    )


def test_whatever_is_asked_of_steered_queues_limits_hold_and_nothing_is_lost(world: World) -> None:
    run(world, examples=12, steps=20)


@pytest.mark.slow
def test_whatever_is_asked_of_steered_queues_for_long(world: World) -> None:
    run(world, examples=150, steps=30)
