"""The verbs that move what nobody moves any more: promote, rescue and lose."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec

from tasks.ledger.dead_letters import BURIED
from tasks.ledger.transaction import PLACE, Transaction, as_json, left_behind, skipped
from tasks.plans import is_running

#: A task that was running in this many processes when they died is poison: it fails as worker_lost.
MOST_DEATHS = 3
BATCH = 500


class Promote(msgspec.Struct, frozen=True):
    """Make up to ``limit`` due tasks ready."""

    limit: int = BATCH


class Rescue(msgspec.Struct, frozen=True):
    """Take everything back from a process that ``died``, or that only stopped answering."""

    worker: UUID
    died: bool = True


class Lose(msgspec.Struct, frozen=True):
    """An attempt whose process of its own died; ``how`` it did is told to people."""

    id: UUID
    token: int
    how: str


_PROMOTE = """
WITH due AS (
    SELECT id, events, queue FROM task_state
    WHERE status IN ('scheduled', 'retrying') AND ready_at <= now()
    ORDER BY ready_at LIMIT %s FOR NO KEY UPDATE SKIP LOCKED
), told AS (
    INSERT INTO events (task_id, event_id, kind, status) SELECT id, events + 1, 'state', 'queued' FROM due
)
UPDATE task_state s SET status = 'queued', token = NULL, events = s.events + 1, updated_at = now()
FROM due WHERE s.id = due.id RETURNING s.id"""

_HELD = """
SELECT id, token FROM task_state WHERE worker = %s AND status = 'running' AND queue IS NOT NULL"""

# A process that only froze is no proof against its tasks: they are suspects, but no death is counted.
# What had its turn already is first among its equals, also those of one batch, which have one rank.
_LOSE = f"""
WITH input AS (
    SELECT * FROM jsonb_to_recordset(%s::jsonb) AS i(id uuid, token bigint, how text, blame smallint)
), locked AS (
    SELECT s.*, s.deaths + i.blame AS died,
        CASE WHEN s.deaths + i.blame >= {MOST_DEATHS} THEN 'failed' ELSE 'queued' END AS next,
        'WorkerLost' AS error_class, NULL AS traceback, NULL AS fingerprint,
        jsonb_build_object('code', 'worker_lost', 'message', i.how || CASE WHEN i.blame > 0
            THEN format(' (%%s of {MOST_DEATHS})', s.deaths + i.blame) ELSE '' END || '.') AS why
    FROM task_state s JOIN input i USING (id) WHERE {is_running()} AND s.token = i.token
    ORDER BY s.id FOR NO KEY UPDATE OF s SKIP LOCKED
), kept AS (
    INSERT INTO attempts (task_id, attempt, outcome, status, worker, error, started_at, started_event,
        ended_event)
    SELECT id, attempt, 'lost', next, worker, why, started_at, running_event, events + 1 FROM locked
), {BURIED}
UPDATE task_state s SET status = locked.next, deaths = locked.died, suspect = true, error = locked.why,
    rank = locked.rank - 1, token = NULL, dispatch = NULL, dispatched_at = NULL, events = s.events + 1,
    updated_at = now(), finished_at = CASE WHEN locked.next = 'failed' THEN now() END
FROM locked WHERE s.id = locked.id RETURNING s.id, s.status, {PLACE}"""

_FORGET = """
DELETE FROM workers WHERE id = %s AND NOT EXISTS (
    SELECT FROM task_state WHERE worker = %s AND status = 'running' AND queue IS NOT NULL)"""


def promote(tx: Transaction, items: Sequence[Promote]) -> list[int]:
    """Make due tasks ready; how many."""
    return [tx.made_ready(len(tx.moves(_PROMOTE, item.limit))) for item in items]


def rescue(tx: Transaction, items: Sequence[Rescue]) -> list[int]:
    """Requeue what lost processes were running (or fail it as poison), and forget the processes."""
    outcomes = []
    for item in items:
        how = "The worker process died" if item.died else "The worker process stopped answering"
        held = [
            {
                "id": row[0],
                "token": row[1],
                "how": f"{how} while the task was running",
                "blame": int(item.died),
            }
            for row in tx.rows(_HELD, item.worker)
        ]
        outcomes.append(len(_lose(tx, held)) if held else 0)
        tx.execute(_FORGET, item.worker, item.worker)
    return outcomes


def lose(tx: Transaction, items: Sequence[Lose]) -> list[object]:
    """Requeue attempts whose own process died (or fail them): True, False for a stale token, or SKIPPED."""
    rows = [{"id": item.id, "token": item.token, "how": item.how, "blame": 1} for item in items]
    lost = _lose(tx, rows)
    left = left_behind(tx, "running", "token", [item.id for item in items if item.id not in lost])
    return [item.id in lost or skipped(left.get(item.id) == item.token) for item in items]


def _lose(tx: Transaction, rows: Sequence[dict[str, Any]]) -> set[UUID]:
    moved = tx.freed_by(tx.moves(_LOSE, as_json(rows)))
    tx.retried.update(row[0] for row in moved if row[1] == "queued")
    tx.fell([row[0] for row in moved if row[1] == "failed"])
    tx.made_ready(len(moved))
    return {row[0] for row in moved}
