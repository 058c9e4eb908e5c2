"""The herald: one thread and connection a process, which sends the notices of what was committed.

Not the committing connections themselves: a notice is a transaction of its own, and each would wait for the
disk. Here it does not, and what comes in while one is sent goes with the next. Where hundreds of commits a
second say the same, a notice for each would cost the process a tenth of its time: they share one. A notice
that is lost harms nobody: who waits for one polls too.
"""

import logging
import threading
import time
from collections.abc import Collection
from typing import Any, Final
from uuid import UUID

import psycopg

from tasks.database import dial
from tasks.frequency import Frequency

log = logging.getLogger("callboard.notices")

#: Tells which tasks have new events: their ids, by commas; an empty text means that anything may have.
EVENTS_CHANNEL: Final = "callboard_events"
#: Postgres allows 8,000 bytes a notice.
MOST_IDS: Final = 150
#: Who listens to events looks a few times a second: more often than this nobody has to hear of them.
EVENTS_PAUSE: Final = 0.05
MOST_NOTICES: Final = 1_000
#: All else is told at once. Only where so many commits a moment (`tasks.frequency`) tell something, 160 a
#: second, they share a notice in so long.
NOTICES_PAUSE: Final = 0.01
OFTEN: Final = 8
_NOTIFY = "SELECT pg_notify(channel, text) FROM unnest(%s::text[], %s::text[]) AS n(channel, text)"


class Herald:
    """Sends notices, in the background and coalesced."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._wake = threading.Condition()
        self._notices: dict[tuple[str, str], None] = {}
        self._moved: set[UUID] = set()
        self._more_moved = False
        self._events_due = self._notices_due = 0.0
        self._told = Frequency()
        self._closing = False
        self._connection: psycopg.Connection[Any] | None = None
        self._thread = threading.Thread(target=self._run, name="callboard-herald", daemon=True)

    def start(self) -> "Herald":
        """Start sending."""
        self._thread.start()
        return self

    def close(self) -> None:
        """Send what waits, then stop."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(5)

    def tell(self, notices: Collection[tuple[str, str]], moved: Collection[UUID]) -> None:
        """Send these notices, as (channel, text), and that these tasks have new events; returns at once."""
        if not notices and not moved:
            return
        with self._wake:
            # What waits already has woken the thread, which looks again when that is due.
            is_news = bool((notices and not self._notices) or (moved and not self._has_moved))
            if notices:
                self._told.count()
            if len(self._notices) < MOST_NOTICES:
                self._notices.update(dict.fromkeys(notices))
            self._moved.update(moved)
            if len(self._moved) > MOST_IDS:
                self._more_moved = True
                self._moved.clear()
            if is_news:
                self._wake.notify()

    def _run(self) -> None:
        while (notices := self._next()) is not None:
            try:
                self._send(notices)
            except psycopg.Error as error:
                log.info("notices were lost, who waits for them polls too: %s", error)
                self._hang_up()
        self._hang_up()

    def _next(self) -> list[tuple[str, str]] | None:
        """What is to be sent, as soon as there is something; None when there will be no more."""
        with self._wake:
            while not (notices := self._take()):
                if self._closing:
                    return None
                self._wake.wait(self._left())
            return notices

    @property
    def _has_moved(self) -> bool:
        return self._more_moved or bool(self._moved)

    def _left(self) -> float | None:
        """How long until something that waits is due; None if nothing waits."""
        due = [self._notices_due] if self._notices else []
        due += [self._events_due] if self._has_moved else []
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _take(self) -> list[tuple[str, str]]:
        """What is due by now."""
        now = time.monotonic()
        notices: list[tuple[str, str]] = []
        if self._notices and (self._closing or now >= self._notices_due):
            notices += self._notices
            self._notices.clear()
            self._notices_due = now + NOTICES_PAUSE if self._told.lately >= OFTEN else 0.0
        if self._has_moved and (self._closing or now >= self._events_due):
            notices.append((EVENTS_CHANNEL, "" if self._more_moved else ",".join(map(str, self._moved))))
            self._moved.clear()
            self._more_moved = False
            self._events_due = now + EVENTS_PAUSE
        return notices

    def _send(self, notices: list[tuple[str, str]]) -> None:
        if self._connection is None or self._connection.closed:
            self._connection = dial(self._url)
            self._connection.execute("SET synchronous_commit = off")
        self._connection.execute(_NOTIFY, ([one[0] for one in notices], [one[1] for one in notices]))

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None
