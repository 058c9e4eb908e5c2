"""Opening a new round: how a task that is over runs again; and the verb retry.

A new round is the same task with a new budget of attempts. What was derived from the columns of the old round
becomes rows before they are cleared, so that the history goes on. A new round does not wait for dependencies
again: an operator wants it to run.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec

from tasks.ids import new_id
from tasks.ledger import callbacks, statistics
from tasks.ledger.transaction import SKIPPED, Transaction, as_json
from tasks.states import CANCELLED, COMPLETED, FAILED, QUEUED, RUNNING


class Retry(msgspec.Struct, frozen=True):
    """Run a failed task again, with a new budget. Repeated, it knows its ``ticket`` again."""

    task_id: UUID
    ticket: UUID = msgspec.field(default_factory=new_id)


class Target(msgspec.Struct, frozen=True):
    """What is to run again. ``run_id`` is the run that it belongs to, or itself if ``is_run``."""

    task_id: UUID
    run_id: UUID | None
    is_run: bool = False


class Opening(msgspec.Struct, frozen=True):
    """A round that is opened: what runs again, whose rounds are counted, and the dead letters it settles.

    ``word`` (replayed, retried, recovered) is what becomes of them; ``message`` is told in the history.
    ``by`` is who wanted it, where that is known.
    """

    ids: Sequence[UUID]
    counted: Sequence[UUID]
    letters: Sequence[UUID]
    ticket: UUID
    word: str
    message: str
    by: str | None = None


#: What a retry may answer.
RETRIED, MISSING, NOT_FAILED, RUN_IS_OVER = "retried", "missing", "not_failed", "run_is_over"

_TARGETS = """
SELECT t.id, CASE WHEN s.queue IS NULL THEN t.id ELSE t.run_id END, s.queue IS NULL
FROM tasks t JOIN task_state s USING (id) WHERE t.id = ANY(%s)"""

_LOCK = """
SELECT s.id, s.status, s.opened_by FROM task_state s
WHERE s.id IN (SELECT unnest(%s::uuid[]) UNION SELECT c.id FROM tasks c WHERE c.run_id = ANY(%s))
AND (s.status IN ('failed', 'cancelled') OR s.id = ANY(%s))
ORDER BY s.id FOR NO KEY UPDATE SKIP LOCKED"""

_FALLEN = """
SELECT c.run_id, c.id, u.status FROM tasks c JOIN task_state u USING (id)
WHERE c.run_id = ANY(%s) AND u.status IN ('failed', 'cancelled') ORDER BY c.id"""

_OPEN_LETTERS = "SELECT task_id, id FROM dead_letters WHERE task_id = ANY(%s) AND resolution IS NULL"
_LOCK_LETTERS = _OPEN_LETTERS + " ORDER BY id FOR NO KEY UPDATE SKIP LOCKED"

_RESOLVE = """
UPDATE dead_letters d SET resolution = r.resolution, resolved_at = now(), resolved_by = r.ticket,
    resolver = r.by
