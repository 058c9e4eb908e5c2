"""The parent's side of the conversion child: start it, ask it, kill it, keep it warm."""

import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from actors.errors import RetryAfter

_PROGRAM = Path(__file__).with_name("conversion_child.py")
_DOCUMENTS_PER_CHILD = 1000
_IDLE_SECONDS = 30.0
_READ_SIZE = 1 << 20
_HEADER_AT_MOST = 10_000
_START_AGAIN_SECONDS = 10.0
_SIGNS_OF_MEMORY = (b"memory allocation", b"MemoryError", b"Cannot allocate")
# Short waits let an interrupt of the calling thread (a cancelled task) come through.
_WAIT_MILLISECONDS = 200


@dataclass(frozen=True)
class Reply:
    """What the child said: an outcome and its text."""

    outcome: str
    text: str


class OutOfTime(Exception):
    """The child was killed at the deadline."""


class ChildDied(Exception):
    """The child ended without a proper reply.

    ``out_of_memory`` tells whether that was why, ``was_fresh`` whether the document was its first.
    """

    def __init__(self, *, exit_code: int, out_of_memory: bool, was_fresh: bool) -> None:
        super().__init__(f"the conversion child ended with exit code {exit_code}")
        self.exit_code = exit_code
        self.out_of_memory = out_of_memory
        self.was_fresh = was_fresh


class ConversionChild:
    """One child process in a session of its own. Leaving it as a context manager kills its whole group."""

    def __init__(self, memory_bytes: int) -> None:
        self.memory_bytes = memory_bytes
        self.served = 0
        self._is_ready = False
        self._received = bytearray()
        self._complaints: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - kill() closes it
        try:
            self._process = subprocess.Popen(
                _command(memory_bytes),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._complaints,
                env=_environment(),
                cwd="/",
                bufsize=0,
                start_new_session=True,
            )
        except BaseException:
            self._complaints.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        """The child's process id, which is its group's too."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def ask(
        self, path: Path, media_type: str, *, seconds: float, processor_seconds: float, max_bytes: int
    ) -> Reply:
        """Have one document converted.

        Raises OutOfTime after ``seconds``, ChildDied (by SIGPROF after ``processor_seconds``), and RetryAfter
        if the child did not even start, which is no fault of the document. The child is of no use after any
        of them.
        """
        deadline = time.monotonic() + seconds
        self._await_start(deadline)
        request = {
            "path": str(path.resolve()),
            "media_type": media_type,
            "seconds": seconds,
            "processor_seconds": processor_seconds,
            "max_bytes": max_bytes,
        }
        self.served += 1
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # the read below tells why it is gone
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
        return self._reply(deadline, max_bytes=max_bytes + _HEADER_AT_MOST)

    def _await_start(self, deadline: float) -> None:
        if self._is_ready:
            return
        try:
            self._reply(deadline, max_bytes=0)
        except (OutOfTime, ChildDied) as error:
            raise RetryAfter(
                _START_AGAIN_SECONDS,
                "The document converter could not be started: the worker has too little memory or is "
                "overloaded. The document will be tried again.",
            ) from error
        self._is_ready = True

    def _reply(self, deadline: float, *, max_bytes: int) -> Reply:
        while b"\n" not in self._received:
            self._receive(deadline, at_most=max_bytes + _HEADER_AT_MOST)
        line, _, self._received = self._received.partition(b"\n")
        header = json.loads(line)
        while len(self._received) < header["size"]:
            self._receive(deadline, at_most=max_bytes)
        text, self._received = self._received.decode("utf-8"), bytearray()
        return Reply(header["outcome"], text)

    def kill(self) -> None:
        """End the child and everything it started; harmless when it is gone."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._complaints):
            if pipe is not None:
                pipe.close()

    def _receive(self, deadline: float, *, at_most: int) -> None:
        assert self._process.stdout is not None
        poll = select.poll()
        poll.register(self._process.stdout, select.POLLIN | select.POLLHUP)
        while not poll.poll(_WAIT_MILLISECONDS):
            if time.monotonic() > deadline:
                raise OutOfTime
        received = self._process.stdout.read(_READ_SIZE)
        self._received += received or b""
        if not received or len(self._received) > at_most:
            raise self._death()

    def _death(self) -> ChildDied:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1)
        self._complaints.seek(0)
        complaints = self._complaints.read(_READ_SIZE)
        return ChildDied(
            exit_code=self._process.returncode or 0,
            out_of_memory=any(sign in complaints for sign in _SIGNS_OF_MEMORY),
            was_fresh=self.served == 1,
        )


class ConversionChildren:
    """The children of one process that wait for the next document, so that starting is paid once."""

    def __init__(self, *, documents_per_child: int = _DOCUMENTS_PER_CHILD) -> None:
        self._documents_per_child = documents_per_child
        self._lock = threading.Lock()
        self._idle: list[ConversionChild] = []
        self._owner = os.getpid()

    @contextmanager
    def lend(self, memory_bytes: int, *, fresh: bool = False) -> Iterator[ConversionChild]:
        """Lend a child, a new one if ``fresh`` or if none waits. It is killed if the block raises."""
        waiting = None if fresh else self._take(memory_bytes)
        child = waiting or ConversionChild(memory_bytes)
        try:
            yield child
        except BaseException:
            child.kill()
            raise
        self._give_back(child)

    def end_idle(self) -> None:
        """End the children that wait; those at work are not touched."""
        with self._lock:
            idle, self._idle = self._idle, []
        for child in idle:
            child.kill()

    def _take(self, memory_bytes: int) -> ConversionChild | None:
        with self._lock:
            if self._owner != os.getpid():  # forked: those children are the original's
                self._owner, self._idle = os.getpid(), []
            matching = [child for child in self._idle if child.memory_bytes == memory_bytes]
            if not matching:
                return None
            self._idle.remove(matching[-1])
        if matching[-1].is_alive:
            return matching[-1]
        matching[-1].kill()
        return None

    def _give_back(self, child: ConversionChild) -> None:
        if child.served < self._documents_per_child:
            with self._lock:
                if len(self._idle) < (os.cpu_count() or 1):
                    self._idle.append(child)
                    return
        child.kill()


def _command(memory_bytes: int) -> list[str]:
    found = importlib.util.find_spec("xberg")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("xberg, the document converter, is not installed", name="xberg")
    packages = Path(found.submodule_search_locations[0]).parent
    isolated = [sys.executable, "-I", "-S", str(_PROGRAM)]
    return [*isolated, str(os.getpid()), str(memory_bytes), str(_IDLE_SECONDS), str(packages)]


def _environment() -> dict[str, str]:
    """No secrets; few threads and malloc arenas, since each takes from the limited address space."""
    environment = {
        "LANG": "C.UTF-8",
        "HOME": "/",
        "PATH": "/usr/bin:/bin",
        "MALLOC_ARENA_MAX": "2",
        "RAYON_NUM_THREADS": "2",
        "TOKIO_WORKER_THREADS": "2",
    }
    if library_path := os.environ.get("LD_LIBRARY_PATH"):  # some Pythons need it to start at all
        environment["LD_LIBRARY_PATH"] = library_path
    return environment
