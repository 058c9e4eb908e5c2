"""The janitor of queues of dead letters: what is settled leaves ``<queue>.XQ``, what is not ours is recorded.

It works on a thread and a connection of its own in a clock process. Any number may run: for each queue one
works at a time.
"""

import logging
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from heapq import nsmallest
from itertools import islice
from typing import Any
from uuid import UUID

import pika
import pika.exceptions
from dramatiq.common import xq_name
from dramatiq.errors import ConnectionClosed

from actors.rabbitmq.foreign import properties_of
from actors.rabbitmq.surplus import Surplus
from actors.rabbitmq.topology import (
    CONNECTION_ERRORS,
    DEAD_MESSAGE_TTL_MS,
    connect,
    declarations,
    message_counts,
)
from actors.rabbitmq.walk import Walk
from tasks.errors import CallboardError
from tasks.ledger import Ledger
from tasks.ledger.strays import BATCH, Keep
from tasks.ports import Locks
from tasks.strays import Shelf, StrayQueries

log = logging.getLogger("callboard.janitor")

LOOK_SECONDS = 1.0
#: So many queues are looked at each time though nothing is known to go on in them: some of those that had to
#: wait longest. A count costs RabbitMQ and us about as much as a message.
MOST_QUIET = 50
#: After a failure; and after a walk through more than one walk can see, or where RabbitMQ refuses.
PAUSE_SECONDS, LONG_PAUSE_SECONDS = 2.0, 60.0
VERB_SECONDS = 30.0
COPY_SECONDS = DEAD_MESSAGE_TTL_MS / 1_000
#: So many messages go back to their queue in one step.
MOST_RETURNED = 100
#: A walk that took long is not begun again before so many times as long: others have work to do here.
REST = 4.0
REFUSALS = (
    pika.exceptions.AMQPChannelError,
    pika.exceptions.UnroutableError,
    pika.exceptions.NackError,
)
TROUBLES = (*CONNECTION_ERRORS, ConnectionClosed, CallboardError, TimeoutError)


