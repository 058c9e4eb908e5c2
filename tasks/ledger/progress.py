"""The verb report: coalesced progress, written by a group of its own that does not wait for the disk."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec

from tasks.ledger.transaction import SKIPPED, Transaction, as_json


class Report(msgspec.Struct, frozen=True):
    """How far an attempt is. ``progress`` is 0-100."""

    id: UUID
    token: int
    progress: float
    phase: str | None
    message: str | None
    details: dict[str, Any] | None


_REPORT = """
WITH input AS (
    SELECT * FROM jsonb_to_recordset(%s::jsonb)
    AS i(id uuid, token bigint, progress real, phase text, message text, details jsonb)
), locked AS (
    SELECT s.id, s.events FROM task_state s JOIN input i USING (id)
    WHERE s.status = 'running' AND s.token = i.token ORDER BY s.id FOR NO KEY UPDATE OF s SKIP LOCKED
), told AS (
    INSERT INTO events (task_id, event_id, kind, status, phase, progress, message, data)
    SELECT i.id, locked.events + 1, 'progress', 'running', i.phase, i.progress, i.message, i.details
    FROM locked JOIN input i USING (id)
)
UPDATE task_state s SET progress = i.progress, phase = coalesce(i.phase, s.phase), message = i.message,
    details = coalesce(i.details, s.details), events = s.events + 1, updated_at = now()
FROM locked JOIN input i USING (id) WHERE s.id = locked.id RETURNING s.id"""


_HELD = "SELECT id, token FROM task_state WHERE id = ANY(%s) AND status = 'running'"


def report(tx: Transaction, items: Sequence[Report]) -> list[object]:
    """Keep the newest report of each task in the group: True, False for a stale token, SKIPPED if locked."""
    newest = {item.id: item for item in items}
    written = {row[0] for row in tx.rows(_REPORT, as_json(list(newest.values())))}
    left = [task_id for task_id in newest if task_id not in written]
    held = dict(tx.rows(_HELD, left)) if left else {}
    return [item.id in written or (SKIPPED if held.get(item.id) == item.token else False) for item in items]
