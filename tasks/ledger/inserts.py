"""The insert that all verbs share which bring new tasks."""

from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

from tasks.ledger.order import FLOOD, MOST_LEVEL, MOST_STEPS
from tasks.ledger.statistics import COUNT_NEW
from tasks.ledger.transaction import READY_CHANNEL, Transaction, as_json
from tasks.plans import is_queued
from tasks.values import Accepted, Hint, NewTask

#: What fairness costs a tenant with ``n`` tasks under way (see `tasks.ledger.order`), in steps of priority.
_COST = f"{MOST_STEPS} * least(n, {FLOOD})::integer / {FLOOD}"

# Those that are ready leave at once as far as there is room for their queue and nothing waits in it. One that
# would overtake what has the better rank (see `tasks.ledger.order`) is left to the dispatcher, and so is all
# of a steered queue (see `tasks.allowances`).
_INSERT = f"""
WITH input AS MATERIALIZED (
    SELECT r.*, due, is_run OR coalesce(due > now(), false) OR id = ANY(%(blocked)s) AS waits,
        CASE WHEN r.user_id = '' THEN 0 ELSE hashtext(r.user_id) END AS tenant,
        extract(epoch FROM greatest(due, now())) - r.priority * %(seconds_per_priority)s::float8 AS rank
    FROM jsonb_to_recordset(%(tasks)s::jsonb) AS r(
        id uuid, task_type text, queue_name text, priority smallint, payload jsonb, max_retries integer,
        backoff jsonb, timeout float8, delay float8, run_at timestamptz, user_id text, project_id text,
        kb_id text, created_by text, tags text[], parent_id uuid, run_id uuid, stage text,
        stage_index integer, depends_on uuid[], on_dependency_failure text, is_run boolean, unique_key text,
        callback_url text, overrides jsonb, concurrency integer, concurrency_key text),
    LATERAL (SELECT coalesce(r.run_at, now() + make_interval(secs => r.delay)) AS due) AS when_due
    WHERE NOT EXISTS (SELECT FROM queues WHERE name = ANY(%(unlimited)s) AND max_size IS NOT NULL)
), task AS (
    INSERT INTO tasks (id, task_type, queue_name, priority, payload, max_retries, backoff, timeout, run_at,
        user_id, project_id, kb_id, created_by, tags, parent_id, run_id, stage, stage_index, depends_on,
        on_dependency_failure, unique_key, callback_url, overrides)
    SELECT id, task_type, queue_name, priority, coalesce(payload, 'null'), max_retries, backoff, timeout,
        CASE WHEN due > now() THEN due END, user_id, project_id, kb_id, created_by, tags, parent_id,
        run_id, stage, stage_index, depends_on, on_dependency_failure, unique_key, callback_url, overrides
    FROM input ON CONFLICT DO NOTHING
    RETURNING id, created_at, run_at, user_id, task_type, queue_name, run_id
), tallied AS ({COUNT_NEW}
), open AS MATERIALIZED (
    SELECT q.name, q.room FROM unnest(%(open)s::text[], %(rooms)s::integer[]) AS q(name, room)
    WHERE NOT EXISTS (SELECT FROM task_state older
        WHERE older.queue = q.name AND {is_queued("older")} AND older.dispatch IS NULL
            AND NOT older.parked)
    AND NOT EXISTS (SELECT FROM queues WHERE queues.name = q.name AND steered)
), sent AS MATERIALIZED (
    SELECT s.queue, s.tenant, s.yields, s.wire, min(s.rank) AS rank, count(*) AS n
    FROM open JOIN task_state s ON s.queue = open.name AND {is_queued()} AND s.dispatch IS NOT NULL
    GROUP BY 1, 2, 3, 4
), counted AS (
    SELECT id, queue_name, priority, input.tenant, input.rank, room,
        row_number() OVER (PARTITION BY queue_name ORDER BY input.rank, id) AS place,
        count(*) OVER (PARTITION BY queue_name, input.tenant) + coalesce((SELECT sum(sent.n) FROM sent
            WHERE sent.queue = queue_name AND sent.tenant = input.tenant), 0) AS n
    FROM input JOIN open ON open.name = queue_name WHERE NOT waits
), leveled AS (
    SELECT *, n >= {FLOOD} AS yields, greatest(0, least({MOST_LEVEL}, priority - {_COST})) AS wire
    FROM counted WHERE place <= room
), leaving AS (
    SELECT id, wire, yields FROM leveled l WHERE NOT EXISTS (SELECT FROM sent
        WHERE sent.queue = queue_name AND sent.rank < l.rank AND sent.wire < l.wire
        AND (sent.tenant = l.tenant OR NOT sent.yields))
), state AS (
    INSERT INTO task_state (id, status, queue, is_stage, run_queue, ready_at, rank, tenant, priority,
        concurrency, concurrency_key, dispatch, dispatched_at, wire, yields)
    SELECT input.id,
        CASE WHEN id = ANY(%(blocked)s) THEN 'blocked' WHEN due > now() THEN 'scheduled' ELSE 'queued' END,
        CASE WHEN NOT is_run THEN queue_name END, run_id IS NOT NULL, CASE WHEN is_run THEN queue_name END,
        greatest(due, now()), input.rank, input.tenant, input.priority,
        input.concurrency, input.concurrency_key,
        CASE WHEN leaving.wire IS NOT NULL THEN %(stamp)s::bigint END,
        CASE WHEN leaving.wire IS NOT NULL THEN now() END,
        leaving.wire, coalesce(leaving.yields, false)
    FROM (SELECT id FROM task) AS new JOIN input USING (id) LEFT JOIN leaving USING (id)
    RETURNING id, status, dispatch, wire, rank
)
SELECT id, state.status, task.created_at, task.run_at, state.dispatch, state.wire
FROM state JOIN task USING (id) ORDER BY state.wire DESC, state.rank, id
"""


def insert_tasks(
    tx: Transaction,
    tasks: Sequence[NewTask],
    blocked: Sequence[UUID] = (),
    *,
    unlimited: Collection[str] = (),
) -> dict[UUID, Accepted]:
    """Insert tasks with their state; those that are there already (a repeated commit) stay.

    Nothing is inserted unless the queues ``unlimited`` are: none of them has a max_size.
    """
    if not tasks:
        return {}
    queues = {task.queue_name for task in tasks if not task.is_run}
    rows = tx.named(_INSERT, {**_parameters(tx, tasks, blocked, queues), "unlimited": list(unlimited)})
    accepted = {row[0]: Accepted(*row[:4]) for row in rows}
    by_id = {task.id: task for task in tasks}
    for task_id, status, _, _, dispatch, wire in rows:
        task = by_id[task_id]
        if dispatch is not None:
            tx.publications.append(Hint(task_id, task.task_type, task.queue_name, wire, dispatch))
        elif status == "queued" and not task.is_run:
            tx.notify(READY_CHANNEL)
    tx.queues_seen.update(queues)
    return accepted


def _parameters(
    tx: Transaction, tasks: Sequence[NewTask], blocked: Sequence[UUID], queues: set[str]
) -> dict[str, Any]:
    rooms = {queue: tx.room(queue) for queue in sorted(queues)} if tx.stamp is not None else {}
    rooms = {queue: room for queue, room in rooms.items() if room}
    return {
        "tasks": as_json(tasks),
        "blocked": list(blocked),
        "seconds_per_priority": tx.seconds_per_priority,
        "open": list(rooms),
        "rooms": list(rooms.values()),
        "stamp": tx.stamp,
    }
