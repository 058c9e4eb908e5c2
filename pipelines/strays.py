"""Replaying messages that are not ours: as a task if they call a type of ours, else as they were."""

from typing import Any
from uuid import UUID

from dramatiq import Message

from actors.kept import as_kept
from actors.rabbitmq.foreign import call_in
from actors.submission import Order, Submission
from tasks.errors import Conflict, InvalidField
from tasks.ledger import Ledger
from tasks.ledger.rounds import MISSING
from tasks.ledger.strays import ReplayForeign
from tasks.queries import Queries
from tasks.strays import ForeignMessage, StrayQueries
from tasks.values import NewTask


class StrayReplayer:
    """Replays dead letters that have no task. ``has_rabbitmq``: whether messages can be published again."""

    def __init__(
        self,
        submission: Submission,
        ledger: Ledger,
        queries: Queries,
        strays: StrayQueries,
        *,
        has_rabbitmq: bool,
    ) -> None:
        self._submission = submission
        self._ledger = ledger
        self._queries = queries
        self._strays = strays
        self._has_rabbitmq = has_rabbitmq

    def replay(self, dead_letter: UUID, *, created_by: str, patience: float | None = None) -> str:
        """Replay a foreign message, once: "replayed", "resolved" (before), or "missing". Blocks.

        A message that goes back to its queue is published by the janitor, a second later or so, and again
        if a process dies before RabbitMQ's confirmation is on record.

        Raises:
          Conflict: it cannot be replayed; the message says why.
          InvalidField: it calls a type that is known, but its argument does not fit.
          Unavailable: Postgres cannot be reached.
        """
        message = self._strays.foreign_message(dead_letter)
        if message is None:
            return MISSING
        tasks = self._tasks(message, created_by)
        if not tasks and not self._has_rabbitmq:
            raise Conflict("It can only go back to a queue on RabbitMQ: set CALLBOARD_BROKER_URL.")
        return self._ledger.replay_foreign(
            ReplayForeign(dead_letter, created_by, tasks), patience=patience
        ).result()

    def _tasks(self, message: ForeignMessage, created_by: str) -> list[NewTask]:
        """The task that a message calls for, as the first of these; none if its type is not known."""
        call = call_in(message.body)
        known = self._queries.task_types().get(call.actor_name) if call is not None else None
        if call is None or known is None:
            return []
        order = Order(
            task_type=known.name,
            payload=_argument(call),
            queue_name=None if known.is_pipeline else message.queue,
            created_by=created_by,
        )
        return self._submission.prepare(order)


def _argument(call: "Message[Any]") -> Any:
    arguments = [*call.args, *([call.kwargs] if call.kwargs else [])]
    if len(arguments) != 1:
        raise Conflict(
            f"It calls {call.actor_name} with {len(arguments)} arguments, and a task has one payload:"
            " submit what it means, then discard it."
        )
    try:
        return as_kept(arguments[0])
    except ValueError as error:
        raise InvalidField.of("payload", str(error)) from None