FROM jsonb_to_recordset(%s::jsonb) AS r(id uuid, resolution text, ticket uuid, by text) WHERE d.id = r.id"""

# How the rounds ended that replays opened is derived from their tasks' states, as long as these tell it.
_OUTCOMES = """
UPDATE replay_items i SET outcome = s.status FROM task_state s
WHERE s.id = ANY(%s) AND i.ticket = s.opened_by AND i.outcome IS NULL"""

_COUNT = """
UPDATE task_state s SET round = s.round + 1, opened_by = c.ticket
FROM jsonb_to_recordset(%s::jsonb) AS c(id uuid, ticket uuid) WHERE s.id = c.id"""

#: Two parts of a statement whose rows ``old`` are states that end: they keep what is derived from these.
KEPT = """
told AS (
    INSERT INTO events (task_id, event_id, kind, status, progress, message, at)
    SELECT id, events, 'state', status, CASE WHEN status = 'completed' THEN 100 END,
        CASE WHEN status = 'failed' THEN error->>'message' END, finished_at
    FROM old
), kept AS (
    INSERT INTO attempts (task_id, attempt, outcome, status, worker, started_at, ended_at, started_event,
        ended_event)
    SELECT id, attempt, 'completed', 'completed', worker, started_at, finished_at, running_event, events
    FROM old WHERE status = 'completed' AND queue IS NOT NULL AND running_event IS NOT NULL
)"""

_REOPEN = f"""
WITH again AS (
    SELECT * FROM jsonb_to_recordset(%s::jsonb) AS a(id uuid, message text, ticket uuid)
), old AS (
    SELECT s.*, again.message AS words FROM task_state s JOIN again USING (id)
), {KEPT}, opened AS (
    INSERT INTO events (task_id, event_id, kind, status, message)
    SELECT id, events + 1, 'state', CASE WHEN queue IS NULL THEN 'running' ELSE 'queued' END, words FROM old
)
UPDATE task_state s SET status = CASE WHEN s.queue IS NULL THEN 'running' ELSE 'queued' END,
    failures = 0, deaths = 0, suspect = false, parked = false, token = NULL, worker = NULL,
    dispatch = NULL, dispatched_at = NULL, result = NULL, error = NULL, finished_at = NULL, ready_at = now(),
    rank = extract(epoch FROM now()) - t.priority * %s::float8, events = s.events + 1,
    updated_at = now(),
    progress = CASE WHEN s.queue IS NULL THEN s.progress ELSE 0 END,
    started_at = CASE WHEN s.queue IS NULL THEN coalesce(s.started_at, now()) END,
    running_event = CASE WHEN s.queue IS NULL THEN s.running_event END,
    round = CASE WHEN again.ticket IS NULL THEN s.round ELSE s.round + 1 END,
    opened_by = coalesce(again.ticket, s.opened_by)
