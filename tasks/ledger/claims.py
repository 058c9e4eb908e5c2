"""The verbs that take work and hand it back unused: claim, fetch, release and postpone."""

import secrets
from collections.abc import Sequence
from uuid import UUID

import msgspec

from tasks.ledger.transaction import READY_CHANNEL, SKIPPED, Transaction, as_json
from tasks.values import Arrival, Claimed, Json, Refused


class Fetch(msgspec.Struct, frozen=True):
    """Take up to ``limit`` ready tasks of these queues and types, best rank first."""

    queues: list[str]
    types: list[str]
    limit: int


class HandBack(msgspec.Struct, frozen=True):
    """A claim that is given back: the task was not started, or was interrupted by a drain."""

    id: UUID
    token: int


class Postpone(msgspec.Struct, frozen=True):
    """A message about a type that this worker does not know: its row waits ``seconds`` for another worker."""

    id: UUID
    dispatch: int
    seconds: float


_RUN_IS_OVER = """EXISTS (SELECT FROM task_state run WHERE run.id = t.run_id
    AND run.status IN ('completed', 'failed', 'cancelled'))"""

_TAKEN = """
    status = 'running', worker = %s, attempt = s.attempt + 1, started_at = now(), updated_at = now(),
    finished_at = NULL, progress = 0, phase = NULL, message = NULL, details = NULL,
    events = s.events + 1, running_event = s.events + 1"""

_RETURNED = """
    s.id, s.token, s.attempt, s.failures, s.deaths, t.task_type, s.queue, t.payload::text, t.max_retries,
    t.backoff, t.timeout, t.priority, t.user_id, t.project_id, t.kb_id, t.tags, t.run_id, t.stage,
    t.stage_index"""

_CLAIM = f"""
WITH wanted AS (
    SELECT * FROM jsonb_to_recordset(%s::jsonb) AS w(task_id uuid, dispatch bigint, token bigint)
), locked AS (
    SELECT s.id, w.token FROM task_state s JOIN wanted w ON s.id = w.task_id AND s.dispatch = w.dispatch
    WHERE s.status = 'queued' ORDER BY s.id FOR NO KEY UPDATE OF s SKIP LOCKED
)
UPDATE task_state s SET token = locked.token, {_TAKEN}
FROM locked JOIN tasks t USING (id)
WHERE s.id = locked.id AND NOT {_RUN_IS_OVER}
RETURNING {_RETURNED}"""

_FETCH = f"""
WITH ready AS (
    SELECT found.id FROM unnest(%s::text[]) AS q(name) CROSS JOIN LATERAL (
        SELECT s.id, s.rank FROM task_state s JOIN tasks t USING (id)
        WHERE s.queue = q.name AND s.status = 'queued' AND s.dispatch IS NULL
          AND t.task_type = ANY(%s) AND NOT {_RUN_IS_OVER}
        ORDER BY s.rank LIMIT %s FOR NO KEY UPDATE OF s SKIP LOCKED
    ) AS found ORDER BY found.rank LIMIT %s
)
UPDATE task_state s SET token = (random() * 9007199254740991)::bigint, {_TAKEN}
FROM ready JOIN tasks t USING (id) WHERE s.id = ready.id
RETURNING {_RETURNED}"""

_REFUSED = f"""
SELECT s.id, s.status, s.dispatch, s.worker, {_RUN_IS_OVER}
FROM task_state s JOIN tasks t USING (id) WHERE s.id = ANY(%s)"""

_START_RUNS = """
UPDATE task_state SET status = 'running', started_at = now(), updated_at = now(),
    events = events + 1, running_event = events + 1
WHERE id IN (
    SELECT id FROM task_state WHERE id = ANY(%s) AND status IN ('scheduled', 'queued')
    ORDER BY id FOR NO KEY UPDATE SKIP LOCKED)"""

_RELEASE = """
WITH back AS (
    SELECT * FROM jsonb_to_recordset(%s::jsonb) AS b(id uuid, token bigint)
), locked AS (
    SELECT s.* FROM task_state s JOIN back USING (id)
    WHERE s.status = 'running' AND s.token = back.token ORDER BY s.id FOR NO KEY UPDATE OF s SKIP LOCKED
), kept AS (
    INSERT INTO attempts (task_id, attempt, outcome, status, worker, started_at, started_event, ended_event)
    SELECT id, attempt, 'released', 'queued', worker, started_at, running_event, events + 1 FROM locked
)
UPDATE task_state s SET status = 'queued', token = NULL, worker = NULL, dispatch = NULL, dispatched_at = NULL,
    attempt = s.attempt - 1, started_at = NULL, running_event = NULL, events = s.events + 1,
    updated_at = now()
FROM locked WHERE s.id = locked.id RETURNING s.id"""