class Janitor:
    """Looks at the counts every second, and walks through a queue only if they give a reason."""

    def __init__(
        self,
        urls: Sequence[pika.URLParameters],
        queue_type: str,
        ledger: Ledger,
        queries: StrayQueries,
        locks: Locks,
    ) -> None:
        self._urls = urls
        self._queue_type = queue_type
        self._ledger = ledger
        self._queries = queries
        self._locks = locks
        self._connection: Any = None
        self._promised: list[Future[None]] = []
        self._surplus: dict[str, Surplus] = {}
        self._not_before: dict[str, float] = {}
        self._seen: dict[str, tuple[Shelf, float]] = {}
        self._complaint = ""

    def run(self, stopping: threading.Event) -> None:
        """Keep the queues in order until ``stopping`` is set; what fails is tried again."""
        while not stopping.wait(PAUSE_SECONDS if self._complaint else LOOK_SECONDS):
            try:
                self.step()
                self._complaint = ""
            except TROUBLES as error:
                self._complain(error)
                self.close()
            except Exception:
                log.exception("the janitor failed, it goes on trying")
                self._complaint = "failed"
                self.close()
        self.close()

    def step(self) -> None:
        """Look at the queues whose turn it is, and do what is to be done.

        Raises:
          ConnectionClosed, AMQPError, OSError: RabbitMQ is away.
          Unavailable: Postgres is.
        """
        self._promised = [one for one in self._promised if not one.done()]
        if self._promised:  # a message that may be on record or not would be recorded twice
            return
        if self._connection is None or not self._connection.is_open:
            self._connection = connect(self._urls)
        self._connection.process_data_events(0)
        before = self._queries.shelves(COPY_SECONDS)
        queues = self._due(before)
        counts = message_counts(self._connection, [xq_name(queue) for queue in queues])
        shelves = self._queries.shelves(COPY_SECONDS)
        for queue in queues:
            shelf = shelves.get(queue)
            if shelf is not None:
                is_quiet = shelf == before[queue] and not shelf.sending
                self._try(shelf, counts.get(xq_name(queue)), is_quiet=is_quiet)

    def _due(self, shelves: dict[str, Shelf]) -> list[str]:
        """Queues in which something goes on, and some others."""
        now = time.monotonic()
        seen = {queue: self._seen.get(queue, (shelf, 0.0)) for queue, shelf in shelves.items()}
        due = {queue for queue in shelves if self._not_before.get(queue, now) <= now}
        quiet = [queue for queue in due if shelves[queue].is_quiet and shelves[queue] == seen[queue][0]]
        due -= set(quiet)
        due.update(nsmallest(MOST_QUIET, quiet, key=lambda queue: seen[queue][1]))
        self._seen = seen | {queue: (shelves[queue], now) for queue in due}
        return sorted(due)

    def close(self) -> None:
        """Close the connection: RabbitMQ gets back what was not acknowledged."""
        connection, self._connection = self._connection, None
        try:
            if connection is not None and connection.is_open:
                connection.close()
        except CONNECTION_ERRORS:
            log.debug("the janitor's connection was closed already")

    def _try(self, shelf: Shelf, count: int | None, *, is_quiet: bool) -> None:
        try:
            if count is None:  # asking for what is not there would fill RabbitMQ's log
                self._declare(shelf.queue)
            self._look(shelf, count or 0, is_quiet=is_quiet)
        except REFUSALS as error:  # of this queue: the others need not wait for it
            log.warning("RabbitMQ refuses the janitor of %s, it tries again: %s", shelf.queue, error)
            self._not_before[shelf.queue] = time.monotonic() + LONG_PAUSE_SECONDS

    def _look(self, shelf: Shelf, count: int, *, is_quiet: bool) -> None:
        surplus = self._surplus.setdefault(shelf.queue, Surplus())
        is_more = surplus.is_there(count, shelf.copies, is_quiet=is_quiet)
        if not (is_more or shelf.resolved or shelf.owed):
            return
        hold = self._locks.try_hold(f"callboard janitor {shelf.queue}")
        if hold is None:  # another clock's janitor is at it
            return
        try:
            if is_more or shelf.resolved:
                self._clear(shelf.queue, looking_for_more=is_more)
            if shelf.owed:
                self._give_back(shelf.queue)
        finally:
            hold.release()

    def _clear(self, queue: str, *, looking_for_more: bool) -> None:
        """Walk through the dead letters of a queue, and note what is not there any more."""
        began = time.monotonic()
        expected, due = self._queries.copies(queue, COPY_SECONDS), self._queries.to_remove(queue)
        walk = Walk(queue, self._queries, self._keep, due)
        channel = self._connection.channel()
        try:
            found = walk.through(channel, xq_name(queue), looking_for_more=looking_for_more)
        finally:
            if channel.is_open:
                channel.close()
        self._note(found.gone)
        now = time.monotonic()
        self._not_before[queue] = now + REST * (now - began)
        if found.is_whole:
            self._surplus[queue].walked(found.unrecorded - len(expected - found.seen - found.gone))
        elif looking_for_more:
            self._not_before[queue] = now + LONG_PAUSE_SECONDS

    def _keep(self, message: Keep) -> "Future[None]":
        promised = self._ledger.keep_foreign(message)
        self._promised.append(promised)
        return promised

    def _note(self, gone: Iterable[UUID]) -> None:
        letters = iter(sorted(gone))
        while batch := list(islice(letters, BATCH)):
            self._ledger.copies_removed(batch).result(VERB_SECONDS)

    def _give_back(self, queue: str) -> None:
        """Publish foreign messages to their queue again, confirmed one by one, as operators wish."""
        self._declare(queue)
        channel = self._connection.channel()
        try:
            channel.confirm_delivery()
            for message in self._queries.owed(queue, MOST_RETURNED):
                channel.basic_publish("", queue, message.body, properties_of(message), mandatory=True)
                self._ledger.foreign_returned([message.dead_letter]).result(VERB_SECONDS)
        finally:
            if channel.is_open:
                channel.close()

    def _declare(self, queue: str) -> None:
        channel = self._connection.channel()
        for name, arguments in declarations(queue, self._queue_type):
            channel.queue_declare(name, durable=True, arguments=arguments)
        channel.close()

    def _complain(self, error: Exception) -> None:
        words = f"{type(error).__name__}: {error}"
        if words != self._complaint:
            log.warning("the janitor of dead letters cannot work now, it goes on trying: %s", words)
        self._complaint = words
