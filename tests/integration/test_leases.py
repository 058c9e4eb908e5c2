"""Leases: who is dead is found out at once, who lives is never judged, who is frozen loses what it had."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID

import psycopg
import pytest
from playhouse.pool import PooledPostgresqlDatabase
from psycopg.conninfo import make_conninfo

from tasks import leases
from tasks.coroner import Coroner
from tasks.database import connect
from tasks.embedded import DATABASE, ROLE, SETTINGS, postgres_at
from tasks.ids import new_id
from tasks.judge import Loss
from tasks.leases import LOCK_CLASS, Lease, Profile
from tasks.ledger import Ledger
from tasks.migrations import migrate
from tasks.queries import Queries
from tasks.values import NewTask
from tests.support.proxy import Proxy
from tests.support.servers import free_port
from tests.support.waiting import eventually

REPOSITORY = Path(__file__).parents[2]
OBSERVER = "observer-under-test"
HOLDER = "holder-under-test"
#: Longer than any beat here needs, so that no slow machine makes a living process look frozen.
LEASE_SECONDS = 2.0
GRACE_SECONDS = 0.2

HOLDER_PROGRAM = """
import sys, threading
from uuid import UUID
from tasks import leases
from tasks.database import connect
from tasks.embedded import DATABASE, ROLE, SETTINGS, postgres_at
from tasks.migrations import migrate
from tasks.database import connect

leases.HEARTBEAT_SECONDS = 0.1
profile = leases.Profile("worker", "0")
lease = leases.Lease(sys.argv[1], UUID(sys.argv[2]), profile, lambda: print("lost", flush=True))
lease.start()
print("holds", flush=True)
sys.stdin.read()
lease.close()
"""


class Holder:
    """A process that holds a lease."""

    def __init__(self, url: str) -> None:
        self.id = new_id()
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER_PROGRAM, make_conninfo(url, application_name=HOLDER), str(self.id)],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.says() == "holds"

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    @property
    def died(self) -> list[Loss]:
        """What is said of it when it is dead, and nobody else is."""
        return [Loss(self.id, died=True)]

    @property
    def froze(self) -> list[Loss]:
        """What is said of it when it may only have frozen."""
        return [Loss(self.id, died=False)]

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    def stop(self) -> None:
        """Let it end in an orderly way."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(20) == 0

    def end(self) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


@pytest.fixture(autouse=True)
def quick_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "HEARTBEAT_SECONDS", 0.1)


@pytest.fixture
def record(shared: PooledPostgresqlDatabase, url: str) -> str:
    """The URL of an empty record."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("TRUNCATE tasks, task_state, attempts, events, workers, dispatches, queues")
    return url


@pytest.fixture
def sql(record: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(record, autocommit=True) as connection:
        yield connection


@pytest.fixture
def holder(record: str) -> Iterator[Holder]:
    started = Holder(record)
    yield started
    started.end()


@contextmanager
def coroner_of(
    record: str, *, lease: float = LEASE_SECONDS, grace: float = GRACE_SECONDS
) -> Iterator[Coroner]:
    coroner = Coroner(make_conninfo(record, application_name=OBSERVER), lease=lease, grace=grace)
    yield coroner
    coroner.close()


@pytest.fixture
def observer(record: str) -> Iterator[Coroner]:
    with coroner_of(record) as coroner:
        yield coroner


@pytest.fixture
def patient(record: str) -> Iterator[Coroner]:
    """One who waits longer until he takes a free lock for a death: for tests that break connections."""
    with coroner_of(record, grace=1.5) as coroner:
        yield coroner


def for_seconds(seconds: float, condition: Callable[[], bool]) -> bool:
    """Whether ``condition`` holds all the time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not condition():
            return False
        time.sleep(0.02)
    return True


def disconnect(sql: psycopg.Connection[Any], name: str) -> None:
    count = sql.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = %s", (name,)
    ).rowcount
    assert count == 1


# --- who is dead -------------------------------------------------------------------------------------


def test_a_killed_process_is_found_dead_long_before_its_lease_is_over(record: str, holder: Holder) -> None:
    with coroner_of(record, lease=3_600.0) as observer:
        assert observer.lost() == []

        holder.signal(signal.SIGKILL)

        eventually(lambda: observer.lost() == holder.died)


def test_a_living_process_is_never_found_dead_however_long_it_lives(
    holder: Holder, observer: Coroner
) -> None:
    assert for_seconds(1.25 * LEASE_SECONDS, lambda: observer.lost() == [])
    assert holder.process.poll() is None


def test_a_process_that_stops_in_order_is_not_dead_but_gone(
    holder: Holder, observer: Coroner, sql: psycopg.Connection[Any]
) -> None:
    holder.stop()

    assert sql.execute("SELECT id FROM workers").fetchall() == []
    assert for_seconds(0.5, lambda: observer.lost() == [])


