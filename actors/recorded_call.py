"""The recorded call: run to a verdict, record it. It returns nothing and never raises.

Dramatiq acknowledges a message whose actor raised, and swallows what its hooks raise; so the verdict is a
value here, and the acknowledgement waits for its commit.
"""

import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future, wait
from typing import Any, Protocol
from uuid import UUID

from actors.attempt import Completed, Failed, GivenUp, Lost, Reused, Verdict, describe, said_by
from actors.delivery import Delivery
from actors.handing import Handings, Opening
from actors.step_cache import StepCache
from tasks.errors import Unavailable
from tasks.ports import Verbs
from tasks.values import Claimed, Complete, Keep, NewTask, RunProgress, TaskError

log = logging.getLogger("callboard.worker")

#: So long a stage of an unknown version waits for a worker that knows it.
UNKNOWN_VERSION_SECONDS = 5.0


class Following(Protocol):
    """What follows a finished stage."""

    @property
    def successors(self) -> Sequence[NewTask]:
        """Tasks to create together with the result."""

    @property
    def settle(self) -> bool:
        """Whether to look at the whole run after the commit."""

    @property
    def progress(self) -> float:
        """How far the run is now, 0-100."""

    @property
    def phase(self) -> str | None:
        """The stage that the run is at now."""

    @property
    def details(self) -> dict[str, Any] | None:
        """The steps of that stage."""


class Flow(Protocol):
    """What is composed, as far as running needs it."""

    def knows(self, claim: Claimed) -> bool:
        """Whether this process knows the pipeline of a stage in the version that its run goes by."""

    def after(self, finished: Claimed, result: Any) -> Following:
        """What follows a stage that finished with ``result``."""

    def opening(self, claim: Claimed) -> Opening | None:
        """The map that a stage can hand out to while it runs, or None."""

    def handed(self, claim: Claimed, index: int, value: Any) -> Sequence[NewTask]:
        """The first tasks of that map for what is handed out as number ``index``."""

    def settle_soon(self, run_id: UUID, after: Claimed) -> None:
        """Look at a run soon, on another thread, because a stage of it has ended."""


class Runs(Protocol):
    """Who runs an attempt."""

    def run(self, claim: Claimed) -> Verdict:
        """Run a task to its verdict."""


class RecordedCall:
    """Runs claimed tasks and records what became of them."""

    def __init__(self, ledger: Verbs, runner: Runs, flow: Flow, cache: StepCache, handings: Handings) -> None:
        self._ledger = ledger
        self._runner = runner
        self._flow = flow
        self._cache = cache
        self._handings = handings
        self._running: dict[UUID, Claimed] = {}
        self._unrecorded: set[Future[bool]] = set()

    @property
    def running(self) -> list[Claimed]:
        """What runs now."""
        return list(self._running.values())

    def wait_until_recorded(self, timeout: float) -> None:
        """Wait until the outcomes of all calls that are over are committed, or those recorded instead."""
        until = time.monotonic() + timeout
        while (unrecorded := list(self._unrecorded)) and (left := until - time.monotonic()) > 0:
            wait(unrecorded, left)

    def __call__(self, delivery: Delivery) -> None:
        """Run one delivery to its verdict and queue the record; the acknowledgement follows the commit."""
        claim = delivery.claim
        try:
            if claim.run_id is not None and not self._flow.knows(claim):
                self._leave_to_others(delivery)
            else:
                place = self._cache.place(claim)
                self._record(delivery, self._run(claim, place), place)
        except Exception as error:
            log.exception("the verdict on task %s could not be recorded", claim.id)
            delivery.recorded = self._ledger.fail(claim, describe(claim, error), retry_in=None)
            self._settle_after(delivery)
        except BaseException:  # it hit our own code from outside: no fault of the task
            log.exception("task %s is handed back", claim.id)
            delivery.recorded = self._ledger.release(claim)
        if delivery.recorded is not None:
            self._remember(delivery.recorded)

    def _remember(self, recorded: "Future[Any]") -> None:
        self._unrecorded.add(recorded)
        recorded.add_done_callback(self._unrecorded.discard)

    def _run(self, claim: Claimed, place: Keep | None) -> Verdict:
        self._running[claim.id] = claim
        try:
            found = None if place is None else self._cache.find(claim, place)
            return found or self._run_handing_out(claim)
        finally:
            self._running.pop(claim.id, None)

    def _run_handing_out(self, claim: Claimed) -> Verdict:
        try:
            self._handings.begin(claim)
            verdict = self._runner.run(claim)
            if isinstance(verdict, Completed):
                return Completed(self._handings.whole(claim, verdict.result))
            return verdict
        except Unavailable as error:
            log.warning("task %s is handed back, it cannot begin now: %s", claim.id, error)
            return GivenUp(hand_back=True)
        finally:
            self._handings.end(claim)

    def _leave_to_others(self, delivery: Delivery) -> None:
        claim = delivery.claim
        log.info("task %s (%s) waits for a worker that knows its version", claim.id, claim.task_type)
        delivery.recorded = self._ledger.release(claim, UNKNOWN_VERSION_SECONDS)

    def _record(self, delivery: Delivery, verdict: Verdict, place: Keep | None) -> None:
        claim = delivery.claim
        if isinstance(verdict, Completed):
            self._record_completion(delivery, verdict.result, keep=place)
        elif isinstance(verdict, Reused):
            self._record_completion(delivery, verdict.result, reused=verdict.task_id)
        elif isinstance(verdict, Failed):
            log.warning("task %s (%s) failed: %s", claim.id, claim.task_type, verdict.error.code)
            delivery.recorded = self._ledger.fail(claim, verdict.error, retry_in=verdict.retry_in)
            self._or_fail(delivery)
            if verdict.retry_in is None:
                self._settle_after(delivery)
        elif isinstance(verdict, Lost):
            log.warning("task %s (%s) was lost: %s", claim.id, claim.task_type, verdict.how)
            delivery.recorded = self._ledger.lose(claim, verdict.how)
            self._settle_after(delivery)  # it may have been one death too many
        else:  # of no effect where the task is not ours any more
            delivery.recorded = self._ledger.release(claim)

    def _record_completion(
        self, delivery: Delivery, result: Any, *, keep: Keep | None = None, reused: UUID | None = None
    ) -> None:
        claim = delivery.claim
        completion = Complete(claim.id, claim.token, result, keep=keep, reused=reused)
        settle = False
        if claim.run_id is not None:
            following = self._flow.after(claim, result)
            settle = following.settle
            told = RunProgress(claim.run_id, following.progress, following.phase, following.details)
            completion = Complete(claim.id, claim.token, result, following.successors, told, keep, reused)
        delivery.recorded = self._ledger.complete(claim, completion)
        self._or_fail(delivery)
        if settle:
            self._settle_after(delivery)

    def _or_fail(self, delivery: Delivery) -> None:
        """Where Postgres refuses to keep what a task came to, its record is that of a final failure."""

        def fail(error: BaseException) -> "Future[bool] | None":
            if isinstance(error, Unavailable):
                return None
            log.warning("what task %s came to cannot be kept: %s", delivery.claim.id, error)
            refused = TaskError("result_not_serialisable", f"the outcome cannot be kept: {said_by(error)}")
            failed = self._ledger.fail(delivery.claim, refused, retry_in=None)
            self._remember(failed)
            return failed

        delivery.or_instead(fail)

    def _settle_after(self, delivery: Delivery) -> None:
        claim = delivery.claim
        run_id = claim.run_id
        if run_id is not None:
            delivery.when_recorded(lambda: self._flow.settle_soon(run_id, claim))
