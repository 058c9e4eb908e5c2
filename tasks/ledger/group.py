"""Group commit: verbs that arrive while a transaction is in flight share the next one.

One thread and one connection a group. Nobody waits for a fixed time: an idle group commits a single verb
at once, a busy one commits hundreds together. A group's statements never wait for a row lock; what they
skip goes into the next group.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from itertools import groupby
from typing import Any
from uuid import UUID

import msgspec
import psycopg

from tasks.database import COMMITTING, dial, in_transaction
from tasks.errors import CallboardError, Unavailable
from tasks.frequency import Frequency
from tasks.herald import Herald
from tasks.ledger import callbacks, concurrency, dependencies, fingerprints, statistics
from tasks.ledger.transaction import (
    SECONDS_PER_PRIORITY,
    SKIPPED,
    NoOutlet,
    Outlet,
    Statement,
    Transaction,
)
from tasks.plans import BY_INDEX, FORGET, LOOK_SECONDS, SIZES, are_stale

log = logging.getLogger("callboard.ledger")

MOST_ROWS = 1_000
MOST_BYTES = 8 << 20
#: From so many verbs on that wait, steps are not told apart any more (see `Group.add`).
CROWDED = 10_000
#: From so many a moment on (`tasks.frequency`) verbs that can wait do so: so long, until they are so many.
MANY, GATHER_SECONDS, MOST_GATHERED = 50, 0.005, 256
SKIP_PAUSE = 0.002
LONGEST_PAUSE = "5s"
#: For so long a queue is taken to be there still: somebody else may have deleted it.
KNOWN_SECONDS = 1.0
RECONNECT_PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0)
_OPEN = "INSERT INTO dispatches (id, owner) VALUES (%s, %s) ON CONFLICT DO NOTHING"
CONNECTION_LOST = (psycopg.OperationalError, psycopg.InterfaceError)
TRY_AGAIN = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)
#: The classes of SQLSTATE that say that Postgres is away, full or going down, not that a verb is wrong.
AWAY = ("08", "53", "57P", "58", "25006")


class Verb(msgspec.Struct, eq=False):
    """One call of a ledger verb. ``size`` is in bytes, ``deadline`` on the monotonic clock."""

    kind: str
    item: Any
    size: int
    rows: int
    deadline: float | None
    key: Hashable = None
    step: object = None
    can_wait: bool = False
    future: Future[Any] = msgspec.field(default_factory=Future)
    taken: bool = False

    def take(self) -> bool:
        """Take the verb into a group; False if its caller gave up before (from now on nobody can)."""
        if not self.taken:
            self.taken = self.future.set_running_or_notify_cancel()
        return self.taken and not self.future.done()


class Group:
    """A queue of verbs and the thread that commits them."""

    def __init__(
        self,
        url: str,
        statements: Mapping[str, Statement],
        owner: UUID,
        herald: Herald,
        *,
        outlet: Outlet | None = None,
        synchronous: bool = True,
        seconds_per_priority: float = SECONDS_PER_PRIORITY,
    ) -> None:
        self._url = url
        self._statements = statements
        self._order = {kind: place for place, kind in enumerate(statements)}
        self._owner = owner
        self._synchronous = synchronous
        self._seconds_per_priority = seconds_per_priority
        self._herald = herald
        self.outlet: Outlet = outlet or NoOutlet()
        self._waiting: deque[Verb] = deque()
        self._last: dict[Hashable, Verb] = {}
        self._wake = threading.Condition()
        self._closing = self._closed = False
        self._connection: psycopg.Connection[Any] | None = None
        self._failures = 0
        self._known_queues: set[str] = set()
        self._known_since = self._planned_since = self._looked_since = time.monotonic()
        self._planned_sizes: Sequence[int] = (0,) * 5
        self._unhurried = Frequency()
        self._commits = self._verbs = self._largest = 0
        self._thread = threading.Thread(target=self._run, name="callboard-group", daemon=True)

    def start(self) -> "Group":
        """Start the committing thread."""
        self._thread.start()
        return self

    def close(self, timeout: float = 10.0) -> None:
        """Commit what waits, then stop; verbs that cannot be committed in ``timeout`` seconds fail."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(timeout)
        with self._wake:
            self._closed = True
        _refuse(self._take_all(), Unavailable("The process stopped before this could be recorded."))

    def add(
        self,
        kind: str,
        item: Any,
        *,
        size: int = 0,
        rows: int = 1,
        patience: float | None = None,
        key: Hashable = None,
        step: object = None,
        can_wait: bool = False,
    ) -> Future[Any]:
        """Queue a verb. Its future fails with Unavailable after ``patience`` seconds without Postgres.

        Of verbs with the same ``key`` that follow each other and are of the same ``step`` (None never is)
        only the newest is kept while they wait, and they share a future. What ``can_wait`` for a few
        milliseconds shares its transaction with more of its kind, where many come.
        """
        deadline = None if patience is None else time.monotonic() + patience
        verb = Verb(kind, item, size, rows, deadline, key, step, can_wait)
        if can_wait:
            self._unhurried.count()
        with self._wake:
            if self._closed:
                _refuse([verb], Unavailable("The process is stopping; nothing is recorded any more."))
                return verb.future
            last = self._last.get(key) if step is not None else None
            if last is not None and last.step is not None and (last.step == step or self.is_crowded):
                last.item = item
                return last.future
            if key is not None:
                self._last[key] = verb
            self._waiting.append(verb)
            if not can_wait or len(self._waiting) in (1, MOST_GATHERED):
                self._wake.notify()
        return verb.future

    @property
    def is_crowded(self) -> bool:
        """Whether very much waits, because Postgres is slow or away."""
        return len(self._waiting) >= CROWDED

    def sizes(self) -> dict[str, int]:
        """How many groups were committed, of how many verbs, and the largest since this was last asked."""
        largest, self._largest = self._largest, 0
        return {"commits": self._commits, "verbs": self._verbs, "largest_group": largest}

    def _run(self) -> None:
        while (verbs := self._next_group()) is not None:
            try:
                self._commit(verbs)
            except Exception as error:
                self._wait_for_postgres(verbs, error)
        if self._connection is not None:
            self._connection.close()

    def _next_group(self) -> list[Verb] | None:
        """The verbs that wait, as many as one group takes; None when there will be no more."""
        with self._wake:
            while not self._waiting:
                if self._closing:
                    return None
                self._wake.wait()
            self._gather()
            verbs: list[Verb] = []
            size = rows = 0
            while self._waiting and rows < MOST_ROWS and size <= MOST_BYTES:
                verb = self._waiting.popleft()
                if self._last.get(verb.key) is verb:
                    del self._last[verb.key]
                if verb.take():
                    verbs.append(verb)
                    size += verb.size
                    rows += verb.rows
            return verbs

    def _gather(self) -> None:
        """Where many come that can wait, one transaction for some of them costs far less than many."""
        if self._unhurried.lately >= MANY:
            until = time.monotonic() + GATHER_SECONDS
            while not (self._is_urgent() or self._closing) and (left := until - time.monotonic()) > 0:
                self._wake.wait(left)

    def _is_urgent(self) -> bool:
        return len(self._waiting) >= MOST_GATHERED or not all(verb.can_wait for verb in self._waiting)

    def _take_all(self) -> list[Verb]:
        with self._wake:
            verbs = list(self._waiting)
            self._waiting.clear()
            self._last.clear()
            return verbs

    def _commit(self, verbs: list[Verb]) -> None:
        """Commit a group; an error of its data splits it, so that one bad verb harms no other."""
        if not verbs:
            return
        try:
            outcomes = self._transact(verbs)
        except TRY_AGAIN:
            self._put_back(verbs)
        except Exception as error:
            if self._is_away(error):
                raise
            if len(verbs) == 1:
                verbs[0].future.set_exception(error)
                return
            for verb in verbs:
                self._commit([verb])
        else:
            self._settle(verbs, outcomes)

    def _is_away(self, error: Exception) -> bool:
        """Whether Postgres is to blame: try again then. psycopg calls many a wrong value operational too."""
        if not isinstance(error, psycopg.Error):
            return False
        if self._connection is None or self._connection.closed:
            return True
        if error.sqlstate is None:  # from the driver: it lost the connection, or it refused a value
            return isinstance(error, CONNECTION_LOST)
        return error.sqlstate.startswith(AWAY)

    def _settle(self, verbs: list[Verb], outcomes: list[Any]) -> None:
        skipped = [verb for verb, outcome in zip(verbs, outcomes, strict=True) if outcome is SKIPPED]
        for verb, outcome in zip(verbs, outcomes, strict=True):
            if isinstance(outcome, CallboardError):  # this verb is refused; the others are not
                verb.future.set_exception(outcome)
            elif outcome is not SKIPPED:
                verb.future.set_result(outcome)
        if skipped:
            self._put_back(skipped)
            if len(skipped) == len(verbs):
                time.sleep(SKIP_PAUSE)

    def _put_back(self, verbs: list[Verb]) -> None:
        with self._wake:
            self._waiting.extendleft(reversed(verbs))

    def _transact(self, verbs: list[Verb]) -> list[Any]:
        connection = self._connect()
        with in_transaction(connection), connection.cursor() as cursor:
            tx = Transaction(
                cursor, self._owner, outlet=self.outlet, seconds_per_priority=self._seconds_per_priority
            )
            outcomes: dict[int, Any] = {}
            for kind, members in self._by_kind(verbs):
                results = self._statements[kind](tx, [verb.item for verb in members])
                outcomes.update(zip(map(id, members), results, strict=True))
            dependencies.follow(tx)
            concurrency.follow(tx)
            fingerprints.follow(tx)
            statistics.count(tx)
            callbacks.follow(tx)
            self._record_dispatch(tx)
            self._forget_stale_plans(tx)
        self._failures = 0
        self._commits += 1
        self._verbs += len(verbs)
        self._largest = max(self._largest, len(verbs))
        self._known_queues |= tx.queues_seen
        self._tell(tx)
        return [outcomes[id(verb)] for verb in verbs]

    def _by_kind(self, verbs: list[Verb]) -> Iterator[tuple[str, list[Verb]]]:
        ordered = sorted(verbs, key=lambda verb: self._order[verb.kind])
        for kind, members in groupby(ordered, key=lambda verb: verb.kind):
            yield kind, list(members)

    def _record_dispatch(self, tx: Transaction) -> None:
        if time.monotonic() - self._known_since > KNOWN_SECONDS:
            self._known_queues.clear()
            self._known_since = time.monotonic()
        for queue in sorted(tx.queues_seen - self._known_queues):
            tx.execute("INSERT INTO queues (name) VALUES (%s) ON CONFLICT DO NOTHING", queue)
        for dispatch in sorted({one.dispatch for one in tx.publications}):
            tx.execute(_OPEN, dispatch, self._owner)

    def _forget_stale_plans(self, tx: Transaction) -> None:
        now = time.monotonic()
        if now - self._looked_since < LOOK_SECONDS:
            return
        self._looked_since = now
        (sizes,) = tx.rows(SIZES)
        if are_stale(now - self._planned_since, self._planned_sizes, sizes):
            self._planned_since, self._planned_sizes = now, sizes
            tx.execute(FORGET)

    def _tell(self, tx: Transaction) -> None:
        by_dispatch = sorted(tx.publications, key=lambda one: one.dispatch)
        for dispatch, publications in groupby(by_dispatch, key=lambda one: one.dispatch):
            self.outlet.publish(dispatch, list(publications))
        for kind, item, rows in tx.follow_ups:
            self.add(kind, item, rows=rows)
        self._herald.tell(tx.notices, tx.moved)

    def _connect(self) -> psycopg.Connection[Any]:
        if self._connection is None or self._connection.closed:
            self._connection = dial(self._url)
            # A process that is frozen in the middle of a transaction must not hold up all others.
            self._connection.execute(f"SET idle_in_transaction_session_timeout = '{LONGEST_PAUSE}'")
            self._connection.execute(BY_INDEX)
            self._connection.execute(f"SELECT pg_advisory_lock_shared({COMMITTING}, 0)")
            if not self._synchronous:
                self._connection.execute("SET synchronous_commit = off")
        return self._connection

    def _wait_for_postgres(self, verbs: list[Verb], error: Exception) -> None:
        """Keep the verbs for the next try; every verb is safe to repeat after a commit of unknown outcome."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        now = time.monotonic()
        expired = [verb for verb in verbs if verb.deadline is not None and verb.deadline <= now]
        _refuse(expired, Unavailable(f"Postgres cannot record this now: {error}"))
        waiting = set(map(id, self._waiting))  # the split may have put some back already
        self._put_back([verb for verb in verbs if not verb.future.done() and id(verb) not in waiting])
        if self._failures == 0:
            log.warning("Postgres cannot be reached, trying again: %s", error)
        pause = RECONNECT_PAUSES[min(self._failures, len(RECONNECT_PAUSES) - 1)]
        self._failures += 1
        with self._wake:
            if not self._closing:
                self._wake.wait(pause)
        if self._closing and self._failures > len(RECONNECT_PAUSES):
            _refuse(self._take_all(), Unavailable("Postgres was gone when the process stopped."))


def _refuse(verbs: list[Verb], error: Exception) -> None:
    for verb in verbs:
        if verb.take():
            verb.future.set_exception(error)