def test_a_frozen_process_is_lost_once_its_lease_is_over_and_not_before_and_is_not_said_to_have_died(
    holder: Holder, observer: Coroner
) -> None:
    holder.signal(signal.SIGSTOP)
    frozen_at = time.monotonic()

    eventually(lambda: observer.lost() == holder.froze, timeout=4 * LEASE_SECONDS)

    assert time.monotonic() - frozen_at > LEASE_SECONDS - 0.5
    holder.signal(signal.SIGCONT)


def test_a_jump_of_the_wall_clock_makes_nobody_look_frozen_and_hides_nobody_who_is(
    holder: Holder, observer: Coroner, sql: psycopg.Connection[Any]
) -> None:
    # Given heartbeats of long ago, or of a time to come
    for jump in ("-1 day", "1 day"):
        sql.execute("UPDATE workers SET heartbeat_at = heartbeat_at + %s::interval", (jump,))
        assert for_seconds(0.5, lambda: observer.lost() == [])
    # When a process freezes just after such a jump, then it is found all the same.
    holder.signal(signal.SIGSTOP)
    sql.execute("UPDATE workers SET heartbeat_at = heartbeat_at + '10 years'")
    eventually(lambda: observer.lost() == holder.froze, timeout=4 * LEASE_SECONDS)
    holder.signal(signal.SIGCONT)


def test_a_process_that_thaws_in_time_keeps_its_lease(holder: Holder, observer: Coroner) -> None:
    holder.signal(signal.SIGSTOP)
    assert for_seconds(LEASE_SECONDS / 3, lambda: observer.lost() == [])

    holder.signal(signal.SIGCONT)

    assert for_seconds(LEASE_SECONDS, lambda: observer.lost() == [])


def test_a_process_that_thaws_too_late_is_told_that_its_lease_was_lost(
    record: str, holder: Holder, observer: Coroner
) -> None:
    # Given a frozen process whose work was taken back
    holder.signal(signal.SIGSTOP)
    eventually(lambda: observer.lost() == holder.froze, timeout=4 * LEASE_SECONDS)
    ledger = Ledger(record).start()
    ledger.rescue(holder.id).result(10)
    ledger.close()
    assert observer.lost() == []

    # When it goes on, it learns that it must stop.
    holder.signal(signal.SIGCONT)

    assert holder.says() == "lost"


def test_one_death_does_not_cast_suspicion_on_others(record: str, holder: Holder, observer: Coroner) -> None:
    other = Holder(record)
    try:
        holder.signal(signal.SIGKILL)

        eventually(lambda: observer.lost() == holder.died)
        assert for_seconds(0.5, lambda: observer.lost() == holder.died)
    finally:
        other.end()


def test_what_a_dead_process_had_claimed_is_taken_back(
    record: str, shared: PooledPostgresqlDatabase, holder: Holder, observer: Coroner
) -> None:
    worker, clock = Ledger(record, owner=holder.id).start(), Ledger(record).start()
    task = NewTask(task_type="work", queue_name="default")
    worker.submit([task]).result(10)
    (claim,) = worker.fetch(["default"], ["work"], 1).result(10)
    worker.close()

    holder.signal(signal.SIGKILL)
    eventually(lambda: observer.lost() == holder.died)
    assert clock.rescue(holder.id).result(10) == 1

    assert observer.lost() == []
    (again,) = clock.fetch(["default"], ["work"], 1).result(10)
    assert (again.id, again.deaths) == (claim.id, 1)
    assert not Queries(shared).is_alive(holder.id)
    clock.close()


# --- outages -----------------------------------------------------------------------------------------


def test_an_observer_that_has_just_had_an_outage_judges_nobody_for_one_lease(
    holder: Holder, observer: Coroner, sql: psycopg.Connection[Any]
) -> None:
    # Given an observer that has lost its connection
    assert observer.lost() == []
    disconnect(sql, OBSERVER)
    assert observer.lost() == []
    reconnected_at = time.monotonic()

    # When somebody dies (or its lock is free because the outage was everybody's)
    holder.signal(signal.SIGKILL)
    holder.process.wait()

    # Then it says so only after one lease.
    assert for_seconds(LEASE_SECONDS - 0.5, lambda: observer.lost() == [])
    eventually(lambda: observer.lost() == holder.died)
    assert time.monotonic() - reconnected_at >= LEASE_SECONDS


def test_while_postgres_is_away_nobody_is_judged(record: str) -> None:
    observer = Coroner(make_conninfo(record, host="127.0.0.1", port=1))

    assert observer.lost() == []
    observer.close()


