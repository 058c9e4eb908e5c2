"""Dead letters: how a final failure becomes one, and the verbs that resolve it: replay and discard.

A replay opens a new round of the letter's task, with another payload if it brings one.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, TypeVar
from uuid import UUID

import msgspec

from tasks.ids import new_id
from tasks.ledger.rounds import MISSING, Opening, Scene, Target, open_rounds
from tasks.ledger.transaction import SKIPPED, Transaction, as_json

#: A part of a statement whose rows ``locked`` end with ``next``; it buries those that fail for good. They
#: bring ``why`` (code and message), ``error_class``, ``traceback`` and ``fingerprint`` (see
#: `tasks.ledger.fingerprints`). A run has no letter, its stages have.
BURIED = """
buried AS (
    INSERT INTO dead_letters (task_id, task_type, queue_name, user_id, attempt, error_class, code, message,
        traceback, fingerprint)
    SELECT l.id, t.task_type, l.queue, t.user_id, l.attempt, l.error_class, l.why->>'code',
        l.why->>'message', l.traceback, l.fingerprint
    FROM locked l JOIN tasks t USING (id) WHERE l.next = 'failed' AND l.queue IS NOT NULL
)"""


class Edit(msgspec.Struct, frozen=True):
    """Another payload for a task, and how many with its key run at once then (see `NewTask`).

    Who does not know its type ``keeps_limit``: the task has the limit that it had.
    """

    payload: Any
    concurrency: int | None = None
    concurrency_key: str | None = None
    keeps_limit: bool = False


class Replay(msgspec.Struct, frozen=True):
    """Run the task of a dead letter again, with a new budget. Repeated, it knows its ``ticket`` again.

    With an ``edit`` its payload is another one from now on, and it begins without the state that was saved
    for the one that failed. ``by`` is who wants it.
    """

    dead_letter: UUID
    ticket: UUID = msgspec.field(default_factory=new_id)
    edit: Edit | None = None
    by: str | None = None


class Discard(msgspec.Struct, frozen=True):
    """Resolve a dead letter without running anything; a task stays failed. ``by`` is who wants it."""

    dead_letter: UUID
    by: str
    ticket: UUID = msgspec.field(default_factory=new_id)


class Wish(Protocol):
    """What somebody wants to become of a dead letter."""

    @property
    def dead_letter(self) -> UUID:
        """Which."""

    @property
    def ticket(self) -> UUID:
        """By it the wish is known again when it is repeated."""

    @property
    def by(self) -> str:
        """Who wants it."""


WishT = TypeVar("WishT", bound=Wish)
#: What a replay may answer, besides what a retry does. FOREIGN: the letter is of no task of ours.
REPLAYED, RESOLVED, FOREIGN = "replayed", "resolved", "foreign"
#: What a discard answers, if it does not answer MISSING or RESOLVED.
DISCARDED = "discarded"

# The task of a resolved letter may be gone: a recovery has made its stage anew.
_ASKED = """
SELECT d.id, d.task_id, t.run_id, d.resolved_by, d.resolution, t.id IS NULL
FROM dead_letters d LEFT JOIN tasks t ON t.id = d.task_id WHERE d.id = ANY(%s)"""

_UNKEPT = "SELECT id, task_id FROM dead_letters WHERE task_id = ANY(%s) AND payload IS NULL"
_LOCK_UNKEPT = _UNKEPT + " ORDER BY id FOR NO KEY UPDATE SKIP LOCKED"

# Nothing is saved under the next version of its state: what was belongs to the payload that failed.
_EDIT = """
WITH given AS (
    SELECT id, coalesce(payload, 'null') AS payload, concurrency, concurrency_key, keeps_limit
    FROM jsonb_to_recordset(%s::jsonb)
        AS g(id uuid, payload jsonb, concurrency integer, concurrency_key text, keeps_limit boolean)
), kept AS (
    UPDATE dead_letters d SET payload = t.payload FROM given JOIN tasks t USING (id)
    WHERE d.task_id = given.id AND d.payload IS NULL
), begun_anew AS (
    UPDATE task_state s SET snapshot = s.snapshot + (s.snapshot > 0)::integer,
        concurrency = CASE WHEN keeps_limit THEN s.concurrency ELSE given.concurrency END,
        concurrency_key = CASE WHEN keeps_limit THEN s.concurrency_key ELSE given.concurrency_key END
    FROM given WHERE s.id = given.id
)
UPDATE tasks t SET payload = given.payload FROM given WHERE t.id = given.id"""

_LOCK_LETTERS = """
SELECT id, resolution, resolved_by FROM dead_letters WHERE id = ANY(%s)
ORDER BY id FOR NO KEY UPDATE SKIP LOCKED"""
_KNOWN = "SELECT id FROM dead_letters WHERE id = ANY(%s)"
_SETTLE = """
UPDATE dead_letters d SET resolution = %s, resolved_at = now(), resolved_by = r.ticket,
    resolver = r.by
