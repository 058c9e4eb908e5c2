"""The threads of a Dramatiq worker: one that died is replaced, and what it had in hand is given back.

Dramatiq starts its threads once. An exception that comes from outside at a bad moment (`SystemExit` raised in
the thread, no memory) ends one for good, and with it the slot and the claim that it had.
"""

import logging
import math
import time
from heapq import heapify
from typing import Any

import dramatiq
from dramatiq.broker import MessageProxy
from dramatiq.worker import ConsumerThread, WorkerThread

from actors.delivery import Delivery

log = logging.getLogger("callboard.threads")


class CrewThread(WorkerThread):
    """A worker thread that tells what it has in hand."""

    in_hand: MessageProxy | None = None

    def process_message(self, message: MessageProxy) -> None:
        """Process a message; it stays in hand if this thread dies of it."""
        self.in_hand = message
        super().process_message(message)
        self.in_hand = None


class OneForAll(dict[str, ConsumerThread]):
    """Consumers by their queue, of which there is only one: it is that of any queue."""

    def __missing__(self, queue_name: str) -> ConsumerThread:
        """The only one."""
        for consumer in self.values():
            return consumer
        raise KeyError(queue_name)


class Crew(dramatiq.Worker):
    """A Dramatiq worker whose dead threads can be replaced.

    Where the broker's consumers are ``for_all_queues``, one of them serves all: Dramatiq has one for each.
    """

    def __init__(self, broker: dramatiq.Broker, *, for_all_queues: bool = False, **options: Any) -> None:
        super().__init__(broker, **options)
        self._for_all_queues = for_all_queues
        self.consumers = OneForAll() if for_all_queues else {}

    def replace_the_dead(self) -> None:
        """Replace the threads that died since the last time; to be called now and then."""
        for thread in list(self.workers):
            if not thread.is_alive():
                self._replace_worker(thread)
        for queue_name, consumer in list(self.consumers.items()):
            if not consumer.is_alive():
                self._replace_consumer(queue_name, consumer)

    def give_back(self, older_than: float) -> None:
        """Give back what has waited for a thread for so many seconds: other processes may have one."""
        latest = time.monotonic() - older_than
        with self.work_queue.mutex:  # what is in there no thread has seen
            waiting = self.work_queue.queue
            late = [item for item in waiting if _since(item.message) < latest]
            if late:
                waiting[:] = [item for item in waiting if item not in late]
                heapify(waiting)
        for item in late:
            self.consumers[item.message.queue_name].post_process_message(item.message)

    def _add_consumer(self, queue_name: str, *, delay: bool = False) -> None:
        if not (self._for_all_queues and self.consumers):
            super()._add_consumer(queue_name, delay=delay)

    def _add_worker(self) -> None:
        thread = CrewThread(
            broker=self.broker,
            consumers=self.consumers,
            work_queue=self.work_queue,
            worker_timeout=self.worker_timeout,
        )
        thread.start()
        self.workers.append(thread)

    def _replace_worker(self, dead: WorkerThread) -> None:
        log.error("a worker thread died and is replaced")
        if isinstance(dead, CrewThread) and dead.in_hand is not None:  # finishing it twice is harmless
            self.consumers[dead.in_hand.queue_name].post_process_message(dead.in_hand)
            dead.in_hand = None
        self._add_worker()  # may fail now, for want of memory: then the dead one is found again
        self.workers.remove(dead)

    def _replace_consumer(self, queue_name: str, dead: ConsumerThread) -> None:
        whose = "all queues" if self._for_all_queues else queue_name
        log.error("the consumer of %s died and is replaced", whose)
        successor = ConsumerThread(
            broker=self.broker,
            queue_name=queue_name,
            prefetch=dead.prefetch,
            work_queue=self.work_queue,
            worker_timeout=self.worker_timeout,
        )
        successor.consumer = dead.consumer  # worker threads go on to finish what it delivered
        self.consumers[queue_name] = successor
        try:
            dead.close()  # its unacknowledged messages come back by that
        except Exception:
            log.exception("the dead consumer of %s could not be closed", whose)
        successor.start()


def _since(message: MessageProxy) -> float:
    return message.since if isinstance(message, Delivery) else math.inf