def test_after_an_outage_longer_than_a_lease_only_those_are_lost_that_do_not_come_back(record: str) -> None:
    """The rescue storm: while Postgres was away nobody could beat, and all locks were given up."""
    proxy = Proxy(record)
    holders = [Holder(proxy.url) for _ in range(3)]
    with coroner_of(proxy.url) as observer:
        try:
            assert for_seconds(0.5, lambda: observer.lost() == [])
            # Given an outage of two leases, in which one of three processes dies
            proxy.shut()
            holders[0].signal(signal.SIGKILL)
            assert for_seconds(2 * LEASE_SECONDS, lambda: observer.lost() == [])
            # When Postgres is back, then nobody is lost before one more lease, and then only that one.
            proxy.open()
            assert for_seconds(LEASE_SECONDS - 0.5, lambda: observer.lost() == [])
            eventually(lambda: observer.lost() == holders[0].died)
            assert for_seconds(LEASE_SECONDS, lambda: observer.lost() == holders[0].died)
        finally:
            for holder in holders:
                holder.end()
            proxy.end()


def test_an_observer_that_begins_after_a_restart_of_postgres_gives_everybody_a_lease(tmp_path: Path) -> None:
    settings = {**SETTINGS, "listen_addresses": "127.0.0.1", "fsync": "off"}
    port = free_port()
    holders: list[Holder] = []
    try:
        # Given two processes and a Postgres that is stopped; one of them dies meanwhile
        with postgres_at(tmp_path / "postgres", settings, port=port) as home:
            url = f"postgresql://{ROLE}:{quote(home.password)}@127.0.0.1:{port}/{DATABASE}"
            database = connect(url)
            migrate(database)
            database.close_all()
            holders = [Holder(url), Holder(url)]
        holders[0].signal(signal.SIGKILL)
        # When it was started again and somebody begins to look, who knows of no outage
        with (
            postgres_at(tmp_path / "postgres", settings, port=port),
            coroner_of(url, lease=2 * LEASE_SECONDS) as observer,
        ):
            # Then it waits for a lease, although both locks may be free, and finds the dead one alone.
            assert for_seconds(2 * LEASE_SECONDS - 0.5, lambda: observer.lost() == [])
            eventually(lambda: observer.lost() == holders[0].died)
            assert holders[1].process.poll() is None
    finally:
        for holder in holders:
            holder.end()


def test_a_living_process_whose_connection_broke_takes_its_lock_again_in_time(
    holder: Holder, patient: Coroner, sql: psycopg.Connection[Any]
) -> None:
    for _ in range(3):
        disconnect(sql, HOLDER)
        assert for_seconds(0.6, lambda: patient.lost() == [])

    assert holder.process.poll() is None


def locks_of(sql: psycopg.Connection[Any], worker: UUID) -> int:
    row = sql.execute(
        "SELECT count(*) FROM pg_locks l JOIN workers w ON l.objid::bigint = w.lock_key"
        " WHERE w.id = %s AND l.locktype = 'advisory' AND l.granted",
        (worker,),
    ).fetchone()
    assert row is not None
    return int(row[0])


def test_a_lock_that_a_broken_connection_still_holds_is_taken_over_when_it_is_free(
    record: str, holder: Holder, patient: Coroner, sql: psycopg.Connection[Any]
) -> None:
    """After a network failure the server may keep the old session, with its lock, for a long time."""
    row = sql.execute("SELECT lock_key FROM workers WHERE id = %s", (holder.id,)).fetchone()
    assert row is not None
    key = row[0]

    # Given an old session that holds the lock while its process has a new one
    with psycopg.connect(record, autocommit=True) as old_session:
        for _ in range(100):
            disconnect(sql, HOLDER)
            held = old_session.execute("SELECT pg_try_advisory_lock(%s, %s)", (LOCK_CLASS, key)).fetchone()
            if held is not None and held[0]:
                break
        assert for_seconds(0.5, lambda: patient.lost() == [])

    # When the server gives that up, then the process takes the lock, and nobody thinks that it died.
    assert for_seconds(2, lambda: patient.lost() == [])
    assert locks_of(sql, holder.id) == 1


# --- processes that claim nothing --------------------------------------------------------------------


def test_a_process_without_claims_that_lost_its_row_simply_registers_again(
    record: str, sql: psycopg.Connection[Any]
) -> None:
    lease = Lease(record, new_id(), Profile("api", "0")).start()

    sql.execute("DELETE FROM workers")

    eventually(lambda: locks_of(sql, lease.owner) == 1)
    lease.close()
    assert sql.execute("SELECT count(*) FROM workers").fetchone() == (0,)


def test_a_process_announces_new_queues_with_its_next_heartbeat(
    record: str, sql: psycopg.Connection[Any]
) -> None:
    profile = Profile("worker", "1.2", ["default"], ["work"], threads=8)
    lease = Lease(record, new_id(), profile).start()

    lease.announce(["default", "mail"])

    eventually(
        lambda: (
            sql.execute("SELECT queues, types, threads, version FROM workers").fetchone()
            == (["default", "mail"], ["work"], 8, "1.2")
        )
    )
    lease.close()
