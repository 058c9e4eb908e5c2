"""The verb recover: what is over begins anew; a task from a checkpoint or the beginning, a run from a stage.

What of a run is to run again, and what is made anew, is decided by `pipelines.recovery` for one round; it is
applied here while nobody else can write any row of the run.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec

from tasks.ids import new_id
from tasks.ledger import statistics
from tasks.ledger.inserts import insert_tasks
from tasks.ledger.removals import remove
from tasks.ledger.rounds import KEPT, MISSING, Letters, Opening, open_rounds
from tasks.ledger.runs import clear, pin
from tasks.ledger.snapshots import KEPT_VERSIONS
from tasks.ledger.transaction import SKIPPED, Transaction, as_json
from tasks.states import CANCELLED, FAILED
from tasks.values import NewTask


class Restart(msgspec.Struct, frozen=True, kw_only=True):
    """Recover a plain task from one of the states that it ``leaves``.

    It begins with its last checkpoint, with the one of ``version``, or with none if it begins ``afresh``.
    """

    task_id: UUID
    leaves: tuple[str, ...]
    message: str
    version: int | None = None
    afresh: bool = False
    ticket: UUID = msgspec.field(default_factory=new_id)


class RunRestart(msgspec.Struct, frozen=True, kw_only=True):
    """Recover a run, as it was decided for one ``round``.

    Of the stages that are ``kept`` those tasks run again that failed or were cancelled, and all of the stage
    ``again``; with ``outputs`` (in the order of its tasks) that stage is completed instead. All other stages
    are removed, and the ``successors`` inserted. ``progress`` and ``phase`` are those of the run then; None
    keeps what it has. A run that begins ``anew`` goes by ``version`` from now on.
    """

    run_id: UUID
    round: int
    leaves: tuple[str, ...]
    message: str
    kept: tuple[str, ...]
    again: str | None = None
    outputs: Sequence[Any] | None = None
    successors: Sequence[NewTask] = ()
    progress: float | None = None
    phase: str | None = None
    anew: bool = False
    version: str | None = None
    ticket: UUID = msgspec.field(default_factory=new_id)


#: What a recovery may answer, besides "missing". CHANGED: the task is not what was decided about any more.
RECOVERED, CHANGED, NO_VERSION = "recovered", "changed", "no_version"

_LOCK = """
SELECT id, status, round, opened_by FROM task_state WHERE id = ANY(%s)
ORDER BY id FOR NO KEY UPDATE SKIP LOCKED"""
_KNOWN = "SELECT id FROM task_state WHERE id = ANY(%s)"

_LOCK_STAGES = """
SELECT id FROM task_state WHERE id IN (SELECT id FROM tasks WHERE run_id = %s)
ORDER BY id FOR NO KEY UPDATE SKIP LOCKED"""
_STAGES = """
SELECT s.id, t.stage, s.status FROM tasks t JOIN task_state s USING (id) WHERE t.run_id = %s
ORDER BY t.stage, t.stage_index"""

_AFRESH = """
UPDATE task_state SET snapshot = snapshot + 1 WHERE id = %s AND snapshot > 0"""
_COPY_VERSION = """
INSERT INTO snapshots (task_id, version, state)
SELECT x.task_id, s.snapshot + 1, x.state FROM snapshots x JOIN task_state s ON s.id = x.task_id
WHERE x.task_id = %s AND x.version = %s RETURNING version"""
_USE_VERSION = "UPDATE task_state SET snapshot = %s WHERE id = %s"
_PRUNE_VERSIONS = "DELETE FROM snapshots WHERE task_id = %s AND version <= %s"

_GIVE = f"""
WITH given AS (
    SELECT * FROM jsonb_to_recordset(%s::jsonb) AS g(id uuid, output jsonb)
), old AS (
    SELECT s.* FROM task_state s JOIN given USING (id)
), {KEPT}
UPDATE task_state s SET status = 'completed', result = given.output, error = NULL, progress = 100,
    failures = 0, deaths = 0, suspect = false, token = NULL, worker = NULL, dispatch = NULL,
    dispatched_at = NULL, events = s.events + 1, started_at = NULL, running_event = NULL,
    finished_at = now(), updated_at = now()
