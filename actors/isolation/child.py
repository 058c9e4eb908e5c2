"""The other side of isolation: the process that runs tasks one at a time for the worker that started it."""

import ctypes
import os
import queue
import signal
import socket
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Final

import msgspec

from actors.attempt import Attempts
from actors.isolation.wire import Begun, Item, Line, Progress, Ready, Run, Save, Saved, Wire
from tasks.errors import CallboardError
from tasks.values import Claimed, Json

PR_SET_PDEATHSIG: Final = 1


class Served:
    """What a child has instead of a ledger: the worker at the other end of the wire."""

    def __init__(self, wire: Wire, end: Callable[[], None]) -> None:
        self._wire = wire
        self._end = end
        self._claims: queue.SimpleQueue[Claimed] = queue.SimpleQueue()
        self._saves: dict[tuple[int, int], Future[bool]] = {}

    def report(
        self, claim: Claimed, percent: float, phase: str | None, message: str | None, details: dict[str, Any]
    ) -> None:
        """Tell the worker how far an attempt is; a report that it could not read is left out."""
        report = Progress(claim.token, percent, phase, message, details)
        try:
            msgspec.json.decode(msgspec.json.encode(report), type=Progress)
        except (TypeError, ValueError, ArithmeticError, RecursionError, msgspec.MsgspecError):
            return
        self._wire.send(report)

    def tell(self, claim: Claimed, level: str, logger: str, message: str) -> bool:
        """Tell the worker what an attempt logged."""
        self._wire.send(Line(claim.token, level, logger, message))
        return True

    def give(self, claim: Claimed, item: Any) -> None:
        """Tell the worker what an attempt has yielded: the worker hands it out."""
        self._wire.send(Item(claim.token, Json(msgspec.json.encode(item))))

    def save(self, claim: Claimed, version: int, state: Any) -> "Future[bool]":
        """Have the worker save a state."""
        saved: Future[bool] = Future()
        self._saves[claim.token, version] = saved
        self._wire.send(Save(claim.token, version, Json(msgspec.json.encode(state))))
        return saved

    def serve(self, attempts: Attempts) -> None:
        """Run what the worker sends, for ever: it is the worker that ends its children."""
        threading.Thread(target=self._read, name="callboard-wire", daemon=True).start()
        self._wire.send(Ready())
        while True:
            claim = self._claims.get()
            self._wire.send(Begun())
            self._wire.send(attempts.run(claim))

    def _read(self) -> None:
        """Take what the worker sends, also while an actor runs; without a worker there is nothing to do."""
        try:
            with suppress(EOFError, OSError):
                while True:
                    message = self._wire.receive()
                    if isinstance(message, Run):
                        self._claims.put(message.claimed())
                    elif isinstance(message, Saved):
                        self._answer(message)
        finally:
            self._end()

    def _answer(self, told: Saved) -> None:
        saved = self._saves.pop((told.token, told.version), None)
        if saved is None:  # nobody waits for it
            return
        if told.error is None:
            saved.set_result(told.done)
        else:
            code, message = told.error
            saved.set_exception(CallboardError(message, code=code))


def wire_to_worker(number: int) -> Wire:
    """The wire to the worker, by the number of its socket; what an actor starts does not inherit it."""
    os.set_inheritable(number, False)
    return Wire(socket.socket(fileno=number))


def obey_the_worker_alone() -> None:
    """End with the worker, and not by signals that are meant for all processes of a service at once."""
    if (
        sys.platform == "linux"
    ):  # elsewhere the closed socket ends it, as soon as the actor lets it be noticed
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # unlike SIG_IGN it is not inherited by what an actor starts


def end_at_once() -> None:
    """Kill this process and all that it started."""
    os.killpg(0, signal.SIGKILL)
