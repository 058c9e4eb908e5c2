"""Inquests: a worker that got a message about a task that runs elsewhere finds out whether its owner lives.

The clock would find a dead owner too, but later. An inquest looks often, for a short time, on a thread of its
own: nobody who consumes waits for it.
"""

import threading
import time
from collections.abc import Callable
from uuid import UUID

from tasks.coroner import Coroner
from tasks.judge import Loss

LOOK_SECONDS = 0.1
#: An owner that still has its lock after so long lives: it takes milliseconds until a killed one has lost it.
ALIVE_SECONDS = 0.3
LONGEST_SECONDS = 3.0
CLOSE_SECONDS = 5.0


class Inquests:
    """The inquests that this process holds: one for each owner at a time, all on one thread.

    ``fit`` says whether this process may judge others: not when its own connection to Postgres just broke.
    """

    def __init__(
        self, make_coroner: Callable[[], Coroner], fit: Callable[[], bool], take_back: Callable[[Loss], None]
    ) -> None:
        self._make_coroner = make_coroner
        self._fit = fit
        self._take_back = take_back
        self._opened: dict[UUID, float] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    def open(self, owner: UUID) -> None:
        """Look into what became of ``owner``; does not wait for it."""
        with self._lock:
            if self._closed or not self._fit():
                return
            self._opened.setdefault(owner, time.monotonic())
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._hold, name="callboard-inquests", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Give up what is open."""
        with self._lock:
            self._closed = True
            self._opened.clear()
            thread = self._thread
        if thread is not None:
            thread.join(CLOSE_SECONDS)

    def _hold(self) -> None:
        coroner = self._make_coroner()
        try:
            while not self._over():
                self._look(coroner)
                time.sleep(LOOK_SECONDS)
        finally:
            coroner.close()

    def _over(self) -> bool:
        """Whether there is nothing left to look into; from then on a new inquest starts a new thread."""
        with self._lock:
            if not self._opened:
                self._thread = None
            return not self._opened

    def _look(self, coroner: Coroner) -> None:
        losses = coroner.lost() if self._fit() else []
        for loss in losses:
            self._take_back(loss)
        now, suspects, found = time.monotonic(), coroner.suspects, {loss.worker for loss in losses}
        with self._lock:
            for owner, opened_at in list(self._opened.items()):
                patience = LONGEST_SECONDS if owner in suspects else ALIVE_SECONDS
                if owner in found or now - opened_at > patience:
                    del self._opened[owner]
