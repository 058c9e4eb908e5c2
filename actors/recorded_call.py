"""The recorded call: begin, run, judge, record. It returns nothing and never raises.

Dramatiq acknowledges a message whose actor raised, and swallows what its hooks raise; so the verdict is a
value here, and the acknowledgement waits for its commit.
"""

import logging
import traceback
from collections.abc import Sequence
from concurrent.futures import Future, wait
from typing import Any, Protocol
from uuid import UUID

import msgspec

from actors import backoff, context
from actors.context import Cancelled, CurrentTask, Drained, Resources, TimedOut
from actors.definitions import Actor
from actors.delivery import Delivery
from actors.errors import Permanent, RetryAfter
from actors.interrupts import Interrupts
from actors.kept import as_kept
from actors.registry import Registry
from tasks.errors import CallboardError, InvalidField, Unavailable
from tasks.ledger import Ledger
from tasks.ledger.endings import Complete
from tasks.values import Claimed, NewTask, TaskError

log = logging.getLogger("callboard.worker")

MOST_MESSAGE = 2_000
MOST_TRACEBACK = 20_000
MOST_NAME = 200
LONGEST_WAIT = 30 * 86_400.0


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


class Flow(Protocol):
    """What is composed, as far as running needs it."""

    def after(self, finished: Claimed, result: Any) -> Following:
        """What follows a stage that finished with ``result``."""

    def settle_soon(self, run_id: UUID) -> None:
        """Look at a run soon, on another thread."""


class Completed(msgspec.Struct, frozen=True):
    """The actor returned, with a result that JSON can hold."""

    result: Any


class Failed(msgspec.Struct, frozen=True):
    """The attempt failed; ``retry_in`` seconds until the next one, None if there is none."""

    error: TaskError
    retry_in: float | None


class GivenUp(msgspec.Struct, frozen=True):
    """The attempt was interrupted; ``hand_back`` says whether the task is still ours to give back."""

    hand_back: bool


Verdict = Completed | Failed | GivenUp