FROM jsonb_to_recordset(%s::jsonb) AS r(id uuid, ticket uuid, by text) WHERE d.id = r.id"""


class _Letter(NamedTuple):
    target: Target
    resolved_by: UUID | None


class _Case(NamedTuple):
    """What the replays of a transaction are about."""

    letters: dict[UUID, _Letter]
    answers: dict[UUID, str]
    scene: Scene
    #: Tasks with a letter that has yet to keep the payload that failed, and is in other hands just now.
    held: set[UUID]


def replay(tx: Transaction, items: Sequence[Replay]) -> list[object]:
    """Open a new round for the tasks of dead letters: what became of each, or SKIPPED if locked.

    A dead letter is replayed once, however many ask for it at the same time.
    """
    case = _look_at(tx, items)
    openings: list[Opening] = []
    answers = [_replay_one(item, case, openings) for item in items]
    edits = {
        case.letters[item.dead_letter].target.task_id: item.edit
        for item, opening in zip(items, answers, strict=True)
        if item.edit is not None and isinstance(opening, Opening)
    }
    if edits:
        tx.execute(_EDIT, as_json([{"id": one, **_fields(edit)} for one, edit in edits.items()]))
    open_rounds(tx, openings)
    return [REPLAYED if isinstance(answer, Opening) else answer for answer in answers]


def _look_at(tx: Transaction, items: Sequence[Replay]) -> _Case:
    letters: dict[UUID, _Letter] = {}
    answers: dict[UUID, str] = {}
    for letter, task_id, run_id, resolved_by, resolution, is_gone in tx.rows(
        _ASKED, [item.dead_letter for item in items]
    ):
        if task_id is None:
            answers[letter] = FOREIGN
        elif is_gone:
            answers[letter] = MISSING if resolution is None else RESOLVED
        else:
            letters[letter] = _Letter(Target(task_id, run_id), resolved_by)
    edited = [
        letters[item.dead_letter].target.task_id
        for item in items
        if item.edit is not None and item.dead_letter in letters
    ]
    scene = Scene(tx, [letter.target for letter in letters.values()])
    unkept = set(tx.rows(_UNKEPT, edited)) if edited else set()
    ours = set(tx.rows(_LOCK_UNKEPT, edited)) if edited else set()
    return _Case(letters, answers, scene, {task_id for _, task_id in unkept - ours})


def _replay_one(item: Replay, case: _Case, openings: list[Opening]) -> object:
    """The round that is opened, or an answer."""
    letter = case.letters.get(item.dead_letter)
    if letter is None:
        return case.answers.get(item.dead_letter, MISSING)
    if letter.resolved_by == item.ticket:  # an earlier commit of unknown outcome went through
        return REPLAYED
    objection = case.scene.objection(letter.target)
    if objection is not None:
        return objection
    opening = case.scene.open(letter.target, item.ticket, REPLAYED)
    if opening is None or (item.edit is not None and letter.target.task_id in case.held):
        return SKIPPED
    if item.dead_letter not in opening.letters:
        return RESOLVED
    case.scene.note(opening, letter.target.run_id)
    message = REPLAYED if item.edit is None else "replayed with another payload"
    opening = msgspec.structs.replace(opening, message=message, by=item.by)
    openings.append(opening)
    return opening


def _fields(edit: Edit) -> dict[str, Any]:
    return {name: getattr(edit, name) for name in edit.__struct_fields__}


def discard(tx: Transaction, items: Sequence[Discard]) -> list[object]:
    """Resolve dead letters for good: "discarded", "missing", "resolved", or SKIPPED if locked."""
    known = {row[0] for row in tx.rows(_KNOWN, [item.dead_letter for item in items])}
    answers, _ = settle(tx, items, known, DISCARDED)
    return answers


def settle(
    tx: Transaction, items: Sequence[WishT], known: set[UUID], word: str
) -> tuple[list[object], list[WishT]]:
    """Resolve those of the ``known`` letters that are open as ``word``, without opening a round.

    What each wish is answered: the word, "missing", "resolved", or SKIPPED if locked; and those that did it.
    """
    locked = {row[0]: row[1:] for row in tx.rows(_LOCK_LETTERS, [item.dead_letter for item in items])}
    settled: dict[UUID, WishT] = {}
    answers = [_settle_one(item, locked.get(item.dead_letter), known, settled, word) for item in items]
    if settled:
        rows = [{"id": one.dead_letter, "ticket": one.ticket, "by": one.by} for one in settled.values()]
        tx.execute(_SETTLE, word, as_json(rows))
    return answers, list(settled.values())


def _settle_one(
    item: WishT,
    letter: tuple[str | None, UUID | None] | None,
    known: set[UUID],
    settled: dict[UUID, WishT],
    word: str,
) -> object:
    if item.dead_letter not in known:
        return MISSING
    if letter is None:
        return SKIPPED
    resolution, resolved_by = letter
    if resolved_by == item.ticket:  # an earlier commit of unknown outcome went through
        return word
    if resolution is not None or item.dead_letter in settled:
        return RESOLVED
    settled[item.dead_letter] = item
    return word
