"""Dead letters: how a final failure becomes one, and the verb replay, which opens a new round of its task."""

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

import msgspec

from tasks.ids import new_id
from tasks.ledger.rounds import MISSING, Opening, Scene, Target, open_rounds
from tasks.ledger.transaction import SKIPPED, Transaction

#: A part of a statement whose rows ``locked`` end with ``next``; it buries those that fail for good. They
#: bring ``why`` (code and message), ``error_class`` and ``traceback``. A run has no letter, its stages have.
BURIED = """
buried AS (
    INSERT INTO dead_letters (task_id, task_type, queue_name, user_id, attempt, error_class, code, message,
        traceback)
    SELECT l.id, t.task_type, l.queue, t.user_id, l.attempt, l.error_class, l.why->>'code',
        l.why->>'message', l.traceback
    FROM locked l JOIN tasks t USING (id) WHERE l.next = 'failed' AND l.queue IS NOT NULL
)"""


class Replay(msgspec.Struct, frozen=True):
    """Run the task of a dead letter again, with a new budget. Repeated, it knows its ``ticket`` again."""

    dead_letter: UUID
    ticket: UUID = msgspec.field(default_factory=new_id)


#: What a replay may answer, besides what a retry does.
REPLAYED, RESOLVED = "replayed", "resolved"

_ASKED = """
SELECT d.id, d.task_id, t.run_id, d.resolved_by
FROM dead_letters d JOIN tasks t ON t.id = d.task_id WHERE d.id = ANY(%s)"""


class _Letter(NamedTuple):
    target: Target
    resolved_by: UUID | None


def replay(tx: Transaction, items: Sequence[Replay]) -> list[object]:
    """Open a new round for the tasks of dead letters: what became of each, or SKIPPED if locked.

    A dead letter is replayed once, however many ask for it at the same time.
    """
    rows = tx.rows(_ASKED, [item.dead_letter for item in items])
    letters = {row[0]: _Letter(Target(row[1], row[2]), row[3]) for row in rows}
    scene = Scene(tx, [letter.target for letter in letters.values()])
    openings: list[Opening] = []
    answers = [_replay_one(item, letters.get(item.dead_letter), scene, openings) for item in items]
    open_rounds(tx, openings)
    return answers


def _replay_one(item: Replay, letter: _Letter | None, scene: Scene, openings: list[Opening]) -> object:
    if letter is None:
        return MISSING
    if letter.resolved_by == item.ticket:  # an earlier commit of unknown outcome went through
        return REPLAYED
    objection = scene.objection(letter.target)
    if objection is not None:
        return objection
    opening = scene.open(letter.target, item.ticket, REPLAYED)
    if opening is None:
        return SKIPPED
    if item.dead_letter not in opening.letters:
        return RESOLVED
    scene.note(opening, letter.target.run_id)
    openings.append(opening)
    return REPLAYED
