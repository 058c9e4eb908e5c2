"""The bell: wakes those in this process who wait for a task, by the notices of whoever moves it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from tasks.herald import EVENTS_CHANNEL
from tasks.ids import parse_id
from tasks.notices import Listener


class Bell:
    """Waits for notices about tasks; it listens from the first time that somebody waits."""

    def __init__(self, url: str) -> None:
        self._listener = Listener(url, {EVENTS_CHANNEL: self._ring})
        self._waiting: dict[UUID, set[threading.Event]] = {}
        self._lock = threading.Lock()
        self._listens = False

    def listen(self) -> None:
        """Begin to listen, if nobody did yet.

        While CPython starts a thread, an exception for the thread that starts it may hit the new one: no
        interrupt must come meanwhile.
        """
        with self._lock:
            if not self._listens:
                self._listener.start()
                self._listens = True

    def wait(self, task_id: UUID, seconds: float) -> None:
        """Return when something happened to a task, after ``seconds`` at the latest."""
        with self._waits(task_id) as rung:
            rung.wait(seconds)

    def close(self) -> None:
        """Stop listening."""
        if self._listens:
            self._listener.close()

    @contextmanager
    def _waits(self, task_id: UUID) -> Iterator[threading.Event]:
        rung = threading.Event()
        self.listen()
        with self._lock:
            self._waiting.setdefault(task_id, set()).add(rung)
        try:
            yield rung
        finally:
            with self._lock:
                self._waiting[task_id].discard(rung)
                if not self._waiting[task_id]:
                    del self._waiting[task_id]

    def _ring(self, text: str) -> None:
        with self._lock:
            ids = [parse_id(one) for one in text.split(",")] if text else list(self._waiting)
            for task_id in ids:
                for rung in self._waiting.get(task_id, ()) if task_id else ():
                    rung.set()
