"""Postgres may believe that nothing is queued, or recorded, while much is: no verb may read it all then."""

import time
from collections.abc import Callable, Iterator, Sequence

import psycopg
import pytest

from tasks.database import connect
from tasks.ledger import Ledger
from tasks.ledger.transaction import NoOutlet
from tasks.migrations import migrate
from tasks.plans import LOOK_SECONDS
from tasks.queries import Queries
from tasks.values import Arrival, Claimed, Complete, Hint, Publication
from tests.benchmarks.records import add_queued
from tests.support.databases import fresh_database
from tests.support.waiting import eventually

WAITING, TAKEN, ROUNDS = 4_000, 8, 10
#: From so many uses on a statement keeps its plan.
USES = 15

_FINISHED = """
WITH fill AS (SELECT gen_random_uuid() AS id FROM generate_series(1, 4000)), asked AS (
    INSERT INTO tasks (id, task_type, queue_name, priority, payload, max_retries, timeout)
    SELECT id, 'other', 'default', 5, '{}', 3, 300 FROM fill
)
INSERT INTO task_state (id, status, queue, rank, ready_at)
SELECT id, 'completed', 'default', 0, now() FROM fill"""
_READ = """
SELECT (SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 'task_state')
    + (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relname = 'task_state')"""


@pytest.fixture
def young(postgres_url: str) -> Iterator[str]:
    """An empty record that is not analysed by itself."""
    with fresh_database(postgres_url) as url:
        database = connect(url)
        migrate(database)
        database.close_all()
        with psycopg.connect(url, autocommit=True) as connection:
            for name in ("tasks", "task_state"):
                connection.execute(f"ALTER TABLE {name} SET (autovacuum_enabled = off)")
        yield url


@pytest.fixture
def backlog(young: str) -> str:
    """A record that was analysed when all was finished, and has a backlog since."""
    with psycopg.connect(young, autocommit=True) as connection:
        connection.execute(_FINISHED)
        connection.execute("VACUUM ANALYZE")
    add_queued(young, WAITING, ["default"])
    return young


def test_a_fetch_and_a_finish_read_only_what_they_take(backlog: str) -> None:
    def work(ledger: Ledger) -> None:
        for _ in range(ROUNDS):
            _finish(ledger, ledger.fetch(["default"], ["benchmark", "test", "sleep"], TAKEN).result(10))

    assert _entries_read(backlog, work) < WAITING


def test_a_dispatch_a_claim_and_a_finish_read_only_what_they_take(backlog: str) -> None:
    sent: list[list[Arrival]] = []

    class Outlet(NoOutlet):
        def publish(self, dispatch: int, publications: Sequence[Publication]) -> None:
            sent.append([Arrival(one.task_id, dispatch) for one in publications if isinstance(one, Hint)])

    def work(ledger: Ledger) -> None:
        ledger.publish_through(Outlet())
        for dispatch in range(1, 1 + ROUNDS):
            assert ledger.take("default", TAKEN, dispatch).result(10) == TAKEN
            claims = ledger.claim(sent.pop()).result(10)
            _finish(ledger, [one for one in claims if isinstance(one, Claimed)])

    assert _entries_read(backlog, work) < WAITING


def test_the_looks_of_a_clock_read_no_backlog(backlog: str) -> None:
    def look(ledger: Ledger) -> None:
        database = connect(backlog)
        queries = Queries(database)
        for _ in range(ROUNDS):
            queries.unsettled_runs()
            for answer in (ledger.promote(), ledger.sweep_parked(), ledger.unblock()):
                answer.result(10)
        database.close_all()

    assert _entries_read(backlog, look) < WAITING


def test_a_look_at_a_queue_reads_nothing_of_the_others(young: str) -> None:
    add_queued(young, WAITING, ["elsewhere"])
    add_queued(young, TAKEN, ["default"])
    with psycopg.connect(young, autocommit=True) as connection:
        connection.execute("ANALYZE")

    def look(_: Ledger) -> None:
        database = connect(young)
        queries = Queries(database)
        for _ in range(ROUNDS):
            assert queries.backlog(["default"])["default"].waiting == TAKEN
        database.close_all()

    assert _entries_read(young, look) < WAITING


def test_plans_that_were_made_for_an_empty_record_are_forgotten_when_others_fill_it(young: str) -> None:
    def work(ledger: Ledger) -> None:
        add_queued(young, USES, ["default"])
        one_by_one(ledger)
        add_queued(young, WAITING, ["default"])
        time.sleep(LOOK_SECONDS)
        one_by_one(ledger)

    def one_by_one(ledger: Ledger) -> None:
        for _ in range(USES):
            (claim,) = ledger.fetch(["default"], ["benchmark"], 1).result(10)
            assert ledger.complete(claim, Complete(claim.id, claim.token, None)).result(10)

    assert _entries_read(young, work) < WAITING


def _finish(ledger: Ledger, claims: list[Claimed]) -> None:
    assert len(claims) == TAKEN
    for answer in [ledger.complete(one, Complete(one.id, one.token, None)) for one in claims]:
        assert answer.result(10)


def _counters(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute(_READ).fetchone()
        assert row is not None
        return int(row[0])


def _entries_read(url: str, work: Callable[[Ledger], None]) -> int:
    """How many rows and index entries of the states were read meanwhile."""
    before = _counters(url)
    ledger = Ledger(url).start()
    work(ledger)
    ledger.close()
    return eventually(lambda: _counters(url) - before)  # they are told when a connection ends
