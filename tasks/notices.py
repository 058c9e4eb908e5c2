"""Notices: one LISTEN connection a process, which wakes those who wait. A hint only: who waits polls too."""

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

import psycopg

from tasks.database import dial

log = logging.getLogger("callboard.notices")

RECONNECT_PAUSE = 0.5
POLL = 0.5


class Listener:
    """Calls ``handlers[channel](text)`` for every notice, on a thread of its own."""

    def __init__(self, url: str, handlers: Mapping[str, Callable[[str], None]]) -> None:
        self._url = url
        self._handlers = handlers
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="callboard-listener", daemon=True)

    def start(self) -> "Listener":
        """Start listening."""
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop listening."""
        self._stopping.set()
        self._thread.join(5)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with dial(self._url) as connection:
                    self._listen(connection)
            except (psycopg.OperationalError, psycopg.InterfaceError):
                self._stopping.wait(RECONNECT_PAUSE)

    def _listen(self, connection: psycopg.Connection[Any]) -> None:
        for channel in self._handlers:
            connection.execute(f"LISTEN {channel}")
        while not self._stopping.is_set():
            for notice in connection.notifies(timeout=POLL):
                self._handle(notice.channel, notice.payload)

    def _handle(self, channel: str, text: str) -> None:
        try:
            self._handlers[channel](text)
        except Exception:
            log.exception("a notice on %s could not be handled", channel)
