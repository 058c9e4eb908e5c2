"""A worker process: one Dramatiq worker, its lease, and the threads that keep it informed."""

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import wait
from typing import Any
from uuid import UUID

import dramatiq
import dramatiq.worker
import msgspec

from actors.attempt import Attempts
from actors.context import Drained, Resources
from actors.delivery import Slots
from actors.handing import Handings
from actors.inquests import Inquests
from actors.interrupts import Interrupts
from actors.isolation.children import Children, Program
from actors.isolation.runner import Runner
from actors.local_broker import LocalBroker
from actors.rabbitmq import topology
from actors.rabbitmq.broker import RabbitBroker
from actors.rabbitmq.consumer import Intake
from actors.recorded_call import Flow, RecordedCall
from actors.registry import Registry
from actors.step_cache import StepCache
from actors.threads import Crew
from tasks import judge
from tasks.coroner import Coroner
from tasks.judge import Loss
from tasks.leases import Lease, Profile
from tasks.ledger import CANCEL_CHANNEL, READY_CHANNEL, Ledger
from tasks.notices import Listener
from tasks.queries import Queries
from tasks.values import Claimed, Refused
from tasks.vitals import Pulse

log = logging.getLogger("callboard.worker")

RESTART_SECONDS = 0.2
WATCH_SECONDS = 1.0
LAST_WORDS_SECONDS = 5.0
#: So long a claim may wait for a thread, and so often that is looked at.
UNBEGUN_SECONDS, LOOK_SECONDS = 0.25, 0.1


class WorkerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker process runs. ``queues``: only these; empty: all there are.

    ``plans`` are the versions of pipelines that it knows: they are announced like types.
    ``isolated`` starts the processes in which tasks run alone.
    """

    database_url: str
    isolated: Program
    broker_urls: Sequence[str] = ()
    queue_type: str = "classic"
    threads: int = 8
    queues: Sequence[str] = ()
    drain_seconds: float = 60.0
    backoff_factor: float = 2.0
    version: str = "0"
    plans: Sequence[str] = ()


class Worker:
    """Claims tasks and runs them on its threads until it is drained."""

    def __init__(
        self,
        options: WorkerOptions,
        ledger: Ledger,
        queries: Queries,
        registry: Registry,
        resources: Resources,
        flow: Flow,
        pulse: Pulse | None = None,
    ) -> None:
        self._options = options
        self._ledger = ledger
        self._queries = queries
        self._registry = registry
        self._slots = Slots(options.threads)
        self._interrupts = Interrupts()
        self._stopping = threading.Event()
        self.lease_lost = threading.Event()
        self._children = Children(options.isolated, most_idle=options.threads)
        self._handings = Handings(registry, ledger, queries, flow)
        cache = StepCache(registry, queries)
        self._call = RecordedCall(ledger, self._runner(resources), flow, cache, self._handings)
        self._broker: LocalBroker | RabbitBroker = (
            RabbitBroker(self._intake())
            if options.broker_urls
            else LocalBroker(ledger, self._slots, options.queues)
        )
        pulse = pulse or Pulse()
        pulse.add(lambda: {"busy": min(len(self._call.running), options.threads)})
        self._lease = Lease(options.database_url, ledger.owner, self._profile(), self._lose_lease, pulse)
        self._inquests = Inquests(lambda: Coroner(options.database_url), self._may_judge, self._take_back)
        self._listener = Listener(
            options.database_url, {CANCEL_CHANNEL: self._on_cancel, READY_CHANNEL: self._on_ready}
        )
        self._watcher = threading.Thread(target=self._watch_queues, name="callboard-queues", daemon=True)
        self._drained = threading.Event()
        self._minder = threading.Thread(target=self._mind_the_unbegun, name="callboard-unbegun", daemon=True)
        self._dramatiq = Crew(
            self._broker,
            queues=set(options.queues) or None,
            worker_threads=options.threads,
            worker_timeout=100,
            for_all_queues=isinstance(self._broker, LocalBroker),
        )
        self._dramatiq.queue_prefetch = options.threads

    def start(self) -> "Worker":
        """Take the lease, declare the actors, and begin to claim."""
        # Dramatiq reads its restart delay at import; a few seconds of it would be seconds of standing still.
        dramatiq.worker.CONSUMER_RESTART_DELAY_SECS = RESTART_SECONDS
        self._lease.start()
        self._interrupts.start()
        for actor in self._registry:
            dramatiq.Actor(
                self._call,
                broker=self._broker,
                actor_name=actor.name,
                queue_name=actor.policy.queue,
                priority=0,
                options={},
            )
        self._dramatiq.start()
        self._listener.start()
        self._watcher.start()
        self._minder.start()
        return self

    def drain(self) -> None:
        """Stop claiming, finish or hand back what runs, and give the lease back. No attempt is used up."""
        self._stopping.set()
        self._broker.stop_consuming()
        deadline = time.monotonic() + self._options.drain_seconds
        while self._slots.held and time.monotonic() < deadline and not self.lease_lost.is_set():
            time.sleep(0.05)
        if self._slots.held:
            log.warning("handing back %d tasks that still run", self._slots.held)
            self._interrupts.everything(Drained)
        self._drained.set()
        self._watcher.join(LAST_WORDS_SECONDS)  # no thread and no queue may come while all are stopped
        self._dramatiq.stop(timeout=int(LAST_WORDS_SECONDS * 1_000))
        blocked = self._call.running  # where no interrupt is noticed: their threads end with us
        wait([self._ledger.release(claim) for claim in blocked], LAST_WORDS_SECONDS)
        self._call.wait_until_recorded(LAST_WORDS_SECONDS)
        self._children.close()
        self._listener.close()
        self._interrupts.close()
        self._inquests.close()
        self._lease.close()

    def _runner(self, resources: Resources) -> Runner:
        report, save, tell = self._report, self._ledger.checkpoint, self._tell
        give = self._handings.give
        attempts = Attempts(
            self._registry,
            resources,
            self._interrupts,
            report,
            save,
            tell=tell,
            give=give,
            backoff_factor=self._options.backoff_factor,
        )
        return Runner(
            self._registry, attempts, self._interrupts, self._children, report, save, tell=tell, give=give
        )

    def _report(
        self, claim: Claimed, percent: float, phase: str | None, message: str | None, details: dict[str, Any]
    ) -> None:
        self._ledger.report(claim, percent, phase, message, details or None)

    def _tell(self, claim: Claimed, level: str, logger: str, message: str) -> bool:
        return self._ledger.log(claim, level, logger, message) is not None

    def _profile(self) -> Profile:
        queues = list(self._options.queues) or self._registry.queues
        types = [*self._registry.names, *self._options.plans]
        return Profile("worker", self._options.version, queues, types, self._options.threads)

    def _intake(self) -> Intake:
        return Intake(
            topology.parameters(self._options.broker_urls),
            self._options.queue_type,
            self._slots,
            claim=self._ledger.claim,
            postpone=self._ledger.postpone,
            release=self._ledger.release,
            replay=self._ledger.replay,
            take_over=self._take_over,
        )

    def _take_over(self, refused: Refused) -> None:
        """A redelivered task that runs elsewhere: if its process is lost, take everything back from it."""
        if refused.worker is not None and refused.worker != self._ledger.owner:
            self._inquests.open(refused.worker)

    def _may_judge(self) -> bool:
        """While our own connection is not steady, all locks may be free because of the same trouble."""
        return self._lease.unbroken_for(judge.LEASE_SECONDS)

    def _take_back(self, loss: Loss) -> None:
        log.warning("taking over from process %s, which %s", loss.worker, "died" if loss.died else "is gone")
        self._ledger.rescue(loss.worker, died=loss.died)

    def _on_cancel(self, text: str) -> None:
        self._interrupts.cancel(UUID(text))

    def _on_ready(self, queue: str) -> None:
        if isinstance(self._broker, LocalBroker):
            self._broker.wake(queue)

    def _lose_lease(self) -> None:
        self.lease_lost.set()
        self._broker.stop_consuming()
        self._interrupts.everything(Drained)

    def _watch_queues(self) -> None:
        """Serve queues that come into being, replace threads that died, and hear of cancels late at worst."""
        served = set(self._profile().queues)
        while not self._stopping.wait(WATCH_SECONDS):
            try:
                self._dramatiq.replace_the_dead()
            except Exception as error:
                log.warning("a dead thread could not be replaced now, it is tried again: %s", error)
            try:
                self._stop_what_is_not_ours()
                for queue in self._queries.queue_names():
                    if self._stopping.is_set():
                        return
                    if not self._options.queues or queue in self._options.queues:
                        self._broker.declare_queue(queue)
                        served.add(queue)
                self._lease.announce(sorted(served))
            except Exception as error:
                log.debug("cancels and queues could not all be seen to: %s", error)

    def _mind_the_unbegun(self) -> None:
        """Claims were made ahead of threads that then got long tasks: others shall have them."""
        while not self._drained.wait(LOOK_SECONDS):
            try:
                self._dramatiq.give_back(older_than=UNBEGUN_SECONDS)
            except Exception as error:
                log.warning("claims that wait for a thread could not be given back now: %s", error)

    def _stop_what_is_not_ours(self) -> None:
        """A notice of a cancel may get lost, or come before its task is inside the actor."""
        running = self._call.running
        kept = self._queries.kept_claims(running) if running else set()
        for claim in running:
            if claim.id not in kept and claim in self._call.running:
                self._interrupts.cancel(claim.id)
