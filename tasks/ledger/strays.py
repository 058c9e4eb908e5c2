"""The verbs about what lies in queues of dead letters on RabbitMQ.

A message that is not ours becomes a dead letter without a task: kept, then replayed or discarded. Of our own
copies it is noted here when they are gone.
"""

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any
from uuid import UUID

import msgspec

from tasks.ids import new_id
from tasks.ledger.dead_letters import REPLAYED, settle
from tasks.ledger.group import Group
from tasks.ledger.inserts import insert_tasks
from tasks.ledger.transaction import SKIPPED, Transaction, as_json
from tasks.values import NewTask

ERROR_CLASS, CODE = "ForeignMessage", "foreign_message"
#: So many letters are noted in one verb.
BATCH = 1_000


class Keep(msgspec.Struct, frozen=True):
    """Put a message that is not ours on record; it still is on RabbitMQ. Repeated, it is there already."""

    dead_letter: UUID
    queue: str
    task_type: str
    message: str
    body: bytes
    properties: dict[str, Any]
    frame: bytes
    digest: bytes


class Removed(msgspec.Struct, frozen=True):
    """The messages of these letters are not on RabbitMQ any more."""

    dead_letters: Sequence[UUID]


class ReplayForeign(msgspec.Struct, frozen=True):
    """Replay a foreign message: as these ``tasks``, or without any by publishing it again to its queue."""

    dead_letter: UUID
    by: str
    tasks: Sequence[NewTask] = ()
    ticket: UUID = msgspec.field(default_factory=new_id)


class Returned(msgspec.Struct, frozen=True):
    """These foreign messages were published again, and confirmed."""

    dead_letters: Sequence[UUID]


_KEEP = """
WITH letter AS (
    INSERT INTO dead_letters (id, task_type, queue_name, user_id, attempt, error_class, code, message,
        copied_at)
    VALUES (%(id)s, %(task_type)s, %(queue)s, '', 0, %(error_class)s, %(code)s, %(message)s, now())
    ON CONFLICT (id) DO NOTHING RETURNING id
)
INSERT INTO foreign_messages (dead_letter, body, properties, frame, digest)
SELECT id, %(body)s, %(properties)s::jsonb, %(frame)s, %(digest)s FROM letter"""

_NOTE = """
WITH locked AS (
    SELECT id FROM dead_letters WHERE id = ANY(%s) AND copy_removed_at IS NULL
    ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE dead_letters d SET copy_removed_at = now() FROM locked WHERE d.id = locked.id"""
_UNNOTED = "SELECT id FROM dead_letters WHERE id = ANY(%s) AND copy_removed_at IS NULL"

_FOREIGN = "SELECT dead_letter FROM foreign_messages WHERE dead_letter = ANY(%s)"

_REPLAYED_AS = """
UPDATE foreign_messages f SET replayed_as = r.task_id, owed = r.task_id IS NULL
FROM jsonb_to_recordset(%s::jsonb) AS r(id uuid, task_id uuid) WHERE f.dead_letter = r.id"""
_RETURNED = """
UPDATE foreign_messages SET owed = false, returned_at = now() WHERE dead_letter = ANY(%s) AND owed"""


def keep(tx: Transaction, items: Sequence[Keep]) -> list[None]:
    """Put foreign messages on record, once each."""
    for item in items:
        tx.execute_named(
            _KEEP,
            {
                "id": item.dead_letter,
                "task_type": item.task_type,
                "queue": item.queue,
                "error_class": ERROR_CLASS,
                "code": CODE,
                "message": item.message,
                "body": item.body,
                "properties": as_json(item.properties),
                "frame": item.frame,
                "digest": item.digest,
            },
        )
    return [None for _ in items]


def removed(tx: Transaction, items: Sequence[Removed]) -> list[object]:
    """Note what is not on RabbitMQ any more: None, or SKIPPED while others hold one of the letters."""
    ids = [letter for item in items for letter in item.dead_letters]
    tx.execute(_NOTE, ids)
    left = {row[0] for row in tx.rows(_UNNOTED, ids)}
    return [SKIPPED if left.intersection(item.dead_letters) else None for item in items]


def replay_foreign(tx: Transaction, items: Sequence[ReplayForeign]) -> list[object]:
    """Replay foreign messages, once each: "replayed", "resolved", "missing", or SKIPPED."""
    foreign = {row[0] for row in tx.rows(_FOREIGN, [item.dead_letter for item in items])}
    answers, replayed = settle(tx, items, foreign, REPLAYED)
    if replayed:
        insert_tasks(tx, [task for item in replayed for task in item.tasks])
        rows = [
            {"id": item.dead_letter, "task_id": item.tasks[0].id if item.tasks else None} for item in replayed
        ]
        tx.execute(_REPLAYED_AS, as_json(rows))
    return answers


def returned(tx: Transaction, items: Sequence[Returned]) -> list[None]:
    """Note that foreign messages are in their queue again."""
    tx.execute(_RETURNED, [letter for item in items for letter in item.dead_letters])
    return [None for _ in items]


class Strays:
    """What a ledger is asked about messages in queues of dead letters; a part of `tasks.ledger.Ledger`."""

    _group: Group

    def keep_foreign(self, message: Keep) -> Future[None]:
        """Put a message that is not ours on record."""
        return self._group.add("keep_foreign", message, size=len(message.body) + len(message.frame))

    def copies_removed(self, dead_letters: Sequence[UUID]) -> Future[None]:
        """The messages of these letters (up to `BATCH`) are not on RabbitMQ any more."""
        return self._group.add("copies_removed", Removed(dead_letters), rows=len(dead_letters))

    def replay_foreign(self, how: ReplayForeign, *, patience: float | None = None) -> Future[str]:
        """Replay a message that is not ours: "replayed", "resolved" (before) or "missing"."""
        return self._group.add("replay_foreign", how, rows=1 + len(how.tasks), patience=patience)

    def foreign_returned(self, dead_letters: Sequence[UUID]) -> Future[None]:
        """These foreign messages were published again to their queue, and confirmed."""
        return self._group.add("foreign_returned", Returned(dead_letters), rows=len(dead_letters))
