"""The scheduler: fires what is due. Any number of them may run; each fire time is fired once.

It goes by the time of Postgres, never by its own, and waits for no other step of the clock.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from datetime import datetime
from itertools import cycle
from uuid import UUID

from actors import firing
from actors.firing import Prepare
from tasks.errors import CallboardError
from tasks.ledger import Ledger
from tasks.ledger.fires import FORGOTTEN_AT_ONCE, Firing
from tasks.schedule_records import Due
from tasks.schedules import ScheduleQueries

log = logging.getLogger("callboard.schedules")

#: So many are read at once. A transaction gets about so many tasks and bytes, and so many of them wait.
BATCH = 500
MOST_TASKS = 500
MOST_BYTES = 4 << 20
MOST_SENT = 8
#: The longest pause: what was made or changed meanwhile is seen after it. The shortest one, also when nothing
#: of what is due could be fired.
LONGEST_PAUSE, SHORTEST_PAUSE, STUCK_PAUSE = 0.25, 0.01, 0.1
#: What is due so soon is planned already, so that at its time it only has to be recorded.
AHEAD_SECONDS = 2.0
FORGET_SECONDS = 60.0
MOST_FORGETS = 20
PATIENCE_SECONDS = 30.0


class Scheduler:
    """Fires due schedules. ``kept`` is for how many seconds it is known what became of a fire time.

    What is due at the same time is shared among its ``ledgers``; if nobody else uses them, it never waits for
    what others record.
    """

    def __init__(
        self, ledgers: Sequence[Ledger], queries: ScheduleQueries, prepare: Prepare, kept: float
    ) -> None:
        self._ledgers = cycle(ledgers)
        self._queries = queries
        self._prepare = prepare
        self._kept = kept
        #: What is planned ahead, by schedule, and up to where that was done.
        self._planned: dict[UUID, Firing] = {}
        self._planned_to: Due | None = None
        self._forgot_at = 0.0
        self._is_troubled = False
        self._complained: set[tuple[UUID, int]] = set()

    def run(self, stopping: threading.Event) -> None:
        """Fire what is due until ``stopping`` is set. What fails is logged once and tried again."""
        while not stopping.is_set():
            pause = LONGEST_PAUSE
            try:
                pause = self._step()
                self._forget()
                self._is_troubled = False
            except Exception as error:
                if not self._is_troubled:
                    log.warning("schedules cannot be fired now, trying again: %s", error)
                self._is_troubled = True
            stopping.wait(pause)

    def _step(self) -> float:
        """Fire what is due, and plan what is due soon; how long there is nothing to do then."""
        if (seconds := self._queries.seconds_to_next()) is None or seconds > AHEAD_SECONDS:
            return LONGEST_PAUSE
        is_stuck = seconds <= 0 and not self.fire()  # another one fires it, or nobody can
        if self.look_ahead():
            return 0.0
        seconds = self._queries.seconds_to_next()
        least = STUCK_PAUSE if is_stuck else SHORTEST_PAUSE
        return LONGEST_PAUSE if seconds is None else min(max(seconds, least), LONGEST_PAUSE)

    def fire(self) -> int:
        """Fire everything that is due: how many schedules this process fired."""
        fired = 0
        sent: deque[tuple[list[Firing], Future[int]]] = deque()
        for plans in self._due():  # one part is committed while the next one is read and planned
            sent.append((plans, next(self._ledgers).fire(plans)))
            if len(sent) > MOST_SENT:
                fired += self._fired(*sent.popleft())
        return fired + sum(self._fired(*one) for one in sent)

    def _due(self) -> Iterator[list[Firing]]:
        """What is due, planned, in parts that are not too large for a transaction."""
        part: list[Firing] = []
        tasks = size = 0
        page = self._queries.due(BATCH)
        while page.now is not None:
            for one in page.due:
                plan = self._plan(one, page.now)
                if plan is None:
                    continue
                part.append(plan)
                tasks += sum(len(each.tasks) for each in plan.fires)
                size += len(one.asked) * len(plan.fires)
                if tasks >= MOST_TASKS or size >= MOST_BYTES:
                    yield part
                    part, tasks, size = [], 0, 0
            if len(page.due) < BATCH:
                break
            page = self._queries.due(BATCH, page.due[-1])
        if part:
            yield part

    def look_ahead(self) -> bool:
        """Plan a part of what is due soon; whether there may be more of it."""
        page = self._queries.due(BATCH, self._planned_to, ahead=AHEAD_SECONDS)
        for one in page.due:
            plan = self._planned_anew(one, one.next_run_at)
            if plan is not None:
                self._planned[one.id] = plan
        self._planned_to = page.due[-1] if page.due else self._planned_to
        return len(page.due) == BATCH

    def _plan(self, due: Due, now: datetime) -> Firing | None:
        """What to fire; None if a schedule cannot be read here."""
        plan = self._planned.pop(due.id, None)
        if plan is None or (plan.version, plan.expected) != (due.version, due.next_fire):
            return self._planned_anew(due, now)
        return plan if now - due.next_run_at < firing.GRACE else self._planned_anew(due, now)

    def _planned_anew(self, due: Due, now: datetime) -> Firing | None:
        try:
            return firing.plan(due, now, self._prepare)
        except CallboardError as error:  # an older data base of zones, for example: other clocks may read it
            self._complain(due.id, due.version, error.message)
        except Exception as error:  # whatever a check of a user's own raises: the others must not wait for it
            self._complain(due.id, due.version, type(error).__name__)
        return None

    def _fired(self, plans: list[Firing], answer: "Future[int]") -> int:
        try:
            return answer.result(PATIENCE_SECONDS)
        except (CallboardError, TimeoutError):
            raise
        except Exception as error:  # one of them cannot be recorded, and the others must not wait for it
            if len(plans) == 1:
                self._complain(plans[0].schedule, plans[0].version, type(error).__name__)
                return 0
            return sum(self._fired([one], next(self._ledgers).fire([one])) for one in plans)

    def _complain(self, schedule: UUID, version: int, why: str) -> None:
        if (schedule, version) not in self._complained:
            self._complained.add((schedule, version))
            log.warning("the schedule %s cannot be fired: %s", schedule, why)

    def _forget(self) -> None:
        if time.monotonic() - self._forgot_at < FORGET_SECONDS:
            return
        self._forgot_at = time.monotonic()
        self._planned.clear()  # also what was deleted or changed meanwhile
        self._planned_to = None
        for _ in range(MOST_FORGETS):
            if next(self._ledgers).forget_fires(self._kept).result(PATIENCE_SECONDS) < FORGOTTEN_AT_ONCE:
                break
