"""The lease of a process: a session advisory lock and a heartbeat row. Tasks carry no lease of their own.

The lock tells at once that a process died; the heartbeat tells that one is frozen. Whoever judges others
must itself have been connected for a whole lease, because after a restart of Postgres all locks are free.
"""

import logging
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import msgspec
import psycopg

from tasks.database import dial

log = logging.getLogger("callboard.lease")

LEASE_SECONDS = 15.0
HEARTBEAT_SECONDS = 3.0
RECONNECT_SECONDS = 0.25
#: A lock must have been free for so long: a living process whose connection broke takes it again sooner.
GRACE_SECONDS = 1.0
_LOCK_CLASS = 0x43616C6C

_REGISTER = """
INSERT INTO workers (id, kind, host, pid, version, queues, types, threads)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s) RETURNING lock_key"""

_FROZEN = "SELECT id FROM workers WHERE heartbeat_at < now() - make_interval(secs => %s)"

# The second half finds claims of processes that are not on record: they claimed after their rescue.
_UNLOCKED = f"""
SELECT id FROM workers w WHERE NOT EXISTS (
    SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.classid::bigint = {_LOCK_CLASS}
    AND l.objid::bigint = w.lock_key AND l.objsubid = 2 AND l.granted
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()))
UNION
SELECT s.worker FROM task_state s WHERE s.status = 'running' AND s.queue IS NOT NULL
    AND s.worker IS NOT NULL AND NOT EXISTS (SELECT FROM workers w WHERE w.id = s.worker)"""

_YOUNG = """
SELECT now() - pg_postmaster_start_time() < make_interval(secs => %s)
AND EXISTS (SELECT FROM workers WHERE started_at < pg_postmaster_start_time())"""


class Profile(msgspec.Struct, frozen=True):
    """What a process says of itself in ``/stats/workers``."""

    kind: str
    version: str
    queues: Sequence[str] = ()
    types: Sequence[str] = ()
    threads: int = 0


class Lease:
    """Keeps this process's row and lock alive.

    ``on_lost`` is called once when others may have taken the work; a process that claims nothing has none
    and simply registers again.
    """

    def __init__(
        self, url: str, owner: UUID, profile: Profile, on_lost: Callable[[], None] | None = None
    ) -> None:
        self._url = url
        self.owner = owner
        self._profile = profile
        self._on_lost = on_lost
        self._stopping = threading.Event()
        self._connection: psycopg.Connection[Any] | None = None
        self._lock_key: int | None = None
        self._locked = False
        self._thread = threading.Thread(target=self._keep, name="callboard-lease", daemon=True)

    def start(self) -> "Lease":
        """Register the process and take its lock, then keep both."""
        self._connection = dial(self._url)
        self._enter(self._connection)
        self._thread.start()
        return self

    def close(self) -> None:
        """Give the lease back. What is still claimed is rescued by others at once."""
        self._stopping.set()
        self._thread.join(5)
        if self._connection is not None and not self._connection.closed:
            try:
                self._connection.execute(
                    "DELETE FROM workers WHERE id = %s AND NOT EXISTS (SELECT FROM task_state"
                    " WHERE worker = %s AND status = 'running' AND queue IS NOT NULL)"
                    " AND NOT EXISTS (SELECT FROM dispatches WHERE owner = %s)",
                    (self.owner, self.owner, self.owner),
                )
            except psycopg.Error:
                log.info("the process's row stays; the clock removes it")
            self._connection.close()

    def announce(self, queues: Sequence[str]) -> None:
        """Say which queues this process serves from now on (written with the next heartbeat)."""
        self._profile = msgspec.structs.replace(self._profile, queues=list(queues))

    def _enter(self, connection: psycopg.Connection[Any]) -> None:
        with connection.transaction():  # a row without its lock would look dead
            self._lock_key = self._register(connection)
            self._locked = self._lock(connection)

    def _register(self, connection: psycopg.Connection[Any]) -> int:
        p = self._profile
        values = (
            p.kind,
            socket.gethostname(),
            os.getpid(),
            p.version,
            list(p.queues),
            list(p.types),
            p.threads,
        )
        row = connection.execute(_REGISTER, (self.owner, *values)).fetchone()
        assert row is not None
        return int(row[0])

    def _lock(self, connection: psycopg.Connection[Any]) -> bool:
        row = connection.execute(
            "SELECT pg_try_advisory_lock(%s, %s)", (_LOCK_CLASS, self._lock_key)
        ).fetchone()
        return bool(row and row[0])

    def _keep(self) -> None:
        while not self._stopping.is_set():
            try:
                if self._connection is None:
                    self._reconnect()
                if not self._beat() and not self._go_on():
                    return
                self._wait()
            except psycopg.Error as error:
                log.info("the lease's connection broke, taking the lock again: %s", error)
                self._hang_up()
                self._stopping.wait(RECONNECT_SECONDS)

    def _wait(self) -> None:
        """Wait for the next heartbeat, or until the connection has something to say (that it is gone)."""
        assert self._connection is not None
        deadline = time.monotonic() + HEARTBEAT_SECONDS
        while not self._stopping.is_set() and (left := deadline - time.monotonic()) > 0:
            heard, _, _ = select.select([self._connection.fileno()], [], [], min(left, RECONNECT_SECONDS))
            if heard:
                return

    def _go_on(self) -> bool:
        """After the loss of the lease: register again, or stop because what was claimed belongs to others."""
        if self._on_lost is None:
            assert self._connection is not None
            self._enter(self._connection)
            return True
        log.error("the lease of this process was lost; what it had claimed belongs to others")
        self._on_lost()
        return False

    def _beat(self) -> bool:
        assert self._connection is not None
        if not self._locked:  # the server may hold the lock for our broken connection a while longer
            self._locked = self._lock(self._connection)
        cursor = self._connection.execute(
            "UPDATE workers SET heartbeat_at = now(), queues = %s WHERE id = %s",
            (list(self._profile.queues), self.owner),
        )
        return cursor.rowcount == 1

    def _reconnect(self) -> None:
        self._connection = dial(self._url)
        self._locked = self._lock(self._connection)

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        self._locked = False


class Coroner:
    """Finds dead processes. After an outage it judges nobody before it has been connected for one lease."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: psycopg.Connection[Any] | None = None
        self._connected_at = 0.0
        self._seen_outage = False
        self._suspected: dict[UUID, float] = {}
        self._lock = threading.Lock()

    def dead(self) -> list[UUID]:
        """The processes whose lease is over; none while a recent outage may have freed all locks."""
        with self._lock:
            try:
                return self._judge(self._connect())
            except psycopg.Error:
                self._seen_outage = True
                self._suspected.clear()
                self._hang_up()
                return []

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._hang_up()

    def _judge(self, connection: psycopg.Connection[Any]) -> list[UUID]:
        now = time.monotonic()
        if self._seen_outage and now - self._connected_at < LEASE_SECONDS:
            return []
        young = connection.execute(_YOUNG, (LEASE_SECONDS,)).fetchone()
        if young is not None and young[0]:
            return []
        frozen = {row[0] for row in connection.execute(_FROZEN, (LEASE_SECONDS,)).fetchall()}
        unlocked = {row[0] for row in connection.execute(_UNLOCKED).fetchall()}
        self._suspected = {one: self._suspected.get(one, now) for one in unlocked}
        gone = {one for one, since in self._suspected.items() if now - since >= GRACE_SECONDS}
        return sorted(frozen | gone)

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> psycopg.Connection[Any]:
        if self._connection is None or self._connection.closed:
            self._connection = dial(self._url)
            self._connected_at = time.monotonic()
        return self._connection
