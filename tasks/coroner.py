"""The coroner: looks at the locks and heartbeats of all processes, and finds those that are lost."""

import threading
import time
from typing import Any
from uuid import UUID

import psycopg

from tasks import judge
from tasks.database import dial
from tasks.judge import Judge, Loss, Sighting
from tasks.leases import LOCK_CLASS

# The second half finds claims of processes that are not on record: they claimed after their rescue.
_LOOK = f"""
SELECT w.id, w.heartbeat_at, l.objid IS NOT NULL, w.locked_under = pg_postmaster_start_time()
FROM workers w LEFT JOIN pg_locks l ON l.locktype = 'advisory' AND l.classid::bigint = {LOCK_CLASS}
    AND l.objid::bigint = w.lock_key AND l.objsubid = 2 AND l.granted
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
UNION ALL
SELECT DISTINCT s.worker, NULL::timestamptz, false, true FROM task_state s
WHERE s.status = 'running' AND s.worker IS NOT NULL
    AND NOT EXISTS (SELECT FROM workers w WHERE w.id = s.worker)"""


class Coroner:
    """Finds lost processes. He must be asked regularly: what he knows comes from looking again and again."""

    def __init__(self, url: str, *, lease: float | None = None, grace: float | None = None) -> None:
        self._url = url
        self._connection: psycopg.Connection[Any] | None = None
        self._judge = Judge(lease=lease or judge.LEASE_SECONDS, grace=grace or judge.GRACE_SECONDS)
        self._lock = threading.Lock()

    @property
    def suspects(self) -> set[UUID]:
        """The processes whose locks were free at the last look."""
        return self._judge.suspects

    def lost(self) -> list[Loss]:
        """Look; the processes whose lease is over. None while a recent outage may have freed all locks."""
        with self._lock:
            try:
                rows = self._connect().execute(_LOOK).fetchall()
            except psycopg.Error:
                self._judge.lost_sight()
                self._hang_up()
                return []
            return self._judge.look(time.monotonic(), [Sighting(*row) for row in rows])

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._hang_up()

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> psycopg.Connection[Any]:
        if self._connection is None or self._connection.closed:
            self._connection = dial(self._url)
        return self._connection
