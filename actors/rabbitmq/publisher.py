"""The publisher: batches of hints in a pipeline of confirms, on one connection with a thread of its own.

A batch is confirmed as a whole, or it is reported as not confirmed and its rows are dispatched again; a
message that then exists twice is told by its dispatch id.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from heapq import nsmallest
from math import ceil
from typing import Any

import pika
import pika.exceptions

from actors.rabbitmq.messages import Letter, dispatch_of, letters_for
from actors.rabbitmq.topology import declarations
from tasks.ids import noise
from tasks.values import Publication

log = logging.getLogger("callboard.publisher")

RECONNECT_SECONDS = 0.2
COUNT_SECONDS = 0.2
#: Queues that have messages, or had lately, are counted so often; any other one as often as this.
LIVELY_SECONDS = QUIET_SECONDS = 5.0
CONFIRM_SECONDS = 10.0
REFUSED_SECONDS = 60.0
#: How many messages may wait in a queue for which processes publish what they submit themselves.
WINDOW = 64
DEAD_ENDING = ".XQ"
REMEMBERED = 1_000


class _Batch:
    """A dispatch that is being published: the tags that are not confirmed yet."""

    def __init__(self, dispatch: int, letters: Sequence[Letter]) -> None:
        self.dispatch = dispatch
        self.letters = letters
        self.tags: set[int] = set()
        self.began = time.monotonic()


class Publisher:
    """An outlet of the ledger (see `tasks.ledger.Outlet`) on RabbitMQ.

    ``confirmed(dispatch)`` and ``unconfirmed(dispatch)`` are called on the publisher's thread.
    """

    def __init__(
        self,
        urls: Sequence[pika.URLParameters],
        queue_type: str,
        *,
        confirmed: Callable[[int], Any],
        unconfirmed: Callable[[int], Any],
        window: int = WINDOW,
    ) -> None:
        self._urls = list(urls)
        self._queue_type = queue_type
        self._confirmed = confirmed
        self._unconfirmed = unconfirmed
        self._window = window
        self._stopping = threading.Event()
        self._connection: Any = None
        self._channel: Any = None
        self._open = False
        self._blocked = False
        self._declared: set[str] = set()
        self._wanted: set[str] = set()
        self._refused: dict[str, float] = {}
        self._ready: dict[str, int] = {}
        self._lively: dict[str, float] = {}
        self._counted: dict[str, float] = {}
        self._lock = threading.Lock()
        self._inbox: deque[_Batch] = deque()
        self._batches: dict[int, _Batch] = {}
        self._by_tag: dict[int, _Batch] = {}
        self._given_up: deque[int] = deque(maxlen=REMEMBERED)
        self._next_tag = 1
        self._turn = 0
        self._shared: tuple[int, int] | None = None
        self._complaint = ""
        self._thread = threading.Thread(target=self._run, name="callboard-publisher", daemon=True)

    # --- the outlet, on any thread ---------------------------------------------------------------

    def start(self) -> "Publisher":
        """Connect, on the publisher's own thread, and stay connected."""
        self._thread.start()
        return self

    @property
    def is_open(self) -> bool:
        """Whether messages can be published now."""
        return self._open and not self._blocked

    def stamp(self) -> int | None:
        """A new dispatch id, or None while RabbitMQ is away or blocks publishers."""
        return new_dispatch() if self.is_open else None

    def room(self, queue: str) -> int:
        """How many more messages of a queue may be published now."""
        return max(0, self._window - self._ready.get(queue, 0)) if self.is_open else 0

    def share(self, dispatch: int, together: int) -> None:
        """A message of this dispatch, the next one of the dispatcher, may name so many tasks."""
        self._shared = (dispatch, together)

    def watch(self, queues: Iterable[str]) -> None:
        """Declare and count these queues too, though this process may never have published to them."""
        self._wanted.update(queues)

    def heed(self, queues: Iterable[str]) -> None:
        """Something goes on in these queues: count them often for a while."""
        now = time.monotonic()
        self._lively.update((queue, now) for queue in queues)

    def ready_count(self, queue: str) -> int | None:
        """RabbitMQ's own count of ready messages as last seen; None if it is not known."""
        return self._ready.get(queue) if self.is_open else None

    def vitals(self) -> dict[str, Any]:
        """Whether it can publish, and what is ready on RabbitMQ (see `tasks.vitals.Vitals`)."""
        return {"connected": self.is_open, "ready": dict(self._ready) if self.is_open else {}}

    def gave_up(self, dispatch: int) -> bool:
        """Whether RabbitMQ refused a batch, lately."""
        return dispatch in self._given_up

    def publish(self, dispatch: int, publications: Sequence[Publication]) -> None:
        """Publish a committed batch."""
        shared = self._shared
        together = shared[1] if shared is not None and shared[0] == dispatch else 1
        with self._lock:  # a batch is taken by this connection, and then begun or reported by it
            taken = self._open
            if taken:
                self._inbox.append(_Batch(dispatch, letters_for(publications, together)))
        if not taken:
            self._unconfirmed(dispatch)
            return
        try:
            self._connection.ioloop.add_callback_threadsafe(self._begin_all)
        except Exception:
            log.info("a batch met a closing connection and is dispatched again")

    def close(self) -> None:
        """Stop. What is not confirmed by now is left to others."""
        self._stopping.set()
        connection = self._connection
        if connection is not None and self._thread.is_alive():
            connection.ioloop.add_callback_threadsafe(self._hang_up)
        self._thread.join(5)

    # --- on the publisher's thread ---------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._connection = pika.SelectConnection(
                    self._urls[self._turn % len(self._urls)],
                    on_open_callback=self._on_open,
                    on_open_error_callback=self._on_lost,
                    on_close_callback=self._on_lost,
                )
                self._connection.add_on_connection_blocked_callback(lambda *_: self._set_blocked(True))
                self._connection.add_on_connection_unblocked_callback(lambda *_: self._set_blocked(False))
                self._connection.ioloop.start()
            except Exception:
                log.exception("the publisher's connection failed")
            self._forget()
            self._turn += 1
            self._stopping.wait(RECONNECT_SECONDS)

    def _on_open(self, connection: Any) -> None:
        connection.channel(on_open_callback=self._on_channel)

    def _on_channel(self, channel: Any) -> None:
        self._channel = channel
        channel.add_on_close_callback(self._on_channel_closed)
        channel.add_on_return_callback(self._on_returned)
        channel.confirm_delivery(self._on_confirm, callback=self._on_confirming)

    def _on_confirming(self, frame: Any) -> None:
        self._open = True
        log.info("publishing to RabbitMQ")
        self._watch()

    def _on_lost(self, connection: Any, reason: BaseException) -> None:
        if self._open and not self._stopping.is_set():
            log.warning("RabbitMQ went away, connecting again: %s", reason)
        connection.ioloop.stop()

    def _on_channel_closed(self, channel: Any, reason: BaseException) -> None:
        if not self._stopping.is_set() and str(reason) != self._complaint:
            self._complaint = str(reason)
            log.warning("RabbitMQ closed the publisher's channel: %s", reason)
        self._hang_up()

    def _set_blocked(self, blocked: bool) -> None:
        self._blocked = blocked
        log.warning("RabbitMQ %s publishers", "blocks" if blocked else "lets in")

    def _hang_up(self) -> None:
        if self._connection.is_open:
            self._connection.close()
        elif self._connection.is_closed:
            self._connection.ioloop.stop()

    def _forget(self) -> None:
        """The connection is gone: whatever was not confirmed is dispatched again by somebody."""
        with self._lock:
            self._open = self._blocked = False
            unseen = [batch.dispatch for batch in self._inbox]
            self._inbox.clear()
        self._declared.clear()
        self._refused.clear()
        self._ready.clear()
        self._by_tag.clear()
        self._next_tag = 1
        batches, self._batches = self._batches, {}
        for dispatch in [*batches, *unseen]:
            self._unconfirmed(dispatch)

    def _watch(self) -> None:
        """Every moment: count what is ready, and give up on batches that RabbitMQ does not confirm."""
        if not self._open or self._stopping.is_set():
            return
        now = time.monotonic()
        if any(now - batch.began > CONFIRM_SECONDS for batch in self._batches.values()):
            log.warning("RabbitMQ confirms nothing any more, connecting again")
            self._hang_up()
            return
        for queue in self._to_be_counted(now):
            self._count(queue)
        self._refused = {queue: at for queue, at in self._refused.items() if now - at < REFUSED_SECONDS}
        missing = sorted(self._wanted - self._declared - set(self._refused))
        self._declare(missing, lambda: self._connection.ioloop.call_later(COUNT_SECONDS, self._watch))

    def _to_be_counted(self, now: float) -> list[str]:
        """Each moment what is lively, and some of what is quiet: many queues are not counted all at once."""
        quiet = [
            queue
            for queue in self._declared
            if now - self._lively.get(queue, 0.0) > LIVELY_SECONDS and not self._ready.get(queue)
        ]
        some = ceil(len(quiet) * COUNT_SECONDS / QUIET_SECONDS)
        longest_ago = nsmallest(some, quiet, key=lambda queue: self._counted.get(queue, 0.0))
        return [*self._declared.difference(quiet), *longest_ago]

    def _count(self, queue: str) -> None:
        self._counted[queue] = time.monotonic()
        (_, _), (name, arguments) = declarations(queue, self._queue_type)
        self._channel.queue_declare(
            name, durable=True, arguments=arguments, callback=lambda frame: self._on_counted(queue, frame)
        )

    def _on_counted(self, queue: str, frame: Any) -> None:
        self._ready[queue] = frame.method.message_count

    def _begin_all(self) -> None:
        while self._inbox:
            self._begin(self._inbox.popleft())

    def _begin(self, batch: _Batch) -> None:
        self._batches[batch.dispatch] = batch
        missing = sorted({letter.queue for letter in batch.letters} - self._declared - set(self._refused))
        self._declare(missing, lambda: self._publish(batch))

    def _declare(self, queues: list[str], then: Callable[[], None]) -> None:
        """Create queues one after the other, then go on.

        On a channel of its own: RabbitMQ closes the channel on which it refuses something.
        """
        if not queues:
            then()
            return
        queue, rest = queues[0], queues[1:]

        def on_declared(frame: Any) -> None:
            self._declared.add(queue)
            self._ready[queue] = frame.method.message_count
            channel.close()

        def on_closed(_: Any, reason: BaseException) -> None:
            if queue not in self._declared and self._open:
                log.error("RabbitMQ refuses the queue %s, its tasks wait: %s", queue, reason)
                self._refused[queue] = time.monotonic()
                self._ready[queue] = self._window
            if self._connection.is_open:
                self._declare(rest, then)

        def on_open(opened: Any) -> None:
            opened.add_on_close_callback(on_closed)
            (dead, dead_arguments), (name, arguments) = declarations(queue, self._queue_type)
            opened.queue_declare(dead, durable=True, arguments=dead_arguments)
            opened.queue_declare(name, durable=True, arguments=arguments, callback=on_declared)

        channel = self._connection.channel(on_open_callback=on_open)

    def _publish(self, batch: _Batch) -> None:
        if not self._open or any(letter.queue in self._refused for letter in batch.letters):
            self._give_up(batch)
            return
        for letter in batch.letters:
            self._channel.basic_publish(
                "", letter.routing_key, letter.body, letter.properties, mandatory=True
            )
            batch.tags.add(self._next_tag)
            self._by_tag[self._next_tag] = batch
            self._next_tag += 1
            if letter.routing_key == letter.queue:
                self._lively[letter.queue] = batch.began
                self._ready[letter.queue] = self._ready.get(letter.queue, 0) + 1

    def _on_confirm(self, frame: Any) -> None:
        method = frame.method
        tags = [method.delivery_tag]
        if method.multiple:
            tags = [tag for tag in self._by_tag if tag <= method.delivery_tag]
        refused = isinstance(method, pika.spec.Basic.Nack)
        for tag in tags:
            batch = self._by_tag.pop(tag, None)
            if batch is None:
                continue
            batch.tags.discard(tag)
            if refused:
                self._give_up(batch)
            elif not batch.tags and self._batches.pop(batch.dispatch, None) is not None:
                self._confirmed(batch.dispatch)

    def _on_returned(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        """A queue was deleted under us: declare it again, and dispatch the batch again."""
        self._declared.discard(method.routing_key.removesuffix(DEAD_ENDING))
        dispatch = dispatch_of(body)
        batch = None if dispatch is None else self._batches.get(dispatch)
        if batch is not None:
            self._give_up(batch)

    def _give_up(self, batch: _Batch) -> None:
        self._given_up.append(batch.dispatch)
        if self._batches.pop(batch.dispatch, None) is not None:
            self._unconfirmed(batch.dispatch)


def new_dispatch() -> int:
    """A random id for a batch (62 bits)."""
    return int.from_bytes(noise()[:8], "big") >> 2