class RecordedCall:
    """Runs claimed tasks and records what became of them."""

    def __init__(
        self,
        ledger: Ledger,
        registry: Registry,
        resources: Resources,
        interrupts: Interrupts,
        flow: Flow,
        *,
        backoff_factor: float = 2.0,
    ) -> None:
        self._ledger = ledger
        self._registry = registry
        self._resources = resources
        self._interrupts = interrupts
        self._flow = flow
        self._backoff_factor = backoff_factor
        self._running: dict[UUID, Claimed] = {}
        self._unrecorded: set[Future[bool]] = set()

    @property
    def running(self) -> list[Claimed]:
        """What runs now."""
        return list(self._running.values())

    def wait_until_recorded(self, timeout: float) -> None:
        """Wait until the outcomes of all calls that are over are committed."""
        wait(list(self._unrecorded), timeout)

    def __call__(self, delivery: Delivery) -> None:
        """Run one delivery to its verdict and queue the record; the acknowledgement follows the commit."""
        claim = delivery.claim
        try:
            self._record(delivery, self._run(claim))
        except BaseException as error:
            log.exception("the verdict on task %s could not be recorded", claim.id)
            delivery.recorded = self._ledger.fail(claim, _describe(claim, error), retry_in=None)
            self._settle_after(delivery)
        if delivery.recorded is not None:
            self._unrecorded.add(delivery.recorded)
            delivery.recorded.add_done_callback(self._unrecorded.discard)

    def _run(self, claim: Claimed) -> Verdict:
        try:
            actor = self._registry.get(claim.task_type)
            if actor is None:
                return GivenUp(hand_back=True)
            self._running[claim.id] = claim
            payload = msgspec.json.decode(claim.payload)
            current = CurrentTask(claim, payload, self._report, self._ledger.checkpoint, self._resources)
            context.enter(current)
            result = self._interrupts.run(current, claim.timeout, lambda: actor.run(payload))
            return Completed(_as_builtins(result))
        except BaseException as error:
            return self._judge(claim, error)
        finally:
            self._running.pop(claim.id, None)
            context.enter(None)

    def _judge(self, claim: Claimed, error: BaseException) -> Verdict:
        """The verdict on an attempt that raised."""
        if isinstance(error, Cancelled):
            return GivenUp(hand_back=False)
        if isinstance(error, Drained):
            return GivenUp(hand_back=True)
        described = _describe(claim, error)
        if not self._may_retry(claim, error):
            return Failed(described, None)
        if isinstance(error, RetryAfter):
            return Failed(described, _sensible(error.seconds))
        wait_for = backoff.seconds(claim.backoff, claim.failures + 1, factor=self._backoff_factor)
        return Failed(described, wait_for)

    def _may_retry(self, claim: Claimed, error: BaseException) -> bool:
        if (
            isinstance(error, Permanent | InvalidField | NotSerialisable)
            or claim.failures >= claim.max_retries
        ):
            return False
        actor: Actor[..., Any] | None = self._registry.get(claim.task_type)
        retryable = (*actor.policy.retry_on, RetryAfter, TimedOut) if actor else (Exception,)
        return isinstance(error, retryable)

    def _record(self, delivery: Delivery, verdict: Verdict) -> None:
        claim = delivery.claim
        if isinstance(verdict, Completed):
            self._record_completion(delivery, verdict.result)
        elif isinstance(verdict, Failed):
            log.warning("task %s (%s) failed: %s", claim.id, claim.task_type, verdict.error.code)
            failed = self._ledger.fail(claim, verdict.error, retry_in=verdict.retry_in)
            delivery.recorded = self._or_failed(claim, failed)
            if verdict.retry_in is None:
                self._settle_after(delivery)
        else:
            delivery.recorded = self._ledger.release(
                claim
            )  # of no effect where the task is not ours any more

    def _record_completion(self, delivery: Delivery, result: Any) -> None:
        claim = delivery.claim
        completion = Complete(claim.id, claim.token, result)
        settle = False
        if claim.run_id is not None:
            following = self._flow.after(claim, result)
            settle = following.settle
            completion = Complete(
                claim.id,
                claim.token,
                result,
                following.successors,
                claim.run_id,
                following.progress,
                following.phase,
            )
        delivery.recorded = self._or_failed(claim, self._ledger.complete(claim, completion))
        if settle:
            self._settle_after(delivery)

    def _or_failed(self, claim: Claimed, recorded: "Future[bool]") -> "Future[bool]":
        """``recorded``, or, where Postgres refuses to keep it, the record of a final failure."""
        outcome: Future[bool] = Future()

        def finish(last: "Future[bool]") -> None:
            error = last.exception()
            if error is None:
                outcome.set_result(last.result())
            elif isinstance(error, Unavailable) or last is not recorded:
                outcome.set_exception(error)
            else:
                log.warning("what task %s came to cannot be kept: %s", claim.id, error)
                refused = TaskError("result_not_serialisable", f"the outcome cannot be kept: {_said(error)}")
                self._ledger.fail(claim, refused, retry_in=None).add_done_callback(finish)

        recorded.add_done_callback(finish)
        return outcome

    def _settle_after(self, delivery: Delivery) -> None:
        run_id = delivery.claim.run_id
        if run_id is not None:
            delivery.when_recorded(lambda: self._flow.settle_soon(run_id))

    def _report(
        self, claim: Claimed, percent: float, phase: str | None, message: str | None, details: dict[str, Any]
    ) -> None:
        self._ledger.report(claim, percent, phase, message, details or None)


class NotSerialisable(CallboardError):
    """What an actor returned cannot be kept as JSON."""

    code = "result_not_serialisable"


def _as_builtins(result: Any) -> Any:
    """The result as JSON gives it back, so that the next stage sees the same whether it waits or not."""
    try:
        return as_kept(result)
    except ValueError as error:
        raise NotSerialisable(f"the result: {error}") from error


def _describe(claim: Claimed, error: BaseException) -> TaskError:
    if isinstance(error, TimedOut):
        said = f"it ran for longer than its timeout of {claim.timeout:g} s"
        return TaskError("timeout", said, error_class="TimedOut")
    code = error.code if isinstance(error, CallboardError) else "actor_error"
    said = _said(error)
    message = said if isinstance(error, CallboardError) else f"{type(error).__name__}: {said}"
    trace = _trace(error)[-MOST_TRACEBACK:]
    name = type(error).__qualname__[:MOST_NAME]
    return TaskError(code, _storable(message)[:MOST_MESSAGE], _storable(trace), name)


def _said(error: BaseException) -> str:
    """What an error says; one that fails even at that is no reason to lose a task."""
    try:
        return str(error) or "no message"
    except Exception:
        return "an error that cannot say what it is"


def _trace(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except Exception:
        return "no traceback could be made"


def _sensible(seconds: float) -> float:
    """A wait as it is kept: not negative, not a nonsense number, not longer than a month."""
    return min(max(0.0, seconds), LONGEST_WAIT) if seconds == seconds else 0.0


def _storable(text: str) -> str:
    """Text without what Postgres cannot keep: NUL and lone surrogates."""
    return text.replace("\0", "�").encode("utf-8", "replace").decode()
