"""Interrupting actors: an exception is raised in the thread of a task that was cancelled or ran out of time.

It is raised under the thread's own lock, and only while that very attempt is inside the actor: an exception
that came late would hit our own code, or the next task.
"""

import ctypes
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from uuid import UUID

from actors.context import Cancelled, CurrentTask, Drained, TimedOut

log = logging.getLogger("callboard.interrupts")

R = TypeVar("R")
INTERRUPTIONS = (Cancelled, TimedOut, Drained)
PRECISION = 0.25
LOCK_PATIENCE = 5.0


class _Inside:
    """One attempt that is inside its actor."""

    def __init__(self, current: CurrentTask, deadline: float) -> None:
        self.current = current
        self.deadline = deadline
        self.thread = threading.get_ident()
        self.lock = current.guard
        self.active = True
        self.raised = False

    def interrupt(self, kind: type[BaseException]) -> None:
        """Raise ``kind`` in the attempt's thread, at most once and only while it is active."""
        if not self.lock.acquire(timeout=LOCK_PATIENCE):
            return
        try:
            if self.active and not self.raised:
                self.raised = True
                self.current.interrupt(kind())
                _raise_in(self.thread, kind)
        finally:
            self.lock.release()

    def leave(self) -> None:
        """Close the door; an exception that is under way is caught or called back."""
        while True:
            try:
                with self.lock:  # nothing can come between taking it and giving it back
                    self.active = False
                    if self.raised:  # calling back what never came would leave CPython's flag for it up
                        _raise_in(self.thread, None)
                return
            except INTERRUPTIONS:
                continue


class Watch:
    """One attempt that is inside its actor in another process: an interrupt only leaves its reason here."""

    def __init__(self) -> None:
        self.deadline = math.inf
        self.reason: BaseException | None = None

    def interrupt(self, kind: type[BaseException]) -> None:
        """Leave the reason for whoever waits for that process; the first one counts."""
        self.reason = self.reason or kind()


class Interrupts:
    """All attempts of this process that are inside an actor, and the thread that watches their time."""

    def __init__(self) -> None:
        self._inside: dict[UUID, _Inside | Watch] = {}
        self._over: type[BaseException] | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="callboard-timeouts", daemon=True)

    def start(self) -> "Interrupts":
        """Start watching timeouts."""
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop watching timeouts."""
        self._stopping.set()

    def run(self, current: CurrentTask, timeout: float, call: Callable[[], R]) -> R:
        """``call()``, interruptible, for at most ``timeout`` seconds.

        Raises:
          Cancelled, TimedOut, Drained: the attempt was interrupted.
        """
        inside = _Inside(current, time.monotonic() + timeout)
        self._inside[current.id] = inside
        try:
            try:
                if self._over is not None:
                    raise self._over
                return call()
            finally:
                inside.leave()
        finally:  # by now the door is closed, or the one interrupt hit the line before
            self._inside.pop(current.id, None)

    @contextmanager
    def watch(self, task_id: UUID) -> Iterator[Watch]:
        """Interrupts of a task that runs in another process, as reasons; nothing is raised on this thread."""
        watch = Watch()
        self._inside[task_id] = watch
        try:
            if self._over is not None:
                watch.interrupt(self._over)
            yield watch
        finally:
            self._inside.pop(task_id, None)

    def cancel(self, task_id: UUID) -> None:
        """Interrupt a task, if it is inside an actor here."""
        if inside := self._inside.get(task_id):
            inside.interrupt(Cancelled)

    def everything(self, kind: type[BaseException] = Drained) -> None:
        """Interrupt all tasks of this process, and those that come: its time, or its lease, is over."""
        self._over = kind
        for inside in list(self._inside.values()):
            inside.interrupt(kind)

    @property
    def count(self) -> int:
        """How many attempts are inside an actor."""
        return len(self._inside)

    def _watch(self) -> None:
        while not self._stopping.wait(PRECISION):
            now = time.monotonic()
            for inside in list(self._inside.values()):
                if inside.deadline <= now:
                    inside.interrupt(TimedOut)


def _raise_in(thread: int, kind: type[BaseException] | None) -> None:
    exception: Any = None if kind is None else ctypes.py_object(kind)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), exception)
