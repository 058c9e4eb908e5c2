"""The scheduler: fires what is due. Any number of them may run; each fire time is fired once.

It goes by the time of Postgres, never by its own, and waits for no other step of the clock.
"""

import logging
import threading
import time
from datetime import datetime

from actors import firing
from actors.firing import Prepare
from tasks.errors import CallboardError
from tasks.ledger import Ledger
from tasks.ledger.fires import FORGOTTEN_AT_ONCE, Firing
from tasks.schedule_records import Due
from tasks.schedules import ScheduleQueries

log = logging.getLogger("callboard.schedules")

BATCH = 500
#: The longest pause: what was made or changed meanwhile is seen after it. And the shortest one.
LONGEST_PAUSE, SHORTEST_PAUSE = 0.25, 0.01
FORGET_SECONDS = 60.0
MOST_FORGETS = 20
PATIENCE_SECONDS = 30.0


class Scheduler:
    """Fires due schedules. ``kept`` is for how many seconds it is known what became of a fire time."""

    def __init__(self, ledger: Ledger, queries: ScheduleQueries, prepare: Prepare, kept: float) -> None:
        self._ledger = ledger
        self._queries = queries
        self._prepare = prepare
        self._kept = kept
        self._forgot_at = 0.0
        self._is_troubled = False
        self._unreadable: set[tuple[object, int]] = set()

    def run(self, stopping: threading.Event) -> None:
        """Fire what is due until ``stopping`` is set. What fails is logged once and tried again."""
        while not stopping.is_set():
            pause = LONGEST_PAUSE
            try:
                self.fire()
                pause = self._pause()
                self._forget()
                self._is_troubled = False
            except Exception as error:
                if not self._is_troubled:
                    log.warning("schedules cannot be fired now, trying again: %s", error)
                self._is_troubled = True
            stopping.wait(pause)

    def fire(self) -> int:
        """Fire everything that is due: how many schedules this process fired."""
        answers = []
        last: Due | None = None
        while True:
            page = self._queries.due(BATCH, last)
            if page.now is None:
                break
            # What is planned is committed while the next page is read and planned.
            plans = (self._plan(one, page.now) for one in page.due)
            answers += [self._ledger.fire(one) for one in plans if one is not None]
            last = page.due[-1]
            if len(page.due) < BATCH:
                break
        return sum(answer.result(PATIENCE_SECONDS) for answer in answers)

    def _plan(self, due: Due, now: datetime) -> Firing | None:
        """What to fire; None if a schedule cannot be read here, with an older zone data base for example."""
        try:
            return firing.plan(due, now, self._prepare)
        except CallboardError as error:
            if (due.id, due.version) not in self._unreadable:
                self._unreadable.add((due.id, due.version))
                log.warning("the schedule %s cannot be fired here: %s", due.definition.name, error)
            return None

    def _pause(self) -> float:
        seconds = self._queries.seconds_to_next()
        return LONGEST_PAUSE if seconds is None else min(max(seconds, SHORTEST_PAUSE), LONGEST_PAUSE)

    def _forget(self) -> None:
        if time.monotonic() - self._forgot_at < FORGET_SECONDS:
            return
        self._forgot_at = time.monotonic()
        for _ in range(MOST_FORGETS):
            if self._ledger.forget_fires(self._kept).result(PATIENCE_SECONDS) < FORGOTTEN_AT_ONCE:
                break