FROM given WHERE s.id = given.id RETURNING s.id"""

_REWIND = "UPDATE task_state SET progress = %s, phase = %s WHERE id = %s"


def restart(tx: Transaction, items: Sequence[Restart]) -> list[object]:
    """Recover plain tasks: what became of each, or SKIPPED if locked. One of several at once is done."""
    ids = [item.task_id for item in items]
    locked = {row[0]: row[1:] for row in tx.rows(_LOCK, ids)}
    known = {row[0] for row in tx.rows(_KNOWN, ids)}
    letters = Letters(tx, list(locked))
    openings: dict[UUID, Opening] = {}
    answers: list[object] = []
    for item in items:
        status, _, opened_by = locked.get(item.task_id, (None, 0, None))
        found = letters.of([item.task_id])
        if status is None:
            answers.append(SKIPPED if item.task_id in known else MISSING)
        elif opened_by == item.ticket:  # an earlier commit of unknown outcome went through
            answers.append(RECOVERED)
        elif status not in item.leaves or item.task_id in openings:
            answers.append(CHANGED)
        elif found is None:
            answers.append(SKIPPED)
        elif not _choose_state(tx, item):
            answers.append(NO_VERSION)
        else:
            one = [item.task_id]
            openings[item.task_id] = Opening(one, one, found, item.ticket, RECOVERED, item.message)
            answers.append(RECOVERED)
    open_rounds(tx, list(openings.values()))
    return answers


def _choose_state(tx: Transaction, item: Restart) -> bool:
    """Have the next attempt begin with the state that is asked for; False: there is no such version."""
    if item.afresh:
        # A version that nothing is saved under: there is no state, and versions still ascend.
        tx.execute(_AFRESH, item.task_id)
    if item.version is None:
        return True
    copied = tx.rows(_COPY_VERSION, item.task_id, item.version)
    if not copied:
        return False
    version = copied[0][0]
    tx.execute(_USE_VERSION, version, item.task_id)
    tx.execute(_PRUNE_VERSIONS, item.task_id, version - KEPT_VERSIONS)
    return True


def restart_run(tx: Transaction, items: Sequence[RunRestart]) -> list[object]:
    """Recover runs: what became of each, or SKIPPED if any row of it is locked."""
    ids = [item.run_id for item in items]
    locked = {row[0]: row[1:] for row in tx.rows(_LOCK, ids)}
    known = {row[0] for row in tx.rows(_KNOWN, ids)}
    answers: list[object] = []
    begun: set[UUID] = set()
    for item in items:
        status, round_, opened_by = locked.get(item.run_id, (None, 0, None))
        if status is None:
            answers.append(SKIPPED if item.run_id in known else MISSING)
        elif opened_by == item.ticket:
            answers.append(RECOVERED)
        elif status not in item.leaves or round_ != item.round or item.run_id in begun:
            answers.append(CHANGED)
        else:
            answers.append(_restart_one_run(tx, item))
            begun.add(item.run_id)
    return answers


def _restart_one_run(tx: Transaction, item: RunRestart) -> object:
    held = {row[0] for row in tx.rows(_LOCK_STAGES, item.run_id)}
    if {row[0] for row in tx.rows(_STAGES, item.run_id)} != held:
        return SKIPPED
    letters = Letters(tx, [*held, item.run_id]).of([*held, item.run_id])
    if letters is None:
        return SKIPPED
    clear(tx, item.run_id)  # what the end of the run has left running must not write any more
    stages: list[tuple[UUID, str, str]] = tx.rows(_STAGES, item.run_id)
    named = [task_id for task_id, stage, _ in stages if stage == item.again]
    given = dict(zip(named, item.outputs or (), strict=False))
    if item.outputs is not None and len(named) != len(item.outputs):
        return CHANGED
    again = [
        task_id
        for task_id, stage, status in stages
        if stage in item.kept
        and task_id not in given
        and (stage == item.again or status in (FAILED, CANCELLED))
    ]
    remove(tx, [task_id for task_id, stage, _ in stages if stage not in item.kept], with_letters=False)
    _give(tx, given)
    ids = [item.run_id, *again]
    open_rounds(tx, [Opening(ids, [item.run_id], letters, item.ticket, RECOVERED, item.message)])
    if item.progress is not None:
        tx.execute(_REWIND, item.progress, item.phase, item.run_id)
    if item.anew:
        pin(tx, item.run_id, item.version, anew=True)
    insert_tasks(tx, item.successors)
    return RECOVERED


def _give(tx: Transaction, given: dict[UUID, Any]) -> None:
    """Complete stages with outputs that people gave."""
    if given:
        statistics.unfold(tx, given)
        tx.moves(_GIVE, as_json([{"id": one, "output": output} for one, output in given.items()]))
        tx.ended.update(given)
