"""Supervising processes: one that dies is started again, and its siblings go on."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence

import msgspec

log = logging.getLogger("callboard.supervisor")

SHORT_LIFE_SECONDS = 5.0
PAUSES = (0.0, 0.5, 1.0, 2.0, 5.0)
TICK_SECONDS = 0.1
#: A child ends with this if the settings cannot be used: starting it again would change nothing.
UNUSABLE = os.EX_CONFIG
PARENT_VARIABLE = "CALLBOARD_PARENT_PID"


class Child(msgspec.Struct, frozen=True):
    """A process to keep running: its name, the Python module it runs, and its own environment."""

    name: str
    module: str
    arguments: Sequence[str] = ()
    environ: Mapping[str, str] = {}


class _Kept:
    """A child with its process."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self.process: subprocess.Popen[bytes] | None = None
        self.started_at = 0.0
        self.starts = 0
        self.short_lives = 0
        self.start_at = 0.0


class Supervisor:
    """Starts children, restarts those that die, and stops all of them together."""

    def __init__(self, children: Sequence[Child], *, patience: float) -> None:
        self._kept = [_Kept(child) for child in children]
        self._patience = patience
        self._stopping = threading.Event()
        self._is_unusable = False

    def run(self) -> int:
        """Keep the children running until SIGTERM or SIGINT, then stop them; the exit code.

        It ends by itself, with UNUSABLE, if a child cannot use its settings when it is started first. One
        that could is started again: its siblings go on, whatever has become of the files since.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stopping.set())
        stop_with_parent(self._stopping)
        try:
            while not self._stopping.wait(TICK_SECONDS):
                for kept in self._kept:
                    self._tend(kept)
        finally:
            clean = self._stop_all()
        if self._is_unusable:
            return UNUSABLE
        return 0 if clean else 1

    def _tend(self, kept: _Kept) -> None:
        now = time.monotonic()
        if kept.process is None:
            if now >= kept.start_at:
                self._start(kept)
            return
        code = kept.process.poll()
        if code is None:
            return
        if code == UNUSABLE and kept.starts == 1:
            log.error("%s cannot run with these settings: put them right and start again", kept.child.name)
            kept.process, self._is_unusable = None, True
            self._stopping.set()
            return
        kept.short_lives = kept.short_lives + 1 if now - kept.started_at < SHORT_LIFE_SECONDS else 0
        pause = PAUSES[min(kept.short_lives, len(PAUSES) - 1)]
        log.warning("%s ended with %s; starting it again in %g s", kept.child.name, code, pause)
        kept.process, kept.start_at = None, now + pause

    def _start(self, kept: _Kept) -> None:
        child = kept.child
        kept.started_at = time.monotonic()
        kept.starts += 1
        kept.process = subprocess.Popen(
            [sys.executable, "-m", child.module, *child.arguments],
            env={**os.environ, **child.environ, PARENT_VARIABLE: str(os.getpid())},
            # Ctrl-C in a terminal goes to the whole group: the children get our SIGTERM instead, once.
            start_new_session=True,
        )
        log.info("%s is process %d", child.name, kept.process.pid)

    def _stop_all(self) -> bool:
        running = [kept.process for kept in self._kept if kept.process is not None]
        for process in running:
            process.terminate()
        deadline = time.monotonic() + self._patience
        clean = True
        for process in running:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.warning("process %d did not stop in time and is killed", process.pid)
                process.kill()
                process.wait()
                clean = False
        return clean


def stop_with_parent(stop: threading.Event) -> None:
    """Set ``stop`` when the process that started this one and said so is gone (it may have been killed)."""
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is None:
        return

    def watch() -> None:
        while not stop.wait(1.0):
            if os.getppid() != int(parent):
                log.warning("the supervisor is gone; stopping")
                stop.set()

    threading.Thread(target=watch, name="callboard-parent", daemon=True).start()


def stop_on_signals(stop: threading.Event) -> None:
    """Set ``stop`` on SIGTERM and SIGINT."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
