"""The processes in which tasks run alone: started when needed, kept warm for a while, and killed.

When a worker kills a child, what its actor started dies with it: the whole process group. When the worker
itself is killed (SIGKILL), the kernel ends the child alone: processes that the actor started may live on.
"""

import os
import queue
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Final

import msgspec

from actors.attempt import said_by
from actors.errors import ActorsError
from actors.isolation.wire import Message, Wire

IDLE_SECONDS = 30.0
TASKS_PER_CHILD = 1_000
#: A child reads at once what it is sent, unless it is stopped.
SEND_SECONDS = 10.0
LAST_BREATH_SECONDS = 1.0
#: Starting a process takes milliseconds, unless the machine has come to a stand.
SPAWN_SECONDS: Final = 60.0


class Program(msgspec.Struct, frozen=True):
    """How to start a child: a command, to which the number of its socket is added, and more environment."""

    command: Sequence[str]
    environ: Mapping[str, str] = {}


class ChildDied(ActorsError):
    """A child ended without being asked to; the message says how."""


class NotStarted(ActorsError):
    """A child cannot be started now, which is no fault of the task that was to run in it."""


class Child:
    """One process, in a session of its own: Ctrl-C does not reach it, and what it starts dies with it."""

    def __init__(self, program: Program) -> None:
        self.is_ready = False
        self.is_spent = False
        self.served = 0
        self.idle_since = 0.0
        ours, theirs = socket.socketpair()
        ours.settimeout(SEND_SECONDS)
        self._wire = Wire(ours)
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [*program.command, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    env={**os.environ, **program.environ},
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
            except BaseException:
                ours.close()
                raise

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.poll() is not None

    def send(self, message: Message) -> None:
        """Send a message.

        Raises:
          ChildDied: there is nobody to read it.
        """
        try:
            self._wire.send(message)
        except OSError as error:
            raise self._death() from error

    def receive(self, seconds: float) -> Message | None:
        """The next message, if one comes within ``seconds``.

        Raises:
          ChildDied: none will ever come.
        """
        try:
            message = self._wire.receive(seconds)
            if message is None and self.has_ended:  # something it started may hold its socket open
                message = self._wire.receive(0)
                if message is None:
                    raise self._death()
            return message
        except (EOFError, OSError) as error:
            raise self._death() from error
        except msgspec.MsgspecError as error:
            raise ChildDied("sent what cannot be read") from error

    def kill(self) -> None:
        """End the process and all that it started; harmless when it is gone."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(LAST_BREATH_SECONDS)
        self._wire.close()

    def _death(self) -> ChildDied:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(LAST_BREATH_SECONDS)
        code = self._process.returncode
        if code is None:
            return ChildDied("closed its connection to the worker")
        return ChildDied(f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}")


class Children:
    """The children of one worker. None is started before it is needed."""

    def __init__(
        self,
        program: Program,
        *,
        most_idle: int,
        idle_seconds: float = IDLE_SECONDS,
        tasks_per_child: int = TASKS_PER_CHILD,
    ) -> None:
        self._program = program
        self._most_idle = most_idle
        self._idle_seconds = idle_seconds
        self._tasks_per_child = tasks_per_child
        self._lock = threading.Lock()
        self._idle: list[Child] = []
        self._closed = False
        self._wanted: queue.SimpleQueue[Future[Child] | None] = queue.SimpleQueue()
        self._keeper: threading.Thread | None = None

    @contextmanager
    def lend(self, *, fresh: bool) -> Iterator[Child]:
        """A child for one task; a ``fresh`` one has served nobody, and will not serve others.

        It is killed if the block raises, or if it is spent.

        Raises:
          NotStarted: there is none, and none can be started.
        """
        child = (None if fresh else self._take()) or self._start()
        try:
            child.served += 1
            yield child
        except BaseException:
            child.kill()
            raise
        if fresh or child.is_spent or not self._give_back(child):
            child.kill()

    def close(self) -> None:
        """End the children that wait; one that is lent ends when it is given back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for child in idle:
            child.kill()

    def _take(self) -> Child | None:
        while True:
            with self._lock:
                if not self._idle:
                    return None
                child = self._idle.pop()
            if not child.has_ended:
                return child
            child.kill()

    def _give_back(self, child: Child) -> bool:
        with self._lock:
            if self._closed or child.served >= self._tasks_per_child or len(self._idle) >= self._most_idle:
                return False
            child.idle_since = time.monotonic()
            self._idle.append(child)
        self._wanted.put(None)
        return True

    def _start(self) -> Child:
        started: Future[Child] = Future()
        try:
            self._see_that_it_is_kept()
            self._wanted.put(started)
            return started.result(SPAWN_SECONDS)
        except BaseException as error:
            started.add_done_callback(_kill)  # if it comes after all, nobody waits for it
            if isinstance(error, OSError | RuntimeError | MemoryError | ValueError):
                raise NotStarted(f"it cannot be started: {said_by(error)}") from error
            raise

    def _see_that_it_is_kept(self) -> None:
        with self._lock:
            if self._keeper is None or not self._keeper.is_alive():
                keeper = threading.Thread(target=self._keep, name="callboard-children", daemon=True)
                keeper.start()
                self._keeper = keeper

    def _keep(self) -> None:
        """Start children, and end those that wait for too long.

        One thread does it that lives as long as the process: the kernel ends a child with the *thread* that
        started it.
        """
        while True:
            try:
                wanted = self._wanted.get(timeout=self._idle_seconds / 4 if self._idle else None)
            except queue.Empty:
                self._end_idle()
                continue
            if wanted is None:
                continue
            try:
                wanted.set_result(Child(self._program))
            except Exception as error:
                wanted.set_exception(error)

    def _end_idle(self) -> None:
        longest = time.monotonic() - self._idle_seconds
        with self._lock:
            over = [child for child in self._idle if child.idle_since <= longest or child.has_ended]
            self._idle = [child for child in self._idle if child not in over]
        for child in over:
            child.kill()


def _kill(started: "Future[Child]") -> None:
    if started.exception() is None:
        started.result().kill()
