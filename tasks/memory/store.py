"""What is in memory: a row for each task, and the moves that verbs have in common."""

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec

from tasks.states import BLOCKED, CANCELLED, COMPLETED, FAILED, FINAL, QUEUED, RUNNING, SCHEDULED
from tasks.values import Accepted, Claimed, NewTask, Reusable

SECONDS_PER_PRIORITY = 60
#: A task that was running in this many processes when they died fails as worker_lost.
MOST_DEATHS = 3


class Clock:
    """The time of a record: the machine's, and as much later as it was advanced."""

    def __init__(self) -> None:
        self._ahead = timedelta()

    def now(self) -> datetime:
        """The time, in UTC."""
        return datetime.now(UTC) + self._ahead

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass at once."""
        self._ahead += timedelta(seconds=seconds)


@dataclass
class Ended:
    """An attempt that ended in anything but success."""

    attempt: int
    outcome: str
    status: str
    error: dict[str, Any] | None
    traceback: str | None
    started_at: datetime | None
    started_event: int | None
    ended_at: datetime
    ended_event: int


@dataclass
class Told:
    """An event that cannot be derived."""

    event_id: int
    kind: str
    status: str
    at: datetime
    phase: str | None = None
    progress: float | None = None
    message: str | None = None
    data: dict[str, Any] | None = None


@dataclass(eq=False)
class Row:
    """A task: what was asked, and what happened."""

    new: NewTask
    created_at: datetime
    run_at: datetime | None
    status: str
    ready_at: datetime
    updated_at: datetime
    rank: float = 0.0
    token: int | None = None
    worker: UUID | None = None
    attempt: int = 0
    failures: int = 0
    deaths: int = 0
    suspect: bool = False
    snapshot: int = 0
    events: int = 1
    running_event: int | None = None
    progress: float = 0.0
    phase: str | None = None
    message: str | None = None
    details: dict[str, Any] | None = None
    result: Any = None
    error: dict[str, Any] | None = None
    round: int = 0
    started_at: datetime | None = None
    finished_at: datetime | None = None
    attempts: list[Ended] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    snapshots: dict[int, Any] = field(default_factory=dict)
    needs: set[UUID] = field(default_factory=set)
    #: Of its needs, those that had completed when they were removed.
    met: set[UUID] = field(default_factory=set)

    @property
    def is_over(self) -> bool:
        """Whether its state is final."""
        return self.status in FINAL

    def holds(self, claim: Claimed) -> bool:
        """Whether a claim still holds."""
        return self.status == RUNNING and self.token == claim.token

    def tell(self, kind: str, status: str, at: datetime, **more: Any) -> None:
        """Add the next event."""
        self.events += 1
        self.told.append(Told(self.events, kind, status, at, **more))

    def end_attempt(
        self, outcome: str, status: str, at: datetime, traceback: str | None = None, *, why: bool = False
    ) -> None:
        """Keep the attempt that ends now; its end is the next event."""
        error = self.error if why else None
        self.attempts.append(
            Ended(
                self.attempt,
                outcome,
                status,
                error,
                traceback,
                self.started_at,
                self.running_event,
                at,
                self.events + 1,
            )
        )

    def end(self, status: str, at: datetime) -> None:
        """Move to a final state."""
        self.status, self.finished_at, self.updated_at = status, at, at
        self.events += 1

    def rank_by(self, due: datetime) -> None:
        """Take a place in the order of work."""
        self.rank = due.timestamp() - self.new.priority * SECONDS_PER_PRIORITY


class Store:
    """All rows, and the moves that more than one verb makes. Hold its lock to use it."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.lock = threading.RLock()
        self.rows: dict[UUID, Row] = {}
        self.keys: dict[tuple[str, str, str], tuple[datetime, str, list[UUID]]] = {}
        #: Outputs that are kept for the same input, and until when.
        self.outputs: dict[bytes, tuple[datetime, Reusable]] = {}

    def stages(self, run_id: UUID) -> list[Row]:
        """The stages of a run, by name and index."""
        found = [row for row in self.rows.values() if row.new.run_id == run_id]
        return sorted(found, key=lambda row: (row.new.stage or "", row.new.stage_index or 0))

    def run_is_over(self, row: Row) -> bool:
        """Whether a task is a stage of a run that is over."""
        run = self.rows.get(row.new.run_id) if row.new.run_id else None
        return run is not None and run.is_over

    def has_place(self, row: Row) -> bool:
        """Whether as few tasks with its key run as may."""
        key, most = row.new.concurrency_key, row.new.concurrency
        if key is None or most is None:
            return True
        return (
            sum(one.status == RUNNING and one.new.concurrency_key == key for one in self.rows.values()) < most
        )

    def insert(self, tasks: Sequence[NewTask]) -> None:
        """Insert tasks; those that are there already stay."""
        places = {(row.new.run_id, row.new.stage, row.new.stage_index) for row in self.rows.values()}
        for task in tasks:
            place = (task.run_id, task.stage, task.stage_index)
            if task.id not in self.rows and (task.run_id is None or place not in places):
                places.add(place)
                self.rows[task.id] = self._row(task)
        self.follow(task.id for task in tasks)

    def _row(self, task: NewTask) -> Row:
        now = self.clock.now()
        due = task.run_at or (now + timedelta(seconds=task.delay) if task.delay is not None else now)
        met = all(need in self.rows and self.rows[need].status == COMPLETED for need in task.depends_on)
        status = BLOCKED if not met else SCHEDULED if due > now else QUEUED
        kept = msgspec.structs.replace(task, payload=as_json(task.payload))
        row = Row(kept, now, due if due > now else None, status, max(due, now), now)
        row.rank_by(row.ready_at)
        if not met:
            row.told.append(Told(1, "state", BLOCKED, now))
            row.needs = set(task.depends_on)
        return row

    def accepted(self, ids: Iterable[UUID]) -> list[Accepted]:
        """Tasks as they were committed."""
        rows = [(one, self.rows[one]) for one in ids if one in self.rows]
        return [Accepted(one, row.status, row.created_at, row.run_at) for one, row in rows]

    def clear(self, rows: Iterable[Row]) -> list[UUID]:
        """Cancel what is unfinished of some rows; the ids of what was."""
        now, cleared = self.clock.now(), []
        for row in rows:
            if not row.is_over:
                if row.status == RUNNING and not row.new.is_run:
                    row.end_attempt("cancelled", CANCELLED, now)
                row.end(CANCELLED, now)
                cleared.append(row.new.id)
        return cleared

    def lose(self, row: Row, how: str, *, blame: bool) -> None:
        """The process that ran a task is gone: queue it again, or fail it as poison."""
        now = self.clock.now()
        row.deaths += int(blame)
        count = f" ({row.deaths} of {MOST_DEATHS})" if blame else ""
        row.error = {"code": "worker_lost", "message": f"{how}{count}."}
        next_ = FAILED if row.deaths >= MOST_DEATHS else QUEUED
        row.end_attempt("lost", next_, now, why=True)
        row.token, row.suspect = None, True
        row.rank -= 1
        if next_ == FAILED:
            row.end(FAILED, now)
            self.follow([row.new.id])
        else:
            row.status, row.updated_at = QUEUED, now
            row.events += 1

    def follow(self, ended: Iterable[UUID]) -> None:
        """Look at those who wait for tasks to which something happened."""
        ids = set(ended)
        while ids:
            waiting = [
                row
                for row in self.rows.values()
                if row.status == BLOCKED and (ids & row.needs or row.new.id in ids)
            ]
            ids = {row.new.id for row in waiting if self.unblock(row) and row.status == FAILED}

    def unblock(self, row: Row) -> bool:
        """Let a blocked task go on, or fail, if it can; whether it moved."""
        blame = self._blame(row)
        left = row.needs - row.met
        waits = any(need not in self.rows or self.rows[need].status != COMPLETED for need in left)
        if blame is None and waits:
            return False
        now = self.clock.now()
        row.needs = set()
        if blame is not None:
            row.error = {"code": "dependency_failed", "message": blame}
            row.end(FAILED, now)
            return True
        due = max(row.ready_at, now)
        row.status, row.ready_at, row.updated_at = SCHEDULED if due > now else QUEUED, due, now
        row.rank_by(due)
        row.tell("state", row.status, now)
        return True

    def _blame(self, row: Row) -> str | None:
        words = {"gone": "is gone"}
        if row.new.on_dependency_failure == "fail":
            words |= {FAILED: "failed", CANCELLED: "was cancelled"}
        for need in sorted(row.needs - row.met):
            status = self.rows[need].status if need in self.rows else "gone"
            if status in words:
                return f"Task {need}, on which it depends, {words[status]}."
        return None


def as_json(value: Any) -> Any:
    """A value as JSON gives it back, apart from the caller's."""
    return msgspec.json.decode(msgspec.json.encode(value))
