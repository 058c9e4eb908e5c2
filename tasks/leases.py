"""The lease of a process: a session advisory lock and a heartbeat row. Tasks carry no lease of their own.

The lock tells at once that a process died; the heartbeat tells that one is frozen. Whoever judges others
must itself have been connected for a whole lease, because after a restart of Postgres all locks are free.
"""

import logging
import os
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
_LOCK_CLASS = 0x43616C6C

_REGISTER = """
INSERT INTO workers (id, kind, host, pid, version, queues, types, threads)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s) RETURNING lock_key"""

_DEAD = f"""
SELECT id FROM workers w WHERE heartbeat_at < now() - make_interval(secs => {LEASE_SECONDS})
OR NOT EXISTS (
    SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.classid::bigint = {_LOCK_CLASS}
    AND l.objid::bigint = w.lock_key AND l.objsubid = 2 AND l.granted
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()))"""

_YOUNG = f"""
SELECT now() - pg_postmaster_start_time() < make_interval(secs => {LEASE_SECONDS})
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
            self._lock(connection)

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
        while not self._stopping.wait(HEARTBEAT_SECONDS):
            try:
                if not self._beat() and not self._go_on():
                    return
            except (psycopg.OperationalError, psycopg.InterfaceError):
                self._reconnect()

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
        cursor = self._connection.execute(
            "UPDATE workers SET heartbeat_at = now(), queues = %s WHERE id = %s",
            (list(self._profile.queues), self.owner),
        )
        return cursor.rowcount == 1

    def _reconnect(self) -> None:
        try:
            connection = dial(self._url)
        except psycopg.OperationalError:
            return
        if self._connection is not None:
            self._connection.close()
        self._connection = connection
        self._lock(connection)


class Coroner:
    """Finds dead processes. Judges nobody before it has itself been connected for one lease."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: psycopg.Connection[Any] | None = None
        self._connected_at = 0.0
        self._seen_outage = False

    def dead(self) -> list[UUID]:
        """The processes whose lease is over; none while a recent outage may have freed all locks."""
        try:
            connection = self._connect()
            if self._seen_outage and time.monotonic() - self._connected_at < LEASE_SECONDS:
                return []
            if self._truth(connection, _YOUNG):
                return []
            return [row[0] for row in connection.execute(_DEAD).fetchall()]
        except (psycopg.OperationalError, psycopg.InterfaceError):
            self._seen_outage = True
            self.close()
            return []

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _truth(self, connection: psycopg.Connection[Any], sql: str) -> bool:
        row = connection.execute(sql).fetchone()
        return bool(row and row[0])

    def _connect(self) -> psycopg.Connection[Any]:
        if self._connection is None or self._connection.closed:
            self._connection = dial(self._url)
            self._connected_at = time.monotonic()
        return self._connection
