"""What a group's statements share: the cursor, the stamp for ready rows, and what to say after the commit."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol
from uuid import UUID

import msgspec
import psycopg

from tasks.allowances import STEERED
from tasks.values import Publication

#: A verb whose rows another transaction holds: it goes into the next group (waiting could deadlock).
SKIPPED: Final = object()

#: How many seconds of waiting one step of priority is worth. The rank is stored, so ageing costs nothing.
SECONDS_PER_PRIORITY: Final = 60.0

READY_CHANNEL: Final = "callboard_ready"
CANCEL_CHANNEL: Final = "callboard_cancel"

#: Where the task ``s`` has its place: in its queue if that is steered, and among those of its key.
PLACE: Final = f"CASE WHEN {STEERED} THEN s.queue END, s.concurrency_key"


class Outlet(Protocol):
    """Where ready tasks leave for: RabbitMQ, or nowhere when workers fetch from Postgres themselves."""

    def stamp(self) -> int | None:
        """A dispatch id for rows that are about to be ready; None when none may be published now."""

    def room(self, queue: str) -> int:
        """How many more messages of a queue may be published now."""

    def publish(self, dispatch: int, publications: Sequence[Publication]) -> None:
        """Take over what a committed batch publishes; must not block."""


class NoOutlet:
    """The outlet of a process that publishes nothing."""

    def stamp(self) -> int | None:
        """Never a stamp: rows stay for a dispatcher, or for workers that fetch."""
        return None

    def room(self, queue: str) -> int:
        """None: without a stamp it does not matter."""
        return 0

    def publish(self, dispatch: int, publications: Sequence[Publication]) -> None:
        """Nothing is ever stamped, so there is nothing to publish."""


class Transaction:
    """One transaction of a group, as its statements see it."""

    def __init__(
        self,
        cursor: psycopg.Cursor[Any],
        owner: UUID,
        *,
        outlet: Outlet,
        seconds_per_priority: float,
    ) -> None:
        self.cursor = cursor
        self.owner = owner
        self.stamp = outlet.stamp()
        self.room = outlet.room
        self.seconds_per_priority = seconds_per_priority
        self.publications: list[Publication] = []
        #: Tasks that reached a final state here: others may wait for them.
        self.ended: set[UUID] = set()
        #: Whether there are new dead letters here that have no fingerprint yet.
        self.has_unmarked = False
        #: Those of them that are in the statistics already.
        self.counted: set[UUID] = set()
        #: Tasks whose attempt ended badly here and is followed by another one, not yet in the statistics.
        self.retried: set[UUID] = set()
        #: The keys of tasks that gave a place back here: others may be parked for it.
        self.freed: set[str] = set()
        #: Verbs that are due after the commit, as (kind, item, rows).
        self.follow_ups: list[tuple[str, Any, int]] = []
        self.queues_seen: set[str] = set()
        self.notices: list[tuple[str, str]] = []
        #: Tasks that have new events here: who follows them is told.
        self.moved: set[UUID] = set()

    def rows(self, sql: str, *params: Any) -> list[Any]:
        """Execute a statement that returns rows."""
        return self.cursor.execute(sql, params).fetchall()

    def named(self, sql: str, params: Mapping[str, Any]) -> list[Any]:
        """Execute a statement with named parameters that returns rows."""
        return self.cursor.execute(sql, params).fetchall()

    def execute_named(self, sql: str, params: Mapping[str, Any]) -> None:
        """Execute a statement with named parameters whose rows, if any, do not matter."""
        self.cursor.execute(sql, params)

    def moves(self, sql: str, *params: Any) -> list[Any]:
        """Execute a statement that gives tasks new events and returns rows; each begins with a task's id."""
        return self.moved_by(self.rows(sql, *params))

    def moved_by(self, rows: list[Any]) -> list[Any]:
        """Remember the tasks that rows begin with: they have new events. Gives the rows back."""
        self.moved.update(row[0] for row in rows)
        return rows

    def fell(self, ids: Collection[UUID]) -> None:
        """Remember tasks that failed for good here, for a reason that the statement itself found."""
        self.ended.update(ids)
        self.has_unmarked = self.has_unmarked or bool(ids)

    def freed_by(self, rows: list[Any]) -> list[Any]:
        """Remember whose places are free: rows end with a `PLACE`, that of a task which runs no more."""
        self.freed.update(row[-1] for row in rows if row[-1] is not None)
        for queue in {row[-2] for row in rows if row[-2] is not None}:
            self.notify(READY_CHANNEL, queue)
        return rows

    def planned(self, sql: str, params: Mapping[str, Any]) -> list[Any]:
        """As `named`, but never prepared: a plan kept since the table was small may compare all with all."""
        return self.cursor.execute(sql, params, prepare=False).fetchall()

    def execute(self, sql: str, *params: Any) -> None:
        """Execute a statement whose rows, if any, do not matter."""
        self.cursor.execute(sql, params)

    def notify(self, channel: str, text: str = "") -> None:
        """Say something on a channel after the commit (inside, NOTIFY would serialise all commits)."""
        if (channel, text) not in self.notices:
            self.notices.append((channel, text))

    def follow_up(self, kind: str, item: Any, rows: int) -> None:
        """Call another verb, about so many rows, after the commit."""
        self.follow_ups.append((kind, item, rows))

    def made_ready(self, count: int) -> int:
        """Wake those who wait for work, if ``count`` tasks became ready; gives the count back."""
        if count:
            self.notify(READY_CHANNEL)
        return count


def left_behind(tx: Transaction, status: str, column: str, ids: Sequence[UUID]) -> dict[UUID, Any]:
    """What a statement did not move although it is still in the state that it leaves: id to ``column``."""
    sql = f"SELECT id, {column} FROM task_state WHERE id = ANY(%s) AND status = %s"
    return dict(tx.rows(sql, list(ids), status)) if ids else {}


def skipped(locked: bool) -> object:
    """The outcome of what was not moved: SKIPPED if it is only locked, False if it is stale."""
    return SKIPPED if locked else False


#: Executes all items of one kind at once; its outcomes are aligned with the items.
Statement = Callable[[Transaction, Sequence[Any]], Sequence[Any]]


def as_array(ids: Iterable[UUID]) -> str:
    """The text of an array of ids: psycopg would spend longer on a list of them than Postgres on its rows."""
    return "{" + ",".join([one.hex for one in ids]) + "}"


def as_json(value: Any) -> str:
    """JSON text for a parameter that Postgres reads as jsonb."""
    return msgspec.json.encode(value).decode()
