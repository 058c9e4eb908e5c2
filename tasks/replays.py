"""Reading the jobs that replay dead letters: how far they are, and what is next."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from playhouse.pool import PooledPostgresqlDatabase

from tasks.database import session
from tasks.letter_records import ActiveReplay, Candidate, ReplayItem, ReplayJob
from tasks.letters import CANDIDATE, OF_TASK, candidate


class ReplayQueries:
    """All questions about replays, on the database of a `tasks.queries.Queries`."""

    def __init__(self, database: PooledPostgresqlDatabase) -> None:
        self._database = database

    def replays(self, *, owner: str | None, limit: int, offset: int) -> tuple[list[ReplayJob], int]:
        """A part of the jobs, newest first, and how many there are; those of ``owner`` (None: all)."""
        params = {"owner": owner, "limit": limit, "offset": offset}
        with session(self._database):
            rows = self._rows(_LIST, params)
            ((total,),) = self._rows(_COUNT, params)
            return self._jobs(rows), total

    def replay(self, replay_id: UUID, *, owner: str | None) -> ReplayJob | None:
        """A job, or None if there is none or it is not ``owner``'s (None: anybody's)."""
        with session(self._database):
            rows = self._rows(_ONE, {"id": replay_id, "owner": owner})
            return self._jobs(rows)[0] if rows else None

    def items(
        self, replay_id: UUID, status: str | None, *, limit: int, offset: int
    ) -> tuple[list[ReplayItem], int]:
        """A part of the items of a job (of one ``status``), in its order, and how many there are."""
        params = {"id": replay_id, "status": status, "limit": limit, "offset": offset}
        with session(self._database):
            rows = self._rows(_ITEMS, params)
            ((total,),) = self._rows(_COUNT_ITEMS, params)
        return [
            ReplayItem(**dict(zip(ReplayItem.__struct_fields__, row, strict=True))) for row in rows
        ], total

    def active(self) -> list[ActiveReplay]:
        """The jobs that have work to do now, the oldest first."""
        with session(self._database):
            return [ActiveReplay(*row) for row in self._rows(_ACTIVE, {})]

    def next_items(self, replay_id: UUID, *, limit: int, payloads: bool) -> list[Candidate]:
        """The next pending items of a job."""
        params = {"id": replay_id, "limit": limit, "payloads": payloads}
        with session(self._database):
            return [candidate(row) for row in self._rows(_NEXT, params)]

    def _jobs(self, rows: Sequence[Any]) -> list[ReplayJob]:
        counts: dict[UUID, dict[str, int]] = defaultdict(lambda: dict.fromkeys(_STATUSES, 0))
        outcomes: dict[UUID, dict[str, int]] = defaultdict(dict)
        for replay_id, status, outcome, count in self._rows(_TALLY, {"ids": [row[0] for row in rows]}):
            counts[replay_id][status] += count
            if outcome is not None:
                outcomes[replay_id][outcome] = count
        return [
            ReplayJob(
                **dict(zip(_COLUMNS, row, strict=True)), counts=counts[row[0]], outcomes=outcomes[row[0]]
            )
            for row in rows
        ]

    def _rows(self, sql: str, params: Any) -> list[Any]:
        return list(self._database.execute_sql(sql, params).fetchall())


_STATUSES = ("pending", "replayed", "skipped")
_COLUMNS = (
    *("replay_id", "status", "reason", "filter", "payload_patch", "canary", "rate", "limit", "created_by"),
    *("created_at", "started_at", "ended_at", "size"),
)
_JOB = """
SELECT id, status, reason, filter, payload_patch, canary, rate, most, created_by, created_at, started_at,
    ended_at, size FROM replays WHERE (%(owner)s::text IS NULL OR owner = %(owner)s)"""
_LIST = f"{_JOB} ORDER BY created_at DESC, id DESC LIMIT %(limit)s OFFSET %(offset)s"
_ONE = f"{_JOB} AND id = %(id)s"
_COUNT = "SELECT count(*) FROM replays WHERE (%(owner)s::text IS NULL OR owner = %(owner)s)"

# A later round of the task has another ticket; how the round of this one ended was kept then.
_OUTCOME = "coalesce(i.outcome, CASE WHEN s.opened_by = i.ticket THEN s.status END)"
_OF_ITEMS = "FROM replay_items i LEFT JOIN task_state s ON s.id = i.task_id"

_TALLY = f"""
SELECT i.replay, i.status, {_OUTCOME}, count(*) {_OF_ITEMS} WHERE i.replay = ANY(%(ids)s) GROUP BY 1, 2, 3"""

_WHICH = "i.replay = %(id)s AND (%(status)s::text IS NULL OR i.status = %(status)s)"
_ITEMS = f"""
SELECT i.position, i.dead_letter, i.task_id, i.status, i.reason, i.is_canary, {_OUTCOME}, i.replayed_at
{_OF_ITEMS} WHERE {_WHICH} ORDER BY i.position LIMIT %(limit)s OFFSET %(offset)s"""
_COUNT_ITEMS = f"SELECT count(*) FROM replay_items i WHERE {_WHICH}"

_ACTIVE = """
SELECT id, payload_patch FROM replays
WHERE status IN ('pending', 'canary', 'running') AND (next_at <= now() OR status = 'canary')
ORDER BY created_at, id"""

_NEXT = f"""
SELECT i.dead_letter, {CANDIDATE.split(",", 1)[1]}, i.position, i.ticket
FROM (
    SELECT * FROM replay_items WHERE replay = %(id)s AND status = 'pending' ORDER BY position LIMIT %(limit)s
) AS i LEFT JOIN dead_letters d ON d.id = i.dead_letter {OF_TASK} ORDER BY i.position"""
