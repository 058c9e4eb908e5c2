"""The consumer: takes what has arrived, claims it in one batch, and yields what was claimed."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, wait
from itertools import islice
from typing import Any
from uuid import UUID

import msgspec
import pika
import pika.exceptions
from dramatiq.broker import Consumer, MessageProxy
from dramatiq.errors import ConnectionClosed

from actors.delivery import Delivery, Slots
from actors.rabbitmq.acknowledgements import Acknowledgements
from actors.rabbitmq.messages import Named, Returned, call_of, read
from actors.rabbitmq.topology import CONNECTION_ERRORS, connect, declarations, lost
from tasks.ledger.dead_letters import REPLAYED
from tasks.values import Arrival, Claimed, Refused

log = logging.getLogger("callboard.consumer")

UNKNOWN_TYPE_SECONDS = 5.0
IDLE_SECONDS = 0.05
STEP_SECONDS = 0.2
HOARD_SECONDS = 0.25
#: So many tasks may be here at once while they are short, and of so many messages that is judged.
MOST_PREFETCHED = 512
LATELY = 64
#: While so many messages may be here, their acks can wait for a moment.
MANY_PREFETCHED = 32
ACK_SECONDS = 0.02
#: Who only waits for messages is woken by them; there may be hundreds of such consumers in a process.
CALM_SECONDS = 5.0
REFUSED_SECONDS = 5.0
RELEASE_SECONDS = 10.0
#: After so long what somebody held is claimed again.
HELD_SECONDS = 0.005


#: What became of claims: None for a task that somebody else holds just now.
Answers = list[Claimed | Refused | None]


class Intake(msgspec.Struct):
    """What consumers need: where to connect, how many claims there is room for, and verbs of the ledger."""

    urls: Sequence[pika.URLParameters]
    queue_type: str
    slots: Slots
    claim: Callable[[Sequence[Arrival]], "Future[Answers]"]
    postpone: Callable[[Arrival, float], "Future[bool]"]
    release: Callable[[Claimed], "Future[bool]"]
    replay: Callable[[UUID], "Future[str]"]
    take_over: Callable[[Refused], None]
    types: set[str] = msgspec.field(default_factory=set)
    stopping: threading.Event = msgspec.field(default_factory=threading.Event)


class _Arrived(msgspec.Struct, frozen=True):
    """A task in memory, not yet claimed, and the message that named it, perhaps among others."""

    tag: int
    named: Named


class RabbitDelivery(Delivery):
    """A delivery that remembers who delivered it: only that consumer may acknowledge its tag."""

    def __init__(self, message: Any, claim: Claimed, consumer: "RabbitConsumer", tag: int) -> None:
        super().__init__(message, claim)
        self.consumer = consumer
        self.tag = tag
        #: Where it arrived, whatever the message says: somebody may have moved it.
        self.queue_name = consumer.queue_name


class RabbitConsumer(Consumer):
    """One queue on one connection. All of pika is called on the consumer's own thread."""

    def __init__(self, intake: Intake, queue_name: str, prefetch: int, timeout: float) -> None:
        self._intake = intake
        self.queue_name = queue_name
        self._timeout = timeout
        self._arrived: deque[_Arrived] = deque()
        self._claimed: deque[RabbitDelivery] = deque()
        self._tasks_of: deque[int] = deque(maxlen=LATELY)
        self._acks = Acknowledgements()
        self._consuming = True
        self._resting = False
        self._busy_since: float | None = None
        self._acknowledged_at = 0.0
        self._calm = self._prefetch = prefetch
        self._connection = connect(intake.urls)
        try:
            self._channel = self._connection.channel()
            for name, arguments in declarations(queue_name, intake.queue_type):
                self._channel.queue_declare(name, durable=True, arguments=arguments)
            self._channel.basic_qos(prefetch_count=prefetch)
            self._tag = self._channel.basic_consume(queue_name, self._take_in)
            self._channel.add_on_cancel_callback(self._on_cancelled)
        except CONNECTION_ERRORS as error:
            self._drop_connection()
            if isinstance(error, pika.exceptions.ChannelClosedByBroker):
                log.error("RabbitMQ refuses the queue %s: %s", queue_name, error)
                intake.stopping.wait(REFUSED_SECONDS)
            raise lost(error) from None

    def __next__(self) -> RabbitDelivery | None:
        """The next claimed task, or None after an idle moment.

        Raises:
          ConnectionClosed: RabbitMQ is gone; what is in memory is dropped before any claim.
        """
        if self._claimed:
            return self._claimed.popleft()
        try:
            self._acknowledge()
            self._connection.process_data_events(0 if self._arrived else self._patience())
            if not self._channel.is_open:
                raise lost(RuntimeError("RabbitMQ closed the channel"))
            if self._intake.stopping.is_set():
                self._stop_consuming()
            elif self._resting:
                self._consume_again()
            elif self._consuming:
                self._keep_pace()
            else:
                raise lost(RuntimeError(f"the queue {self.queue_name} was deleted"))
        except (*CONNECTION_ERRORS, ConnectionClosed) as error:
            self._arrived.clear()
            raise error if isinstance(error, ConnectionClosed) else lost(error) from None
        self._claim_arrived()
        return self._claimed.popleft() if self._claimed else None

    def ack(self, message: MessageProxy) -> None:
        """Acknowledge once the outcome is committed, and free the thread's slot now."""
        if isinstance(message, RabbitDelivery):
            owner, tag = message.consumer, message.tag
            if message.over(self._intake.slots, self._intake.release):  # each task of a message counts once
                message.when_recorded(lambda: owner._settled(tag))

    def nack(self, message: MessageProxy) -> None:
        """As `ack`: our own messages are never rejected; their failure is a state of the record."""
        self.ack(message)

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        """Hand back claims that were not started; their rows are dispatched again."""
        waiting = [one for one in [*messages, *self._claimed] if isinstance(one, RabbitDelivery)]
        self._claimed.clear()
        for one in waiting:
            self.ack(one)
        wait([one.recorded for one in waiting if one.recorded is not None], RELEASE_SECONDS)

    def close(self) -> None:
        """Send the last acks and close the connection; RabbitMQ requeues what is unacknowledged."""
        self.requeue(())
        try:
            self._acknowledge(at_once=True)
        except CONNECTION_ERRORS:
            log.info("the last acks of %s were lost with their connection", self.queue_name)
        self._drop_connection()

    # --- on the consumer's thread ----------------------------------------------------------------

    def _take_in(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        try:
            named = read(body)
        except Exception:  # a stranger's message can be wrong in any way
            log.error("a message in %s is not one of ours; it goes to the dead letters", self.queue_name)
            channel.basic_nack(method.delivery_tag, requeue=False)
            return
        tag = method.delivery_tag
        if isinstance(named, Returned):
            self._acks.delivered(tag)
            self._replay(named, tag)
        else:
            self._acks.delivered(tag, len(named))
            self._tasks_of.append(len(named))
            self._arrived.extend(_Arrived(tag, one) for one in named)

    def _on_cancelled(self, frame: Any) -> None:
        self._consuming = False

    def _stop_consuming(self) -> None:
        if self._consuming:
            self._consuming = False
            self._channel.basic_cancel(self._tag)
            # Unclaimed: others need not wait until our tasks are done. Of a message that named some of
            # these too, theirs are claimed where it arrives, and ours are refused there.
            for tag in dict.fromkeys(one.tag for one in self._arrived):
                self._acks.forget(tag)
                self._channel.basic_nack(tag, requeue=True)
            self._arrived.clear()

    def _consume_again(self) -> None:
        if self._intake.slots.free:
            self._resting = False
            self._busy_since = None
            self._consuming = True
            self._channel.basic_qos(prefetch_count=self._prefetch)
            self._tag = self._channel.basic_consume(self.queue_name, self._take_in)

    def _keep_pace(self) -> None:
        """Take more at once while tasks are short; else what waits here would wait for nothing.

        What is here is beyond RabbitMQ's priorities and other workers, so it is little more than what is
        begun within a moment. RabbitMQ counts by consumer: a new one has the new number.
        """
        ahead, wanted, usual = self._intake.slots.ahead, self._calm, self._usual()
        while wanted * usual < min(self._calm + ahead, MOST_PREFETCHED):
            wanted *= 4
        is_enough = self._prefetch // 16 < wanted <= self._prefetch
        if is_enough if ahead else self._arrived:  # while none is finished, nobody knows how long they take
            return
        if wanted != self._prefetch:
            self._prefetch = wanted
            self._channel.basic_qos(prefetch_count=wanted)
            self._channel.basic_cancel(self._tag)
            self._tag = self._channel.basic_consume(self.queue_name, self._take_in)

    def _usual(self) -> int:
        """How many tasks a message names lately: 1, 4 or 16, so that it seldom changes."""
        if len(self._tasks_of) < LATELY:
            return 1
        average = sum(self._tasks_of) / len(self._tasks_of)
        return 16 if average > 12 else 4 if average > 3 else 1

    def _rest_if_busy(self) -> None:
        """All threads are busy for a while now: let other workers have what waits here."""
        now = time.monotonic()
        self._busy_since = self._busy_since or now
        if now - self._busy_since > HOARD_SECONDS:
            self._resting = True
            messages = len({one.tag for one in self._arrived})
            self._prefetch = max(1, self._calm * messages // max(1, len(self._arrived)))
            try:
                self._stop_consuming()
            except CONNECTION_ERRORS:
                log.debug("the connection of %s broke while it went to rest", self.queue_name)

    def _claim_arrived(self) -> None:
        while self._arrived and not self._intake.stopping.is_set():
            free = self._intake.slots.take(len(self._arrived), IDLE_SECONDS)
            if not free:
                self._rest_if_busy()
                return
            self._busy_since = None
            batch = [self._arrived.popleft() for _ in range(free)]
            known = [one for one in batch if one.named.task_type in self._intake.types]
            unknown = [one for one in batch if one.named.task_type not in self._intake.types]
            self._intake.slots.give(len(unknown))
            for one in unknown:
                self._postpone(one)
            waiting = len(self._arrived)
            if known:
                self._claim(known)
            some_are_held = len(self._arrived) > waiting
            if some_are_held and not self._claimed:
                self._intake.stopping.wait(HELD_SECONDS)
            if some_are_held or self._claimed:
                return

    def _claim(self, batch: list[_Arrived]) -> None:
        """Claim arrivals, each of which has a slot: all at once, or, where one spoils that, one by one."""
        undecided = deque(batch)
        try:
            try:
                self._decide(undecided, len(batch))
            except Exception as error:
                log.info("claims are tried one by one, since all at once they failed: %s", error)
                while undecided and not self._intake.stopping.is_set():
                    self._decide_alone(undecided)
        finally:  # this thread is ended in the middle, or stops
            self._intake.slots.give(len(undecided))

    def _decide(self, undecided: deque[_Arrived], count: int) -> None:
        """See to the first ``count`` arrivals, as the ledger answers; to none if this process must stop."""
        answers = self._answers([one.named.arrival for one in islice(undecided, count)])
        try:
            while answers:
                self._see_to(undecided.popleft(), answers.popleft())
        finally:  # if this thread is ended in the middle, nobody else knows of the other claims
            self._give_back(answers)

    def _decide_alone(self, undecided: deque[_Arrived]) -> None:
        one = undecided[0]
        try:
            self._decide(undecided, 1)
        except Exception as error:
            log.warning(
                "task %s could not be claimed, its message waits: %s", one.named.arrival.task_id, error
            )
            if undecided and undecided[0] is one:
                undecided.popleft()
                self._intake.slots.give()

    def _answers(self, arrivals: Sequence[Arrival]) -> deque[Claimed | Refused | None]:
        """The ledger's answers, for which it waits for Postgres; none if this process must stop first."""
        future = self._intake.claim(arrivals)
        try:
            while not future.done():
                if wait([future], STEP_SECONDS).not_done and self._intake.stopping.is_set():
                    future.add_done_callback(self._hand_back)
                    return deque()
            return deque(future.result())
        except BaseException:  # this thread is ended while it waits: nobody else knows of these claims
            future.add_done_callback(self._hand_back)
            raise

    def _hand_back(self, future: "Future[Answers]") -> None:
        self._give_back(() if future.exception() else future.result())

    def _give_back(self, answers: Iterable[Claimed | Refused | None]) -> None:
        for answer in answers:
            if isinstance(answer, Claimed):
                self._intake.release(answer)

    def _see_to(self, one: _Arrived, answer: Claimed | Refused | None) -> None:
        if isinstance(answer, Claimed):
            call = call_of(self.queue_name, one.named)
            self._claimed.append(RabbitDelivery(call, answer, self, one.tag))
            return
        self._intake.slots.give()
        if answer is None:  # somebody holds it just now: it keeps no other one waiting
            self._arrived.appendleft(one)
            return
        self._acks.done(one.tag)
        if answer.reason == "running":
            self._take_over(answer)

    def _take_over(self, refused: Refused) -> None:
        try:
            self._intake.take_over(refused)
        except Exception as error:  # others have arrived with it, and the clock looks too
            log.warning("whether the owner of task %s lives is not known: %s", refused.task_id, error)

    def _postpone(self, one: _Arrived) -> None:
        log.info("type %s is unknown here; its task waits for another worker", one.named.task_type)
        future = self._intake.postpone(one.named.arrival, UNKNOWN_TYPE_SECONDS)
        tag = one.tag
        future.add_done_callback(lambda done: self._settled(tag) if done.exception() is None else None)

    def _replay(self, returned: Returned, tag: int) -> None:
        """Somebody moved a dead letter's copy back to its queue: a replay, recorded before the ack."""
        log.info("the copy of dead letter %s came back to %s", returned.dead_letter, self.queue_name)

        def settle(done: "Future[str]") -> None:
            if done.exception() is not None:
                return
            if done.result() != REPLAYED:
                log.warning("dead letter %s is not replayed: %s", returned.dead_letter, done.result())
            self._settled(tag)

        self._intake.replay(returned.dead_letter).add_done_callback(settle)

    def _patience(self) -> float:
        """How long to wait for messages: while acks wait for their moment, no longer than until then."""
        if not self._acks.are_due:
            is_calm = self._consuming and not self._resting and self._prefetch == self._calm
            return CALM_SECONDS if is_calm and not self._intake.stopping.is_set() else self._timeout
        return max(0.0, min(self._timeout, self._acknowledged_at + ACK_SECONDS - time.monotonic()))

    def _acknowledge(self, *, at_once: bool = False) -> None:
        """Each flush costs as much as a message or two: while many come, acks go out a few times a second."""
        now = time.monotonic()
        is_early = now - self._acknowledged_at < ACK_SECONDS
        if self._prefetch >= MANY_PREFETCHED and is_early and not at_once:
            return
        self._acknowledged_at = now
        for tag, multiple in self._acks.collect():
            self._channel.basic_ack(tag, multiple)

    def _drop_connection(self) -> None:
        try:
            if self._connection.is_open:
                self._connection.close()
        except CONNECTION_ERRORS:
            log.debug("the connection of %s was closed already", self.queue_name)

    # --- on any thread ---------------------------------------------------------------------------

    def _settled(self, tag: int) -> None:
        """The outcome of a message is committed: acknowledge it with the next group."""
        if self._acks.done(tag):
            self.wake()

    def wake(self) -> None:
        """There is something to do beside waiting for messages."""
        try:
            self._connection.add_callback_threadsafe(lambda: None)
        except CONNECTION_ERRORS:
            log.debug("the consumer of %s was to be woken after its connection was closed", self.queue_name)
