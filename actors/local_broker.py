"""The broker of the embedded default: workers fetch from Postgres by claiming; no RabbitMQ is needed."""

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, wait
from typing import Any

from dramatiq import Broker, Message
from dramatiq.broker import Consumer, MessageProxy

from actors.delivery import Delivery, Slots, message_for
from actors.errors import BrokerError
from tasks.ledger import Ledger
from tasks.values import Claimed, Fetched

log = logging.getLogger("callboard.consumer")

#: How long an idle consumer waits before it looks by itself, in seconds; a notice wakes it at once.
POLL = 1.0
#: However soon there may be more: a look costs a statement.
LEAST_PAUSE = 0.005
STOPPING_PAUSE = 0.1
STEP_SECONDS = 0.2
RELEASE_SECONDS = 10.0
MOST_AT_ONCE = 256


class LocalBroker(Broker):
    """A Dramatiq broker whose queues are the ready rows of the record.

    One consumer fetches for all queues of the process, or for ``only`` some: what is idle costs the same,
    however many queues there are.
    """

    def __init__(self, ledger: Ledger, slots: Slots, only: Sequence[str] = ()) -> None:
        super().__init__(middleware=[])
        self.ledger = ledger
        self.slots = slots
        self.only = list(only) or None
        self.queues: set[str] = set()
        self.stopping = threading.Event()
        self.woken = threading.Event()

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 1_000) -> "LocalConsumer":
        """The consumer that claims ready tasks, of whatever queue."""
        return LocalConsumer(self)

    def declare_queue(self, queue_name: str) -> None:
        """Serve a queue from now on."""
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues.add(queue_name)
            self.emit_after("declare_queue", queue_name)

    def get_declared_queues(self) -> set[str]:
        """The queues that are served."""
        return self.queues.copy()

    def enqueue(self, message: "Message[Any]", *, delay: int | None = None) -> "Message[Any]":
        """Refused: work is submitted to the record, never enqueued beside it."""
        raise BrokerError("tasks are submitted, not enqueued: use submit() or POST /tasks")

    def wake(self, queue: str = "") -> None:
        """Something became ready, in a queue or anywhere: look at once."""
        if not queue or self.only is None or queue in self.only:
            self.woken.set()

    def stop_consuming(self) -> None:
        """Claim nothing from now on."""
        self.stopping.set()
        self.woken.set()


class LocalConsumer(Consumer):
    """Claims as many tasks as there are free slots. Queues with ready tasks take turns."""

    def __init__(self, broker: LocalBroker) -> None:
        self._broker = broker
        self._fetched: deque[Delivery] = deque()
        self._served_last = ""
        #: Queues that are asked one by one, since a fetch from all of them failed.
        self._suspects: deque[str] = deque()

    def __next__(self) -> Delivery | None:
        """The next claimed task, or None after an idle moment."""
        if self._fetched:
            return self._fetched.popleft()
        if self._broker.stopping.is_set():
            time.sleep(STOPPING_PAUSE)
            return None
        free = self._broker.slots.take(MOST_AT_ONCE, POLL)
        if not free:
            return None
        again_in = self._fetch(free)
        if self._fetched:
            return self._fetched.popleft()
        self._broker.woken.wait(POLL if again_in is None else min(POLL, max(again_in, LEAST_PAUSE)))
        return None

    def _fetch(self, free: int) -> float | None:
        """Claim work for so many threads; in how many seconds there may be more, if that is known."""
        self._broker.woken.clear()
        claims: list[Claimed] = []
        try:
            if not self._broker.stopping.is_set():  # it may have been long until a slot was free
                claims = self._ask(free)
        finally:
            self._broker.slots.give(free - len(claims))
        self._served_last = claims[-1].queue if claims else ""
        self._fetched.extend(Delivery(message_for(claim), claim) for claim in claims)
        for queue in {claim.queue for claim in claims}:  # it may have come into being a moment ago
            self._broker.declare_queue(queue)
        if self._suspects:
            return 0.0
        return claims.again_in if isinstance(claims, Fetched) else None

    def _ask(self, free: int) -> list[Claimed]:
        """Claim work from all queues, or, after an error, from each alone: one must not stop the others."""
        queues = [self._suspects.popleft()] if self._suspects else self._broker.only
        types = sorted(self._broker.get_declared_actors())
        try:
            return self._claimed(self._broker.ledger.fetch(queues, types, free, self._served_last))
        except Exception as error:
            whose = "all queues" if queues is None else ", ".join(queues)
            log.warning("tasks of %s could not be claimed: %s", whose, error)
            if queues is None or len(queues) > 1:
                self._suspects.extend(sorted(self._broker.queues if queues is None else queues))
            return []

    def _claimed(self, fetched: "Future[list[Claimed]]") -> list[Claimed]:
        try:
            while not fetched.done():  # Postgres may stand still; who stops waits no longer
                if wait([fetched], STEP_SECONDS).not_done and self._broker.stopping.is_set():
                    fetched.add_done_callback(self._hand_back)
                    return []
            return fetched.result()
        except BaseException:  # this thread is ended in the middle: nobody else knows of these claims
            fetched.add_done_callback(self._hand_back)
            raise

    def _hand_back(self, fetched: "Future[list[Claimed]]") -> None:
        for claim in fetched.result() if fetched.exception() is None else ():
            self._broker.ledger.release(claim)

    def ack(self, message: MessageProxy) -> None:
        """Free the thread's slot; the record needs no acknowledgement."""
        if isinstance(message, Delivery):
            message.over(self._broker.slots, self._broker.ledger.release)

    def nack(self, message: MessageProxy) -> None:
        """As `ack`: a failed task is a state of the record."""
        self.ack(message)

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        """Hand back claims that were not started."""
        waiting = [one for one in [*messages, *self._fetched] if isinstance(one, Delivery)]
        self._fetched.clear()
        for one in waiting:
            self.ack(one)
        wait([one.recorded for one in waiting if one.recorded is not None], RELEASE_SECONDS)

    def close(self) -> None:
        """Hand back what was fetched but not yielded."""
        self.requeue(())
