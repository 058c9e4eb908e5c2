"""The task that runs now, as its actor sees it: ``current_task()``."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar
from uuid import UUID

import msgspec

from actors.errors import ActorsError
from actors.kept import as_kept, storable
from actors.lines import Lines
from tasks.values import Claimed

T = TypeVar("T")
STEP_SECONDS = 0.05
MOST_STATE_BYTES = 1 << 20
MOST_PHASE = 200
MOST_MESSAGE = 4_000
LEVELS = ("debug", "info", "warning", "error", "critical")


class Cancelled(BaseException):
    """Raised inside an actor whose task was cancelled, or taken from this process. Let it pass."""


class TimedOut(BaseException):
    """Raised inside an actor whose time is up. Let it pass, or clean up and let it pass."""


class Drained(BaseException):
    """Raised inside an actor when its process must stop now: the task is handed back, no attempt is used."""


class Reporter(Protocol):
    """Where progress goes."""

    def __call__(
        self, claim: Claimed, percent: float, phase: str | None, message: str | None, details: dict[str, Any]
    ) -> None:
        """Take over a report; must not block."""


class Saver(Protocol):
    """Where checkpoints go."""

    def __call__(self, claim: Claimed, version: int, state: Any) -> "Future[bool]":
        """Save a state under a version; False: the task is not this process's any more."""


class Teller(Protocol):
    """Where lines go that an actor logs."""

    def __call__(self, claim: Claimed, level: str, logger: str, message: str) -> bool:
        """Take over a line, or refuse it; must not block."""


class Giver(Protocol):
    """Where goes what an actor yields."""

    def __call__(self, claim: Claimed, item: Any) -> "Future[bool] | None":
        """Take over an item. The future says False: the task is not this process's any more."""


def kept_back(claim: Claimed, item: Any) -> None:
    """Hand nothing out."""


def nowhere(claim: Claimed, level: str, logger: str, message: str) -> bool:
    """Keep no lines."""
    return True


class Resources:
    """What a process keeps for its actors (an embedder, a store): built on first use, then shared."""

    def __init__(self, factories: dict[type, Callable[[], Any]] | None = None) -> None:
        self._factories = dict(factories or {})
        self._made: dict[type, Any] = {}
        self._lock = threading.Lock()

    def get(self, kind: type[T]) -> T:
        """The process's one ``kind``.

        Raises:
          ActorsError: no composition root provides it.
        """
        with self._lock:
            if kind not in self._made:
                if kind not in self._factories:
                    raise ActorsError(
                        f"this process provides no {kind.__name__}: is it a worker of Callboard?"
                    )
                self._made[kind] = self._factories[kind]()
            made: T = self._made[kind]
            return made