FROM again JOIN tasks t USING (id) WHERE s.id = again.id
RETURNING s.id"""


class Letters:
    """The open dead letters of some tasks, locked as far as nobody else holds them."""

    def __init__(self, tx: Transaction, task_ids: Sequence[UUID]) -> None:
        ids = list(task_ids)
        self._locked: list[tuple[UUID, UUID]] = tx.rows(_LOCK_LETTERS, ids) if ids else []
        self._open: list[tuple[UUID, UUID]] = tx.rows(_OPEN_LETTERS, ids) if ids else []

    def of(self, task_ids: Sequence[UUID]) -> list[UUID] | None:
        """Those of these tasks; None while the copy of one is being sent."""
        ids = set(task_ids)
        found = {letter for task_id, letter in self._open if task_id in ids}
        locked = {letter for task_id, letter in self._locked if task_id in ids}
        return sorted(locked) if found <= locked else None


class Scene:
    """What the replays or retries of a transaction are about, locked as far as nobody else holds it."""

    def __init__(self, tx: Transaction, targets: Sequence[Target]) -> None:
        runs = [target.run_id for target in targets if target.run_id is not None]
        wanted = [target.task_id for target in targets] + runs
        rows = tx.rows(_LOCK, wanted, runs, wanted)
        self._locked: dict[UUID, str] = {row[0]: row[1] for row in rows}
        self._opened_by: dict[UUID, UUID | None] = {row[0]: row[2] for row in rows}
        self._fallen: list[tuple[UUID, UUID, str]] = tx.rows(_FALLEN, runs) if runs else []
        self._letters = Letters(tx, list(self._locked))

    def was_opened_by(self, target: Target, ticket: UUID) -> bool:
        """Whether this request has opened the round already: its commit of unknown outcome went through."""
        return self._opened_by.get(target.task_id) == ticket

    def objection(self, target: Target) -> object | None:
        """Why a target cannot run again: an answer, or SKIPPED while somebody else holds it."""
        run_id = target.run_id
        if target.task_id not in self._locked or (run_id is not None and run_id not in self._locked):
            return SKIPPED
        if run_id is not None and not target.is_run and self._locked[run_id] in (CANCELLED, COMPLETED):
            return RUN_IS_OVER
        return None if self._locked[target.task_id] == FAILED else NOT_FAILED

    def open(self, target: Target, ticket: UUID, word: str) -> Opening | None:
        """The round of a target that nothing speaks against; None while a part of it is held."""
        ids = self._to_reopen(target)
        letters = self._letters.of(ids)
        if letters is None or not all(one in self._locked for one in ids):
            return None
        counted = {target.task_id, target.run_id or target.task_id}
        return Opening(ids, sorted(counted), letters, ticket, word, word)

    def note(self, opening: Opening, run_id: UUID | None) -> None:
        """Remember that a round is opened, for the targets that come after it."""
        self._locked.update((one, RUNNING if one == run_id else QUEUED) for one in opening.ids)
        self._opened_by.update(dict.fromkeys(opening.counted, opening.ticket))

    def _to_reopen(self, target: Target) -> list[UUID]:
        """The task; in a run also what failed beside it, the run if it failed, and what that cancelled."""
        if target.run_id is None:
            return [target.task_id]
        run_failed = self._locked[target.run_id] == FAILED
        beside = [
            one
            for of_run, one, status in self._fallen
            if of_run == target.run_id and (status == FAILED or run_failed)
        ]
        return list(dict.fromkeys([target.task_id, *beside, *([target.run_id] if run_failed else [])]))


def retry(tx: Transaction, items: Sequence[Retry]) -> list[object]:
    """Open a new round for failed tasks: what became of each, or SKIPPED if locked.

    Of retries at the same time one opens the round; to the others the task is not failed any more.
    """
    rows = tx.rows(_TARGETS, [item.task_id for item in items])
    targets = {row[0]: Target(*row) for row in rows}
    scene = Scene(tx, list(targets.values()))
    openings: list[Opening] = []
    answers = [_retry_one(item, targets.get(item.task_id), scene, openings) for item in items]
    open_rounds(tx, openings)
    return answers


def _retry_one(item: Retry, target: Target | None, scene: Scene, openings: list[Opening]) -> object:
    if target is None:
        return MISSING
    if scene.was_opened_by(target, item.ticket):
        return RETRIED
    objection = scene.objection(target)
    if objection is not None:
        return objection
    opening = scene.open(target, item.ticket, RETRIED)
    if opening is None:
        return SKIPPED
    scene.note(opening, target.run_id)
    openings.append(opening)
    return RETRIED


def keep_outcomes(tx: Transaction, task_ids: Sequence[UUID]) -> None:
    """Keep how tasks ended that were replayed, before their states cannot tell it any more."""
    tx.execute(_OUTCOMES, list(task_ids))


def open_rounds(tx: Transaction, openings: Sequence[Opening]) -> None:
    """Open rounds. The caller holds the locks of all their rows, and all of these are final."""
    if not openings:
        return
    letters: list[dict[str, Any]] = [
        {"id": letter, "resolution": one.word, "ticket": one.ticket, "by": one.by}
        for one in openings
        for letter in one.letters
    ]
    if letters:
        tx.execute(_RESOLVE, as_json(letters))
    again = [
        {"id": task_id, "message": one.message, "ticket": one.ticket if task_id in one.counted else None}
        for one in openings
        for task_id in one.ids
    ]
    callbacks.follow(tx)
    reopened = [task_id for one in openings for task_id in one.ids]
    keep_outcomes(tx, reopened)
    statistics.unfold(tx, reopened)
    tx.moves(_REOPEN, as_json(again), tx.seconds_per_priority)
    going_on = [
        {"id": task_id, "ticket": one.ticket}
        for one in openings
        for task_id in set(one.counted) - set(one.ids)
    ]
    if going_on:  # the run of a stage that failed while others of it still run
        tx.execute(_COUNT, as_json(going_on))
    tx.made_ready(len(again))