_POSTPONE = """
WITH late AS (
    SELECT * FROM jsonb_to_recordset(%s::jsonb) AS p(id uuid, dispatch bigint, seconds float8)
), locked AS (
    SELECT s.id, s.events, late.seconds FROM task_state s JOIN late USING (id)
    WHERE s.status = 'queued' AND s.dispatch = late.dispatch ORDER BY s.id FOR NO KEY UPDATE OF s SKIP LOCKED
), told AS (
    INSERT INTO events (task_id, event_id, kind, status, message)
    SELECT id, events + 1, 'state', 'scheduled', 'waits for a worker that knows its type' FROM locked
)
UPDATE task_state s SET status = 'scheduled', dispatch = NULL, dispatched_at = NULL,
    ready_at = now() + make_interval(secs => locked.seconds), events = s.events + 1, updated_at = now()
FROM locked WHERE s.id = locked.id RETURNING s.id"""


def claim(tx: Transaction, items: Sequence[Arrival]) -> list[object]:
    """Claim what arrived: a Claimed or a Refused for each."""
    tokens = [
        {"task_id": item.task_id, "dispatch": item.dispatch, "token": secrets.randbits(62)} for item in items
    ]
    claimed = {row[0]: _claimed(row) for row in tx.rows(_CLAIM, as_json(tokens), tx.owner)}
    _start_runs(tx, list(claimed.values()))
    refused = _refusals(tx, [item for item in items if item.task_id not in claimed])
    answered: set[UUID] = set()
    outcomes: list[object] = []
    for item in items:
        first = item.task_id not in answered
        answered.add(item.task_id)
        if item.task_id in claimed:  # the same message twice in one group is claimed once
            outcomes.append(claimed[item.task_id] if first else Refused(item.task_id, "running", tx.owner))
        else:
            outcomes.append(refused[item])
    return outcomes


def fetch(tx: Transaction, items: Sequence[Fetch]) -> list[list[Claimed]]:
    """Claim straight from the table, for workers without a RabbitMQ."""
    outcomes = []
    for item in items:
        rows = tx.rows(_FETCH, item.queues, item.types, item.limit, item.limit, tx.owner)
        claimed = [_claimed(row) for row in rows]
        _start_runs(tx, claimed)
        outcomes.append(claimed)
    return outcomes


def release(tx: Transaction, items: Sequence[HandBack]) -> list[bool]:
    """Give claims back without using up an attempt; False where the token was stale."""
    released = {row[0] for row in tx.rows(_RELEASE, as_json(items))}
    if released:
        tx.notify(READY_CHANNEL)
    return [item.id in released for item in items]


def postpone(tx: Transaction, items: Sequence[Postpone]) -> list[bool]:
    """Send rows of unknown types back with a backoff; it is not a failure."""
    moved = {row[0] for row in tx.rows(_POSTPONE, as_json(items))}
    return [item.id in moved for item in items]


def _claimed(row: Sequence[object]) -> Claimed:
    values = list(row)
    values[7] = Json(str(values[7]).encode())
    return Claimed(*values)  # type: ignore[arg-type]


def _start_runs(tx: Transaction, claimed: Sequence[Claimed]) -> None:
    runs = {claim.run_id for claim in claimed if claim.run_id is not None}
    if runs:
        tx.execute(_START_RUNS, list(runs))


def _refusals(tx: Transaction, items: Sequence[Arrival]) -> dict[Arrival, object]:
    if not items:
        return {}
    found = {row[0]: row for row in tx.rows(_REFUSED, [item.task_id for item in items])}
    return {item: _refusal(item, found.get(item.task_id)) for item in items}


def _refusal(item: Arrival, row: Sequence[object] | None) -> object:
    if row is None:
        return Refused(item.task_id, "stale")
    _, status, dispatch, worker, run_is_over = row
    if status == "running":
        return Refused(item.task_id, "running", worker)  # type: ignore[arg-type]
    if status == "queued" and dispatch == item.dispatch:
        return Refused(item.task_id, "cancelled_run") if run_is_over else SKIPPED
    return Refused(item.task_id, "stale" if status in ("queued", "scheduled", "retrying") else "finished")
