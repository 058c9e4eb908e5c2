"""Reports are committed by a group of their own: what ends an attempt waits for the last one of it."""

import threading
from collections.abc import Callable
from concurrent.futures import Future


class Unreported:
    """The last report of each attempt that is not committed yet: what ends the attempt comes after it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: dict[int, Future[bool]] = {}

    def add(self, token: int, report: "Future[bool]") -> None:
        """Remember the last report of an attempt."""
        with self._lock:
            if self._last.get(token) is report:
                return
            self._last[token] = report
        report.add_done_callback(lambda done: self._forget(token, done))

    def before(self, token: int, verb: "Callable[[], Future[bool]]") -> "Future[bool]":
        """Call a verb, or, if a report of the attempt is under way, as soon as that is committed."""
        with self._lock:
            last = self._last.get(token)
        if last is None:
            return verb()
        outcome: Future[bool] = Future()
        last.add_done_callback(lambda _: verb().add_done_callback(lambda done: _hand_on(done, outcome)))
        return outcome

    def _forget(self, token: int, report: "Future[bool]") -> None:
        with self._lock:
            if self._last.get(token) is report:
                del self._last[token]


def _hand_on(done: "Future[bool]", outcome: "Future[bool]") -> None:
    error = done.exception()
    if error is None:
        outcome.set_result(done.result())
    else:
        outcome.set_exception(error)
