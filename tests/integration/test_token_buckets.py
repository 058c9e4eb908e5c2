"""Token buckets against a model: whatever is asked when, no more start than the bucket of the books has."""

from collections.abc import Iterator
from math import inf
from typing import Any

import hypothesis.strategies as st
import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from playhouse.pool import PooledPostgresqlDatabase

from tasks.allowances import Allowance
from tasks.ledger import Ledger
from tasks.ledger.queues import Change, Define
from tasks.records import RateLimit
from tasks.values import Complete, Fetched, NewTask

QUEUE, TYPE = "metered", "work"
#: What the clock of Postgres may go on between two statements of a step, in seconds; speeds are moderate.
MOMENT = 2.0


class World:
    """A record, two processes that claim, and a way to let time pass for the buckets."""

    def __init__(self, url: str) -> None:
        self.ledgers = [Ledger(url).start(), Ledger(url).start()]
        self.sql = psycopg.connect(url, autocommit=True)

    def close(self) -> None:
        for one in self.ledgers:
            one.close()
        self.sql.close()

    def clear(self) -> None:
        self.sql.execute("TRUNCATE tasks, task_state, attempts, events, queues, rate_buckets")


class Buckets(RuleBasedStateMachine):
    """One queue with a rate limit. The model knows the least and the most that its bucket may have.

    Before anything was spent there is no bucket, and it counts as full.
    """

    world: World

    @initialize(
        limit=st.integers(1, 50), per=st.sampled_from([600.0, 3_600.0, 86_400.0]), burst=st.integers(1, 9)
    )
    def begin(self, limit: int, per: float, burst: int) -> None:
        self.world.clear()
        self.limit = RateLimit(limit, per, burst)
        self.world.ledgers[0].define_queue(Define(QUEUE, concurrency=1_000, rate_limit=self.limit)).result(10)
        self.least = self.most = inf
        self.waiting = 0

    @rule(count=st.integers(1, 6))
    def submit(self, count: int) -> None:
        tasks = [NewTask(task_type=TYPE, queue_name=QUEUE) for _ in range(count)]
        self.world.ledgers[0].submit(tasks).result(10)
        self.waiting += count

    @rule(seconds=st.floats(0, 3_000))
    def let_pass(self, seconds: float) -> None:
        self.world.sql.execute(
            "UPDATE rate_buckets SET refilled_at = refilled_at - make_interval(secs => %s)", (seconds,)
        )
        self.least += seconds * self._speed
        self.most += (seconds + MOMENT) * self._speed

    @rule(wanted=st.integers(1, 8), who=st.integers(0, 1))
    def fetch(self, wanted: int, who: int) -> None:
        found = self.world.ledgers[who].fetch([QUEUE], [TYPE], wanted).result(10)
        if not found and self.waiting:
            assert isinstance(found, Fetched)
            assert found.again_in is not None
            assert found.again_in <= (1 - self.least) / self._speed + 0.01
        self._account(len(found), wanted)
        for claim in found:
            self.world.ledgers[who].complete(claim, Complete(claim.id, claim.token, None)).result(10)

    @rule(wanted=st.integers(1, 5))
    def fetch_twice_at_once(self, wanted: int) -> None:
        futures = [one.fetch([QUEUE], [TYPE], wanted) for one in self.world.ledgers]
        found = [one.result(10) for one in futures]  # whoever finds the queue locked gets nothing
        self._account(sum(map(len, found)), 2 * wanted if all(found) else wanted)

    @rule(burst=st.integers(1, 9))
    def change_the_burst(self, burst: int) -> None:
        self.limit = RateLimit(self.limit.limit, self.limit.per_seconds, burst)
        self._change(rate_limit=self.limit)

    @rule()
    def take_the_limit_away_and_set_it_again(self) -> None:
        self._change(rate_limit=None)
        self._change(rate_limit=self.limit)
        self.least = self.most = inf

    @property
    def _speed(self) -> float:
        return self.limit.limit / self.limit.per_seconds

    def _change(self, **values: Any) -> None:
        self.world.ledgers[0].change_queue(Change(QUEUE, **values)).result(10)

    def _account(self, started: int, wanted: int) -> None:
        """As many began as could, by the books."""
        least = min(self.limit.burst, self.least)
        most = min(self.limit.burst, self.most + MOMENT * self._speed)
        assert min(wanted, self.waiting, int(least + 1e-6)) <= started <= most + 1e-6
        if started:
            self.least, self.most = max(0.0, least - started), most - started
        self.waiting -= started


@pytest.fixture(scope="module")
def world(shared: PooledPostgresqlDatabase, url: str) -> Iterator[World]:
    made = World(url)
    yield made
    made.close()


def test_no_bucket_gives_more_than_it_has_or_less_than_it_could(world: World) -> None:
    Buckets.world = world
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    run_state_machine_as_test(
        Buckets, settings=settings(max_examples=30, stateful_step_count=15, suppress_health_check=checks)
    )


@pytest.mark.parametrize(
    ("allowance", "most", "reason", "token_in"),
    [
        (Allowance(QUEUE, False, None, None, None), 1 << 30, None, None),
        (Allowance(QUEUE, True, 5, 5.0, 1.0), 0, "paused", None),
        (Allowance(QUEUE, False, -2, None, None), 0, "concurrency", None),
        (Allowance(QUEUE, False, 0, 0.0, 1.0), 0, "concurrency", None),
        (Allowance(QUEUE, False, 3, 0.5, 0.25), 0, "rate", 2.0),
        (Allowance(QUEUE, False, 3, 0.9999999, 1.0), 1, None, None),
        (Allowance(QUEUE, False, 3, 7.5, 1.0), 3, None, None),
        (Allowance(QUEUE, False, None, 7.5, 1.0), 7, None, None),
    ],
)
def test_an_allowance_says_how_many_may_start_and_why_none_may(
    allowance: Allowance, most: int, reason: str | None, token_in: float | None
) -> None:
    assert (allowance.most, allowance.reason, allowance.token_in()) == (most, reason, token_in)


def test_who_has_sent_as_much_as_a_bucket_holds_waits_for_a_start_and_not_for_a_token() -> None:
    full = Allowance(QUEUE, False, None, 10.0, 100.0, 10.0)
    assert full.token_in(sent=10) is None
    assert Allowance(QUEUE, False, None, 9.0, 100.0, 10.0).token_in(sent=9) == pytest.approx(0.01)