class CurrentTask:
    """The task that runs on this thread."""

    def __init__(
        self,
        claim: Claimed,
        payload: Any,
        report: Reporter,
        save: Saver,
        resources: Resources,
        *,
        tell: Teller = nowhere,
        give: Giver = kept_back,
    ) -> None:
        self._claim = claim
        self._give = give
        self._report = report
        self._save = save
        self._version = claim.snapshot
        self._state = None if claim.state is None else msgspec.json.decode(claim.state)
        self._resources = resources
        self._lines = Lines(lambda level, logger, text: tell(claim, level, logger, text))
        self._interrupt: BaseException | None = None
        #: Held while our own code runs on the actor's thread: an interrupt must not be raised in it. What
        #: the collector destroys there may log, hence it may be taken again.
        self.guard = threading.RLock()
        #: One thread of the actor saves at a time: two of them must not take the same version.
        self._saving = threading.Lock()
        self.payload = payload
        #: The result of the task, for an actor that returns none. What it returns goes before this.
        self.result: Any = None

    @property
    def id(self) -> UUID:
        """The task's id."""
        return self._claim.id

    @property
    def task_type(self) -> str:
        """The type of the task; a stage's is ``<pipeline>.<stage>``."""
        return self._claim.task_type

    @property
    def run_id(self) -> UUID | None:
        """The run that this task is a stage of."""
        return self._claim.run_id

    @property
    def kb_id(self) -> str | None:
        """The knowledge base that the task is about."""
        return self._claim.kb_id

    @property
    def user_id(self) -> str:
        """Whose task it is; empty where there is no auth."""
        return self._claim.user_id

    @property
    def attempt(self) -> int:
        """Which attempt this is; the first is 1."""
        return self._claim.attempt

    @property
    def cancelled(self) -> bool:
        """Whether the task was cancelled meanwhile."""
        return isinstance(self._interrupt, Cancelled)

    def interrupt(self, reason: BaseException) -> None:
        """Ask the actor to stop at its next `progress` (other threads call this)."""
        self._interrupt = self._interrupt or reason

    def progress(
        self,
        percent: float | None = None,
        message: str | None = None,
        *,
        step: str | None = None,
        done: int | None = None,
        total: int | None = None,
    ) -> None:
        """Say how far the work is: a percentage, or ``done`` of ``total`` steps.

        Raises:
          Cancelled: the task was cancelled; let it pass.
          ValueError: the numbers make no sense.
        """
        self.check()
        if percent is None:
            if done is None or not total:
                raise ValueError("progress takes a percentage, or done and total")
            percent = 100.0 * done / total
        phase = None if step is None else storable(str(step)[:MOST_PHASE])
        said = None if message is None else storable(str(message)[:MOST_MESSAGE])
        details = {"step": phase, "steps_done": done, "steps_total": total} if total else {}
        with self.guard:
            self._report(self._claim, min(100.0, max(0.0, float(percent))), phase, said, details)

    def log(self, message: str, level: str = "info") -> None:
        """Keep a line with the task; what is logged with `logging` is kept too.

        Raises:
          ValueError: there is no such level.
        """
        if level not in LEVELS:
            raise ValueError(f"{level!r} is no level: use one of {', '.join(LEVELS)}")
        self.take_line(level, self._claim.task_type, str(message))

    def take_line(self, level: str, logger: str, text: str) -> None:
        """Keep a line, unless there are too many; it never raises."""
        with self.guard, suppress(Exception):
            self._lines.take(level, logger, text)

    def take_last_line(self) -> None:
        """Say how many lines were left out, if some were."""
        with self.guard, suppress(Exception):
            self._lines.tell_of_the_rest()

    @property
    def state(self) -> Any:
        """What the last `checkpoint` of this task saved, in this attempt or an earlier one; None: nothing."""
        return self._state

    def checkpoint(self, state: Any) -> None:
        """Save ``state`` (JSON) durably: if this attempt dies, the next one starts with it as its `state`.

        Raises:
          Cancelled: the task was cancelled, or is not this process's any more; let it pass.
          ValueError: the state cannot be kept as JSON, or is too large.
        """
        self.check()
        kept = as_kept(state, most_bytes=MOST_STATE_BYTES)
        while not self._saving.acquire(timeout=STEP_SECONDS):
            self.check()
        try:  # an interrupt just before this leaves it taken: then whoever waits for it is interrupted too
            with self.guard:
                saved = self._save(self._claim, self._version + 1, kept)
            if not self.wait_for(saved):
                self.interrupt(Cancelled())
                self.check()
            self._version += 1
            self._state = kept
        finally:
            self._saving.release()

    def give(self, item: Any) -> Any:
        """Hand an item out that the actor has yielded; the item as it is kept.

        Raises:
          Cancelled: the task was cancelled, or is not this process's any more; let it pass.
          ValueError: the item cannot be kept as JSON.
        """
        self.check()
        kept = as_kept(item)
        with self.guard:
            given = self._give(self._claim, kept)
        if given is not None and not self.wait_for(given):
            self.interrupt(Cancelled())
            self.check()
        return kept

    def wait_for(self, answer: "Future[T]", seconds: float | None = None) -> T:
        """Wait for an answer in short steps: between them an interrupt may come through.

        Raises:
          TimeoutError: there was none within ``seconds``.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        while deadline is None or time.monotonic() < deadline:
            self.check()
            with self.guard, suppress(TimeoutError):
                return answer.result(STEP_SECONDS)
        raise TimeoutError

    def shielded(self, call: Callable[[], T]) -> T:
        """Call something short of ours that no interrupt may hit half-way."""
        self.check()
        with self.guard:
            return call()

    def check(self) -> None:
        """Raise if the task was cancelled or interrupted meanwhile."""
        if self._interrupt is not None:
            raise self._interrupt

    def use(self, kind: type[T]) -> T:
        """The process's shared ``kind``, such as the document store."""
        return self._resources.get(kind)


_current: ContextVar[CurrentTask | None] = ContextVar("callboard_current_task", default=None)


def current_task() -> CurrentTask:
    """The task that runs on this thread.

    Raises:
      ActorsError: no task runs here, because the function was called directly.
    """
    current = _current.get()
    if current is None:
        raise ActorsError("no task runs on this thread: the actor was called directly, not as a task")
    return current


def running_here() -> CurrentTask | None:
    """The task that runs on this thread, or None."""
    return _current.get()


def enter(current: CurrentTask | None) -> None:
    """Set the task of this thread (for the recorded call)."""
    _current.set(current)


def leave() -> None:
    """No task runs on this thread any more."""
    current = _current.get()
    _current.set(None)
    if current is not None:
        current.take_last_line()
