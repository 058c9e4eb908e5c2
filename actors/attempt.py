"""An attempt: run the actor, judge what it did. The verdict is a value, and nothing is raised.

It is the same on a thread of the worker and in a process of its own.
"""

import logging
import traceback
from typing import Any
from uuid import UUID

import msgspec

from actors import backoff, context
from actors.context import (
    Cancelled,
    CurrentTask,
    Drained,
    Giver,
    Reporter,
    Resources,
    Saver,
    Teller,
    TimedOut,
    kept_back,
    nowhere,
)
from actors.definitions import Actor
from actors.errors import Permanent, RetryAfter
from actors.interrupts import Interrupts
from actors.kept import as_kept, storable
from actors.registry import Registry
from tasks.errors import CallboardError, InvalidField
from tasks.values import Claimed, TaskError

log = logging.getLogger("callboard.worker")

MOST_MESSAGE = 2_000
MOST_TRACEBACK = 20_000
MOST_NAME = 200
LONGEST_WAIT = 30 * 86_400.0


class Completed(msgspec.Struct, frozen=True, tag=True):
    """The actor returned, with a result that JSON can hold."""

    result: Any


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The attempt failed; ``retry_in`` seconds until the next one, None if there is none."""

    error: TaskError
    retry_in: float | None


class GivenUp(msgspec.Struct, frozen=True, tag=True):
    """The attempt was interrupted; ``hand_back`` says whether the task is still ours to give back."""

    hand_back: bool


class Lost(msgspec.Struct, frozen=True):
    """The process of its own that ran the attempt died; ``how`` is told to people."""

    how: str


class Reused(msgspec.Struct, frozen=True):
    """The actor need not run: this is what came of the same input in an earlier task."""

    result: Any
    task_id: UUID


#: What can be judged where the actor ran; that its process died, or need not run it, is known outside.
Judged = Completed | Failed | GivenUp
Verdict = Judged | Lost | Reused


class Attempts:
    """Runs claimed tasks on the calling thread, with all that an actor may use."""

    def __init__(
        self,
        registry: Registry,
        resources: Resources,
        interrupts: Interrupts,
        report: Reporter,
        save: Saver,
        *,
        tell: Teller = nowhere,
        give: Giver = kept_back,
        backoff_factor: float = 2.0,
    ) -> None:
        self._registry = registry
        self._resources = resources
        self._interrupts = interrupts
        self._report = report
        self._save = save
        self._tell = tell
        self._give = give
        self._backoff_factor = backoff_factor

    def run(self, claim: Claimed) -> Judged:
        """Run a task to its verdict."""
        try:
            actor = self._registry.get(claim.task_type)
            if actor is None:
                return GivenUp(hand_back=True)
            payload = msgspec.json.decode(claim.payload)
            current = self._current(claim, payload)
            context.enter(current)
            result = self._interrupts.run(current, claim.timeout, lambda: _call(actor, payload, current))
            return Completed(_as_builtins(current.result if result is None else result))
        except BaseException as error:
            return self.judge(claim, error)
        finally:
            context.leave()

    def _current(self, claim: Claimed, payload: Any) -> CurrentTask:
        return CurrentTask(
            claim, payload, self._report, self._save, self._resources, tell=self._tell, give=self._give
        )

    def judge(self, claim: Claimed, error: BaseException) -> Judged:
        """The verdict on an attempt that raised, or that was interrupted from outside."""
        try:
            return self._judged(claim, error)
        except Exception as trouble:  # an actor's error can be wrong in any way
            log.warning("the error of task %s cannot be judged: %s", claim.id, said_by(trouble))
            return Failed(describe(claim, error), None)

    def _judged(self, claim: Claimed, error: BaseException) -> Judged:
        if isinstance(error, Cancelled):
            return GivenUp(hand_back=False)
        if isinstance(error, Drained):
            return GivenUp(hand_back=True)
        described = describe(claim, error)
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


def _call(actor: Actor[..., Any], payload: Any, current: CurrentTask) -> Any:
    """What the actor returns; what it yields is handed out as it comes, and the list of it returned."""
    returned = actor.run(payload)
    return [current.give(item) for item in returned] if actor.yields else returned


class NotSerialisable(CallboardError):
    """What an actor returned cannot be kept as JSON."""

    code = "result_not_serialisable"


def _as_builtins(result: Any) -> Any:
    """The result as JSON gives it back, so that the next stage sees the same whether it waits or not."""
    try:
        return as_kept(result)
    except ValueError as error:
        raise NotSerialisable(f"the result: {error}") from error


def describe(claim: Claimed, error: BaseException) -> TaskError:
    """An error as the record keeps it."""
    if isinstance(error, TimedOut):
        said = f"it ran for longer than its timeout of {claim.timeout:g} s"
        return TaskError("timeout", said, error_class="TimedOut")
    said = said_by(error)
    message = said if isinstance(error, CallboardError) else f"{type(error).__name__}: {said}"
    trace = _trace(error)[-MOST_TRACEBACK:]
    name = storable(type(error).__qualname__)[:MOST_NAME]
    return TaskError(_code(error), storable(message)[:MOST_MESSAGE], storable(trace), name)


def _code(error: BaseException) -> str:
    try:
        return storable(str(error.code)) if isinstance(error, CallboardError) else "actor_error"
    except Exception:
        return "actor_error"


def said_by(error: BaseException) -> str:
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


def _sensible(seconds: Any) -> float:
    """A wait as it is kept: not negative, not longer than a month; what is no number is no wait."""
    try:
        return min(max(0.0, float(seconds)), LONGEST_WAIT)  # in this order, what is not a number becomes 0
    except (TypeError, ValueError, OverflowError):
        return 0.0
