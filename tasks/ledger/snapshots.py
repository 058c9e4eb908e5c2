"""The verb checkpoint: a task saves a state, and its next attempt starts with it."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec

from tasks.ledger.transaction import SKIPPED, Transaction, as_json
from tasks.values import Claimed, Json

#: Older versions of a task's snapshots are removed.
KEPT_VERSIONS = 20


class Checkpoint(msgspec.Struct, frozen=True):
    """A state to save. It is repeated safely: a version is written once."""

    id: UUID
    token: int
    version: int
    state: Any


# Versions are counted by the attempt that holds the token, so nobody else writes the same one.
_SAVE = """
WITH input AS (
    SELECT DISTINCT ON (id) * FROM jsonb_to_recordset(%s::jsonb)
    AS i(id uuid, token bigint, version integer, state jsonb) ORDER BY id, version
), locked AS (
    SELECT s.id, s.events, i.version, i.state FROM task_state s JOIN input i USING (id)
    WHERE s.status = 'running' AND s.token = i.token AND s.snapshot < i.version
    ORDER BY s.id FOR NO KEY UPDATE OF s SKIP LOCKED
), saved AS (
    INSERT INTO snapshots (task_id, version, state) SELECT id, version, coalesce(state, 'null') FROM locked
), pruned AS (
    DELETE FROM snapshots x USING locked WHERE x.task_id = locked.id AND x.version <= locked.version - %s
), told AS (
    INSERT INTO events (task_id, event_id, kind, status, data)
    SELECT id, events + 1, 'checkpoint', 'running', jsonb_build_object('version', version) FROM locked
)
UPDATE task_state s SET snapshot = locked.version, events = s.events + 1, updated_at = now()
FROM locked WHERE s.id = locked.id RETURNING s.id, s.snapshot"""

_REREAD = """
SELECT id, token, snapshot FROM task_state WHERE id = ANY(%s) AND status = 'running'"""

_LATEST = """
SELECT x.task_id, x.state::text FROM unnest(%s::uuid[], %s::integer[]) AS w(task_id, version)
JOIN snapshots x USING (task_id, version)"""


def checkpoint(tx: Transaction, items: Sequence[Checkpoint]) -> list[object]:
    """Save states: True, False for a stale token, SKIPPED if locked (or behind another one of its task)."""
    rows = [
        {"id": item.id, "token": item.token, "version": item.version, "state": item.state} for item in items
    ]
    saved = set(tx.moves(_SAVE, as_json(rows), KEPT_VERSIONS))
    left = [item.id for item in items if (item.id, item.version) not in saved]
    held = {row[0]: row[1:] for row in tx.rows(_REREAD, left)} if left else {}
    return [_outcome(item, saved, held.get(item.id)) for item in items]


def _outcome(item: Checkpoint, saved: set[Any], held: tuple[int, int] | None) -> object:
    if (item.id, item.version) in saved:
        return True
    if held is None or held[0] != item.token:
        return False
    return True if held[1] >= item.version else SKIPPED  # an earlier commit of unknown outcome went through


def with_states(tx: Transaction, claims: Sequence[Claimed]) -> list[Claimed]:
    """Claims with what their tasks saved last."""
    saved = [claim for claim in claims if claim.snapshot]
    if not saved:
        return list(claims)
    rows = tx.rows(_LATEST, [claim.id for claim in saved], [claim.snapshot for claim in saved])
    states = {task_id: Json(text.encode()) for task_id, text in rows}
    return [msgspec.structs.replace(claim, state=states.get(claim.id)) for claim in claims]
