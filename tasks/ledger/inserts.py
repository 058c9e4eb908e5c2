"""The insert that all verbs share which bring new tasks."""

from collections.abc import Sequence
from uuid import UUID

from tasks.ledger.transaction import READY_CHANNEL, Transaction, as_json
from tasks.values import Accepted, Hint, NewTask

#: How many seconds of waiting one step of priority is worth. The rank is stored, so ageing costs nothing.
SECONDS_PER_PRIORITY = 60

_INSERT = """
WITH input AS MATERIALIZED (
    SELECT r.*, coalesce(r.run_at, now() + make_interval(secs => r.delay)) AS due
    FROM jsonb_to_recordset(%s::jsonb) AS r(
        id uuid, task_type text, queue_name text, priority smallint, payload jsonb, max_retries integer,
        backoff jsonb, timeout float8, delay float8, run_at timestamptz, user_id text, project_id text,
        kb_id text, created_by text, tags text[], parent_id uuid, run_id uuid, stage text,
        stage_index integer, depends_on uuid[], on_dependency_failure text, is_run boolean)
), task AS (
    INSERT INTO tasks (id, task_type, queue_name, priority, payload, max_retries, backoff, timeout, run_at,
        user_id, project_id, kb_id, created_by, tags, parent_id, run_id, stage, stage_index, depends_on,
        on_dependency_failure)
    SELECT id, task_type, queue_name, priority, coalesce(payload, 'null'), max_retries, backoff, timeout,
        CASE WHEN due > now() THEN due END, user_id, project_id, kb_id, created_by, tags, parent_id,
        run_id, stage, stage_index, depends_on, on_dependency_failure
    FROM input ON CONFLICT DO NOTHING RETURNING id, created_at, run_at
), state AS (
    INSERT INTO task_state (id, status, queue, ready_at, rank, dispatch, dispatched_at)
    SELECT input.id,
        CASE WHEN id = ANY(%s) THEN 'blocked' WHEN due > now() THEN 'scheduled' ELSE 'queued' END,
        CASE WHEN NOT is_run THEN queue_name END,
        greatest(due, now()),
        extract(epoch FROM greatest(due, now())) - priority * %s,
        stamp, CASE WHEN stamp IS NOT NULL THEN now() END
    FROM task JOIN input USING (id), LATERAL (
        SELECT CASE WHEN is_run OR due > now() OR id = ANY(%s) OR queue_name = ANY(%s) OR EXISTS (
            SELECT FROM task_state older
            WHERE older.queue = input.queue_name AND older.status = 'queued' AND older.dispatch IS NULL
        ) THEN NULL ELSE %s::bigint END AS stamp
    ) AS stamped
    RETURNING id, status, dispatch
)
SELECT id, state.status, task.created_at, task.run_at, state.dispatch FROM state JOIN task USING (id)
"""


def insert_tasks(
    tx: Transaction, tasks: Sequence[NewTask], blocked: Sequence[UUID] = ()
) -> dict[UUID, Accepted]:
    """Insert tasks with their state; those that are there already (a repeated commit) stay."""
    if not tasks:
        return {}
    waiting = list(blocked)
    rows = tx.rows(
        _INSERT, as_json(tasks), waiting, SECONDS_PER_PRIORITY, waiting, tx.closed_queues, tx.stamp
    )
    accepted = {row[0]: Accepted(*row[:4]) for row in rows}
    by_id = {task.id: task for task in tasks}
    for task_id, status, _, _, dispatch in rows:
        task = by_id[task_id]
        if dispatch is not None:
            tx.publications.append(Hint(task_id, task.task_type, task.queue_name, task.priority, dispatch))
        elif status == "queued" and not task.is_run:
            tx.notify(READY_CHANNEL)
    tx.queues_seen.update(task.queue_name for task in tasks if not task.is_run)
    return accepted
