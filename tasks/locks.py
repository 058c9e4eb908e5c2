"""Named locks: session advisory locks of Postgres, on one connection a process that nothing else uses.

Between processes Postgres decides, and frees what a dead one held. It would give its own session a lock
twice: within a process it is said here who holds what.
"""

import hashlib
import logging
import threading
from typing import Any, Final

import psycopg

from tasks.database import dial
from tasks.errors import Unavailable

log = logging.getLogger("callboard.locks")

NAMESPACE: Final = "callboard.lock"
BEAT_SECONDS: Final = 3.0
#: A session that says nothing for so long is ended by Postgres, and its locks are free: its process stands
#: still, or the network is cut.
SILENCE_SECONDS: Final = 15.0

_PATIENCE = f"SET idle_session_timeout = '{SILENCE_SECONDS:g}s'"
_TRY = "SELECT pg_try_advisory_lock(%s)"
_UNLOCK = "SELECT pg_advisory_unlock(%s)"
_FENCE = """
INSERT INTO fences (name, fence) VALUES (%s, 1)
ON CONFLICT (name) DO UPDATE SET fence = fences.fence + 1 RETURNING fence"""


def key_of(name: str) -> int:
    """The key of a name's advisory lock: a signed number of 64 bits."""
    digest = hashlib.blake2b(f"{NAMESPACE}\0{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


class PostgresHold:
    """A lock that is held, on one connection: with that it is lost."""

    def __init__(self, locks: "PostgresLocks", key: int, fence: int, session: int) -> None:
        self._locks = locks
        self.key = key
        self.fence = fence
        self.session = session

    def is_held(self) -> bool:
        """Ask Postgres whether the connection, and so the lock, is still there."""
        return self._locks.is_held(self)

    def release(self) -> None:
        """Give the lock back; one that was lost is nobody's any more."""
        self._locks.release(self)


class PostgresLocks:
    """The locks of this process. Nothing is connected before the first one is asked for."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._connection: psycopg.Connection[Any] | None = None
        self._session = 0
        self._held: set[int] = set()
        self._closing = threading.Event()
        self._keeper: threading.Thread | None = None

    def try_hold(self, name: str) -> PostgresHold | None:
        """The lock of a name if it is free; its fence is higher than any before.

        Raises:
          Unavailable: Postgres cannot be reached.
        """
        key = key_of(name)
        with self._lock:
            if key in self._held:
                return None
            try:
                return self._try(name, key)
            except psycopg.Error as error:
                self._let_go(key)
                raise Unavailable(f"Postgres cannot give locks now, try again: {error}") from error

    def is_held(self, hold: PostgresHold) -> bool:
        """Whether a lock was not lost."""
        with self._lock:
            return hold.session == self._session and self._beat()

    def release(self, hold: PostgresHold) -> None:
        """Give a lock back, unless it was lost."""
        with self._lock:
            if hold.session == self._session:
                self._let_go(hold.key)

    def close(self) -> None:
        """Close the connection; Postgres frees what is held."""
        self._closing.set()
        if self._keeper is not None:
            self._keeper.join(BEAT_SECONDS)
        with self._lock:
            self._hang_up()

    def _try(self, name: str, key: int) -> PostgresHold | None:
        if self._connection is None:
            self._connection = dial(self._url)
            self._connection.execute(_PATIENCE)
        self._keep()
        if not _value(self._connection.execute(_TRY, (key,))):
            return None
        self._held.add(key)
        return PostgresHold(self, key, _value(self._connection.execute(_FENCE, (name,))), self._session)

    def _let_go(self, key: int) -> None:
        """Unlock a key, if it is locked; where the connection is gone, all locks of this process are lost."""
        try:
            if self._connection is not None and key in self._held:
                self._connection.execute(_UNLOCK, (key,))
        except psycopg.Error as error:
            log.info("a lock was lost before it was given back: %s", error)
        self._held.discard(key)
        if self._connection is not None and self._connection.closed:
            self._hang_up()

    def _keep(self) -> None:
        if self._keeper is None:
            self._keeper = threading.Thread(target=self._beats, name="callboard-locks", daemon=True)
            self._keeper.start()

    def _beats(self) -> None:
        while not self._closing.wait(BEAT_SECONDS):
            with self._lock:
                self._beat()

    def _beat(self) -> bool:
        """Say something on the connection; False: it is gone."""
        if self._connection is None:
            return False
        try:
            self._connection.execute("SELECT 1")
        except psycopg.Error as error:
            log.warning("the connection of the locks broke, %d were lost: %s", len(self._held), error)
            self._hang_up()
            return False
        return True

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        self._session += 1
        self._held.clear()


def _value(cursor: psycopg.Cursor[Any]) -> Any:
    row = cursor.fetchone()
    assert row is not None
    return row[0]
