"""Reading what is on RabbitMQ beside the work: copies of dead letters, and messages that are not ours."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec
from playhouse.pool import PooledPostgresqlDatabase

from tasks.database import session


class Shelf(msgspec.Struct, frozen=True):
    """What the record knows of a queue's dead letters on RabbitMQ.

    ``copies`` should be there, ``resolved`` of them are to be taken out, ``sending`` are under way just now.
    ``owed`` foreign messages are to be published again to the queue.
    """

    queue: str
    copies: int
    resolved: int
    sending: int
    owed: int

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is to be done there, nor under way."""
        return not (self.resolved or self.sending or self.owed)


class ForeignMessage(msgspec.Struct, frozen=True):
    """A message that is not ours, as it came out of ``<queue>.XQ``; ``frame`` are its properties encoded."""

    dead_letter: UUID
    queue: str
    task_type: str
    body: bytes
    frame: bytes
    resolution: str | None
    properties: dict[str, Any]


class StrayQueries:
    """All questions about copies and foreign messages."""

    def __init__(self, database: PooledPostgresqlDatabase) -> None:
        self._database = database

    def shelves(self, within: float) -> dict[str, Shelf]:
        """What should be in the dead letters of every queue; RabbitMQ keeps a copy for ``within`` seconds."""
        return {row[0]: Shelf(*row) for row in self._rows(_SHELVES, {"within": within})}

    def copies(self, queue: str, within: float) -> set[UUID]:
        """The letters whose copy should be in a queue of dead letters."""
        return {row[0] for row in self._rows(_COPIES, {"queue": queue, "within": within})}

    def to_remove(self, queue: str) -> set[UUID]:
        """The letters of a queue whose message has to leave RabbitMQ, and may be gone already."""
        return {row[0] for row in self._rows(_TO_REMOVE, {"queue": queue})}

    def resolutions(self, letters: Sequence[UUID]) -> dict[UUID, str | None]:
        """What became of those of these letters that are on record; None: they are open."""
        return dict(self._rows(_RESOLUTIONS, {"ids": list(letters)})) if letters else {}

    def known_tasks(self, ids: Sequence[UUID]) -> set[UUID]:
        """Those of these tasks that are on record."""
        return {row[0] for row in self._rows(_TASKS, {"ids": list(ids)})} if ids else set()

    def unacknowledged(self, queue: str) -> dict[bytes, list[UUID]]:
        """The foreign messages of a queue that are on record, and perhaps still there, by their digests."""
        found: dict[bytes, list[UUID]] = {}
        for digest, letter in self._rows(_UNACKNOWLEDGED, {"queue": queue}):
            found.setdefault(bytes(digest), []).append(letter)
        return found

    def owed(self, queue: str, limit: int) -> list[ForeignMessage]:
        """Foreign messages that are to be published again to a queue, in the order of their arrival."""
        return [_message(row) for row in self._rows(_OWED, {"queue": queue, "limit": limit})]

    def foreign_message(self, dead_letter: UUID) -> ForeignMessage | None:
        """The message of a dead letter that has no task; None if it is none, or is not there."""
        rows = self._rows(f"{_FOREIGN} WHERE d.id = %(id)s", {"id": dead_letter})
        return _message(rows[0]) if rows else None

    def _rows(self, sql: str, params: dict[str, Any]) -> list[Any]:
        with session(self._database):
            return list(self._database.execute_sql(sql, params).fetchall())


def _message(row: Any) -> ForeignMessage:
    letter, queue, task_type, body, frame, *rest = row
    return ForeignMessage(letter, queue, task_type, bytes(body), bytes(frame), *rest)


_THERE = "copied_at IS NOT NULL AND copy_removed_at IS NULL"
_KEPT = f"{_THERE} AND copied_at > now() - make_interval(secs => %(within)s::float8)"
_REMOVABLE = f"{_THERE} AND (resolution IS NOT NULL OR task_id IS NULL)"

# Workers and types name queues too that nobody has submitted to yet.
_SHELVES = f"""
SELECT q.name,
    (SELECT count(*) FROM dead_letters WHERE queue_name = q.name AND {_KEPT}),
    (SELECT count(*) FROM dead_letters WHERE queue_name = q.name AND {_REMOVABLE}),
    (SELECT count(*) FROM dead_letters WHERE dispatch IS NOT NULL AND queue_name = q.name),
    coalesce(o.owed, 0)
FROM (
    SELECT name FROM queues UNION SELECT queue_name FROM task_types UNION SELECT unnest(queues) FROM workers
) AS q(name) LEFT JOIN (
    SELECT d.queue_name, count(*) AS owed FROM foreign_messages f JOIN dead_letters d ON d.id = f.dead_letter
    WHERE f.owed GROUP BY 1
) AS o ON o.queue_name = q.name"""

_COPIES = f"SELECT id FROM dead_letters WHERE queue_name = %(queue)s AND {_KEPT}"
_TO_REMOVE = f"SELECT id FROM dead_letters WHERE queue_name = %(queue)s AND {_REMOVABLE}"
_RESOLUTIONS = "SELECT id, resolution FROM dead_letters WHERE id = ANY(%(ids)s)"
_TASKS = "SELECT id FROM tasks WHERE id = ANY(%(ids)s)"

_UNACKNOWLEDGED = f"""
SELECT f.digest, d.id FROM dead_letters d JOIN foreign_messages f ON f.dead_letter = d.id
WHERE d.queue_name = %(queue)s AND {_REMOVABLE} AND d.task_id IS NULL ORDER BY d.id"""

_FOREIGN = """
SELECT d.id, d.queue_name, d.task_type, f.body, f.frame, d.resolution, f.properties
FROM dead_letters d JOIN foreign_messages f ON f.dead_letter = d.id"""

_OWED = f"""{_FOREIGN}
WHERE f.owed AND d.queue_name = %(queue)s ORDER BY d.failed_at, d.id LIMIT %(limit)s"""
