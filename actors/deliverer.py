"""The deliverer: tells receivers that tasks ended, beside the clock. Any number of them may run.

Each attempt has a thread of its own. There is a bounded number of them, and few for each host, more only as
long as it answers well: a receiver that hangs holds up nobody else. What a deliverer claims it attempts at
once; if it dies meanwhile, the claim's lease ends and another one attempts it again, under the same id.
"""

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from typing import Protocol
from uuid import UUID

import msgspec

from actors.web.sending import Sender, Sent
from actors.web.signatures import SIGNATURE_HEADER, sign
from tasks.callbacks import (
    DELIVERED,
    FAILED,
    PENDING,
    Attempted,
    DeliveryAttempt,
    DueDelivery,
    Event,
)
from tasks.ledger.callbacks import TakeDeliveries, Taken
from tasks.records import Task

log = logging.getLogger("callboard.callbacks")

THREADS = 32
#: At first, and for a host that did not take what it was sent the last time.
PER_HOST = 2
#: One of so many threads is kept for hosts that answer well: many that hang do not hold these up either.
RESERVED = 4
#: So many hosts are remembered that took it.
MOST_ALLOWED = 500
#: The pauses after the first attempts, in seconds; after one more attempt the delivery is given up.
PAUSES = (5.0, 30.0, 120.0, 600.0, 1_800.0, 7_200.0, 21_600.0)
JITTER = 0.2
#: Longer than an attempt may take with all that is around it.
LEASE_SECONDS = 20.0
POLL_SECONDS = 0.5
PATIENCE_SECONDS = 5.0
#: How long a deliverer that stops waits for attempts that are under way; others are made again elsewhere.
STOP_SECONDS = 2.0
GONE = 410
EVENT_HEADER, DELIVERY_HEADER = "X-Callboard-Event", "X-Callboard-Delivery"


class CallbackBody(msgspec.Struct, frozen=True, kw_only=True):
    """What a receiver gets: that a task ended, and the task as it was then.

    ``delivery_id`` is the same in all attempts, so that what comes twice can be told.
    """

    event: Event
    delivery_id: UUID
    task: Task


class Records(Protocol):
    """Who keeps deliveries."""

    def take_deliveries(self, asked: TakeDeliveries) -> Future[Taken]:
        """Claim due deliveries."""

    def record_attempt(self, attempted: Attempted) -> Future[bool]:
        """Record what came of an attempt."""


class Tasks(Protocol):
    """Who knows tasks."""

    def tasks_by_id(self, ids: Sequence[UUID]) -> list[Task]:
        """These tasks."""


