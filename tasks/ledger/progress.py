"""The verb report: progress and log lines, written by a group of its own that does not wait for the disk.

After a commit of unknown outcome a report may be told twice, under two ids; that harms nobody.
"""

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

import msgspec

from tasks.ledger.transaction import Transaction, as_json, left_behind, skipped

#: How many reports and lines of a task are kept, each; a few more until the next time that it is looked at.
KEPT = 1_000
PRUNED_EVERY = 250
#: Steps are told one by one up to so many.
MOST_STEPS = 100


class Report(msgspec.Struct, frozen=True):
    """How far an attempt is (``progress`` is 0-100), or a line that it logged (``progress`` is None)."""

    id: UUID
    token: int
    progress: float | None
    phase: str | None
    message: str | None
    details: dict[str, Any] | None

    @property
    def step(self) -> object:
        """Reports of the same step may be told by the newest of them alone; None: it is always told."""
        if self.progress is None:
            return None
        details = self.details or {}
        total = details.get("steps_total")
        in_steps = isinstance(total, int) and total <= MOST_STEPS
        return self.phase, details.get("steps_done") if in_steps else int(self.progress)


_REPORT = """
WITH input AS (
    SELECT * FROM jsonb_to_recordset(%s::jsonb) AS i(place integer, id uuid, token bigint, progress real,
        phase text, message text, details jsonb)
), newest AS (
    SELECT * FROM jsonb_to_recordset(%s::jsonb) AS n(id uuid, token bigint, count integer, progress real,
        phase text, message text, details jsonb)
), locked AS (
    SELECT s.id, s.token, s.events FROM task_state s JOIN newest n ON s.id = n.id AND s.token = n.token
    WHERE s.status = 'running' ORDER BY s.id FOR NO KEY UPDATE OF s SKIP LOCKED
), told AS (
    INSERT INTO events (task_id, event_id, kind, status, phase, progress, message, data)
    SELECT id, locked.events + row_number() OVER (PARTITION BY id ORDER BY i.place),
        CASE WHEN i.progress IS NULL THEN 'log' ELSE 'progress' END, 'running', i.phase, i.progress,
        i.message, i.details
    FROM locked JOIN input i USING (id, token)
)
UPDATE task_state s SET progress = coalesce(n.progress, s.progress), phase = coalesce(n.phase, s.phase),
    message = CASE WHEN n.progress IS NULL THEN s.message ELSE n.message END,
    details = coalesce(n.details, s.details), events = s.events + n.count, updated_at = now()
FROM locked JOIN newest n USING (id, token) WHERE s.id = locked.id
RETURNING s.id, s.token, locked.events, s.events"""

_PRUNE = f"""
DELETE FROM events e USING (
    SELECT crowded.id, kinds.kind, (
        SELECT event_id FROM events x WHERE x.task_id = crowded.id AND x.kind = kinds.kind
        ORDER BY event_id DESC OFFSET {KEPT} LIMIT 1) AS newest
    FROM unnest(%s::uuid[]) AS crowded(id), (VALUES ('progress'), ('log')) AS kinds(kind)
) AS old WHERE e.task_id = old.id AND e.kind = old.kind AND e.event_id <= old.newest"""


def report(tx: Transaction, items: Sequence[Report]) -> list[object]:
    """Tell all reports in their order: True for each, False for a stale token, SKIPPED if locked."""
    rows = [{"place": place} | msgspec.structs.asdict(item) for place, item in enumerate(items)]
    moved = tx.moves(_REPORT, as_json(rows), as_json(_newest(items)))
    crowded = [row[0] for row in moved if row[2] // PRUNED_EVERY != row[3] // PRUNED_EVERY]
    if crowded:
        tx.execute(_PRUNE, crowded)
    written = {(row[0], row[1]) for row in moved}
    unwritten = [item.id for item in items if (item.id, item.token) not in written]
    left = left_behind(tx, "running", "token", unwritten)
    return [(item.id, item.token) in written or skipped(left.get(item.id) == item.token) for item in items]


def _newest(items: Iterable[Report]) -> list[dict[str, Any]]:
    """What the columns of each attempt become, and how many events it has more."""
    found: dict[tuple[UUID, int], dict[str, Any]] = {}
    for item in items:
        row = found.setdefault((item.id, item.token), {"id": item.id, "token": item.token, "count": 0})
        row["count"] += 1
        if item.progress is not None:
            row |= {"progress": item.progress, "message": item.message}
            row |= {"phase": item.phase} if item.phase is not None else {}
            row |= {"details": item.details} if item.details is not None else {}
    return list(found.values())
