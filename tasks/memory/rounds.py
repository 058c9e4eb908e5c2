"""New rounds and removals in memory: the verbs retry and delete."""

from uuid import UUID

from tasks.memory.store import Row, Store, Told
from tasks.states import CANCELLED, COMPLETED, FAILED, QUEUED, RUNNING


def retry(store: Store, task_id: UUID) -> str:
    """Open a new round of a failed task: "retried", "missing", "not_failed" or "run_is_over"."""
    row = store.rows.get(task_id)
    if row is None:
        return "missing"
    run = row if row.new.is_run else store.rows.get(row.new.run_id) if row.new.run_id else None
    if run is not None and run is not row and run.status in (CANCELLED, COMPLETED):
        return "run_is_over"
    if row.status != FAILED:
        return "not_failed"
    again = [row] if run is None else _fallen(store, row, run)
    for one in again:
        _reopen(store, one)
    row.round += 1
    if run is not None and run is not row:
        run.round += 1
    return "retried"


def _fallen(store: Store, row: Row, run: Row) -> list[Row]:
    """In a run: what failed beside the task, the run if it failed, and what that had cancelled."""
    words = (FAILED, CANCELLED) if run.status == FAILED else (FAILED,)
    beside = [one for one in store.stages(run.new.id) if one.status in words]
    return list(dict.fromkeys([row, *beside, *([run] if run.status == FAILED else [])]))


def _reopen(store: Store, row: Row) -> None:
    """Keep what is derived of the old round as events, and begin anew."""
    now, is_run = store.clock.now(), row.new.is_run
    message = (row.error or {}).get("message") if row.status == FAILED else None
    row.told.append(Told(row.events, "state", row.status, row.finished_at or now, message=message))
    row.status = RUNNING if is_run else QUEUED
    row.tell("state", row.status, now, message="retried")
    row.failures = row.deaths = 0
    row.suspect, row.token, row.worker = False, None, None
    row.result, row.error, row.finished_at = None, None, None
    row.ready_at = row.updated_at = now
    row.rank_by(now)
    if is_run:
        row.started_at = row.started_at or now
    else:
        row.progress, row.started_at, row.running_event = 0.0, None, None


def delete(store: Store, task_id: UUID) -> str:
    """Remove a whole task that is over: "deleted", "unfinished", "missing" or "stage"."""
    row = store.rows.get(task_id)
    if row is None:
        return "missing"
    if row.new.run_id is not None:
        return "stage"
    parts = [row, *store.stages(task_id)]
    if not all(part.is_over for part in parts):
        return "unfinished"
    for part in parts:
        if part.status == COMPLETED:  # it goes on counting as completed for those that wait for it
            for other in store.rows.values():
                other.met.update(other.needs & {part.new.id})
        del store.rows[part.new.id]
    gone = {part.new.id for part in parts}
    store.outputs = {key: kept for key, kept in store.outputs.items() if kept[1].task_id not in gone}
    store.follow(part.new.id for part in parts)
    return "deleted"