class Deliverer:
    """Claims due deliveries and attempts them.

    Args:
      secret: signs what goes to a task's own callback_url; None leaves it unsigned.
      pauses: the seconds between attempts; there is one attempt more than pauses.
      per_host: how many attempts may be under way to one host, as long as it has not proved itself.
      lease: seconds after which an attempt of a process that died is made again.
    """

    def __init__(
        self,
        ledger: Records,
        queries: Tasks,
        sender: Sender,
        secret: str | None = None,
        *,
        threads: int = THREADS,
        per_host: int = PER_HOST,
        pauses: Sequence[float] = PAUSES,
        lease: float = LEASE_SECONDS,
    ) -> None:
        self._ledger = ledger
        self._queries = queries
        self._sender = sender
        self._secret = secret
        self._threads = threads
        self._per_host = per_host
        self._pauses = pauses
        self._lease = lease
        self._after = ""
        self._busy: Counter[str] = Counter()
        self._allowed: dict[str, int] = {}
        self._lock = threading.Lock()
        self._awake = threading.Event()
        self._is_troubled = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="callboard-deliverer", daemon=True)

    def start(self) -> "Deliverer":
        """Start delivering, on a thread of its own."""
        self._thread.start()
        return self

    def close(self) -> None:
        """Begin with no more attempts, and give those that are under way a moment to end."""
        self._stopping.set()
        self._awake.set()
        self._thread.join(PATIENCE_SECONDS + STOP_SECONDS)

    def wake(self, _: str = "") -> None:
        """There is something to deliver."""
        self._awake.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._awake.clear()
            try:
                began = self.step()
                self._is_troubled = False
            except Exception as error:  # whatever it is must not end this thread
                began = 0
                if not self._is_troubled:
                    log.warning("callbacks cannot be delivered now, trying again: %r", error)
                self._is_troubled = True
            if not began and not self._stopping.is_set():
                self._awake.wait(POLL_SECONDS)
        deadline = time.monotonic() + STOP_SECONDS
        while self._under_way() and time.monotonic() < deadline:
            self._awake.wait(0.05)
            self._awake.clear()

    def step(self) -> int:
        """Begin with what is due, as far as there are threads; how many attempts were begun."""
        with self._lock:
            busy, allowed = dict(self._busy), dict(self._allowed)
        free = self._threads - sum(busy.values())
        if free <= 0:
            return 0
        strange = sum(number for host, number in busy.items() if host not in allowed)
        room = self._threads - self._threads // RESERVED - strange
        limit, per_host = (min(free, room), self._per_host) if room > 0 else (free, 0)
        asked = TakeDeliveries(limit, per_host, self._lease, busy, allowed, self._after)
        taken = self._ledger.take_deliveries(asked).result(PATIENCE_SECONDS)
        began_in_the_middle, self._after = bool(self._after), taken.after
        tasks = {task.task_id: task for task in self._queries.tasks_by_id([one.task_id for one in taken.due])}
        for due in taken.due:
            if due.task_id in tasks:  # else it has just been removed, with its deliveries
                self._begin(due, tasks[due.task_id])
        return len(taken.due) or int(began_in_the_middle)

    def _begin(self, due: DueDelivery, task: Task) -> None:
        thread = threading.Thread(
            target=self._deliver, args=(due, task), name="callboard-callback", daemon=True
        )
        with self._lock:
            thread.start()  # if there can be no more threads, nothing is busy
            self._busy[due.host] += 1

    def _deliver(self, due: DueDelivery, task: Task) -> None:
        try:
            attempted = self._attempt(due, task)
            self._ledger.record_attempt(attempted).result(self._lease)
        except Exception as error:  # its lease ends, and it is attempted again
            log.warning("what came of delivery %s could not be recorded: %r", due.id, error)
        finally:
            with self._lock:
                self._busy[due.host] -= 1
                if not self._busy[due.host]:
                    del self._busy[due.host]
            self._awake.set()

    def _attempt(self, due: DueDelivery, task: Task) -> Attempted:
        at, began = datetime.now(UTC), time.monotonic()
        try:
            sent = self._send(due, task)
        except Exception as error:  # an attempt like any other: else it would be made for ever
            sent = Sent(None, f"it could not be sent ({type(error).__name__})")
        duration = round((time.monotonic() - began) * 1_000, 3)
        status, due_in = judge(due, sent, self._pauses)
        self._learn(due.host, arrived=status == DELIVERED)
        log.log(
            logging.WARNING if status == FAILED else logging.DEBUG,
            "delivery %s about task %s to %s: %s, %s",
            due.id,
            due.task_id,
            due.host,
            sent.error or sent.status,
            status if status != PENDING else f"again in {due_in:.0f} s",
        )
        attempt = DeliveryAttempt(at=at, status_code=sent.status, error=sent.error, duration_ms=duration)
        return Attempted(id=due.id, claim=due.claim, status=status, due_in=due_in, attempt=attempt)

    def _send(self, due: DueDelivery, task: Task) -> Sent:
        if due.is_orphan:
            return Sent(None, "its webhook was deleted")
        as_it_ended = msgspec.structs.replace(task, **due.ended.fields())
        body = msgspec.json.encode(CallbackBody(event=due.event, delivery_id=due.id, task=as_it_ended))
        headers = {
            "Content-Type": "application/json",
            EVENT_HEADER: due.event,
            DELIVERY_HEADER: str(due.id),
        }
        secret = self._secret if due.webhook_id is None else due.secret
        if secret is not None:
            headers[SIGNATURE_HEADER] = sign(secret, body)
        return self._sender.send(due.url, body, headers)

    def _learn(self, host: str, *, arrived: bool) -> None:
        """Let a host that takes what it is sent have more at once, up to half of the threads."""
        with self._lock:
            if not arrived:
                self._allowed.pop(host, None)
            elif host in self._allowed or len(self._allowed) < MOST_ALLOWED:
                more = self._allowed.get(host, self._per_host) + 1
                self._allowed[host] = max(self._per_host, min(more, self._threads // 2))

    def _under_way(self) -> int:
        with self._lock:
            return sum(self._busy.values())


def judge(due: DueDelivery, sent: Sent, pauses: Sequence[float]) -> tuple[str, float]:
    """What becomes of a delivery after an attempt, and in how many seconds it is due again if it is."""
    if sent.status is not None and 200 <= sent.status < 300:
        return DELIVERED, 0.0
    if sent.status == GONE or due.is_orphan or due.tries >= len(pauses):
        return FAILED, 0.0
    pause = pauses[due.tries] * random.uniform(1 - JITTER, 1 + JITTER)
    return PENDING, max(pause, sent.retry_after)
