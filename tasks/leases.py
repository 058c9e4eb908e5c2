"""The lease of a process: a session advisory lock and a heartbeat row. Tasks carry no lease of their own.

The lock tells at once that a process died; the heartbeat tells that one is frozen. Who is lost is for
`tasks.coroner` to say.
"""

import logging
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import msgspec
import psycopg

from tasks.database import dial, dial_in_one_step
from tasks.vitals import Pulse

log = logging.getLogger("callboard.lease")

HEARTBEAT_SECONDS = 3.0
RECONNECT_SECONDS = 0.1
#: How long the server is asked to wait for the lock, if it still holds it for our last connection.
LOCK_SECONDS = 2.0
LOCK_CLASS = 0x43616C6C

_REGISTER = """
INSERT INTO workers (id, kind, host, pid, version, queues, types, threads)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s) RETURNING lock_key"""

_BEAT = """
UPDATE workers SET heartbeat_at = now(), queues = %s, vitals = %s,
    locked_under = CASE WHEN %s THEN pg_postmaster_start_time() ELSE locked_under END
WHERE id = %s"""


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
    and simply registers again. ``pulse`` is written with every heartbeat.
    """

    def __init__(
        self,
        url: str,
        owner: UUID,
        profile: Profile,
        on_lost: Callable[[], None] | None = None,
        pulse: Pulse | None = None,
    ) -> None:
        self._url = url
        self.owner = owner
        self._profile = profile
        self._on_lost = on_lost
        self._pulse = pulse or Pulse()
        self._stopping = threading.Event()
        self._connection: psycopg.Connection[Any] | None = None
        self._lock_key: int | None = None
        self._locked = False
        self._beaten = False  # on this connection
        self._broke_at: float | None = None
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
        """Take the lock as soon as it is free; False if that takes long. One message to the server."""
        patience = f"SET lock_timeout = '{LOCK_SECONDS:g}s'"
        try:
            connection.execute(f"{patience}; SELECT pg_advisory_lock({LOCK_CLASS}, {self._lock_key})")
        except psycopg.errors.LockNotAvailable:
            return False
        return True

    def unbroken_for(self, seconds: float) -> bool:
        """Whether its connection did not break within the last ``seconds``."""
        broke_at = self._broke_at
        return self._beaten and (broke_at is None or time.monotonic() - broke_at >= seconds)

    def _keep(self) -> None:
        while not self._stopping.is_set():
            try:
                if self._connection is None:
                    self._reconnect()
                if not self._beat() and not self._go_on():
                    return
                self._wait()
            except Exception as error:  # whatever it was: a process whose lease nobody keeps looks frozen
                log.info("the lease's connection broke, taking the lock again: %s", error)
                at_once = self._beaten  # it worked until now, and others wait only for a moment
                self._hang_up()
                if not at_once:
                    self._stopping.wait(RECONNECT_SECONDS)

    def _wait(self) -> None:
        """Wait for the next heartbeat, or until the connection has something to say (that it is gone)."""
        assert self._connection is not None
        deadline = time.monotonic() + (HEARTBEAT_SECONDS if self._locked else RECONNECT_SECONDS)
        with selectors.DefaultSelector() as selector:
            selector.register(self._connection.fileno(), selectors.EVENT_READ)
            while not self._stopping.is_set() and (left := deadline - time.monotonic()) > 0:
                if selector.select(min(left, RECONNECT_SECONDS)):
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
        if not self._locked:
            self._locked = self._lock(self._connection)
        vitals = msgspec.json.encode(self._pulse.read()).decode()
        values = (list(self._profile.queues), vitals, self._locked, self.owner)
        cursor = self._connection.execute(_BEAT, values)
        self._beaten = True
        return cursor.rowcount == 1

    def _reconnect(self) -> None:
        self._connection = dial_in_one_step(self._url)
        self._locked = self._lock(self._connection)

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        self._locked = self._beaten = False
        self._broke_at = time.monotonic()
