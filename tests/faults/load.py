"""Clients that submit over HTTP and remember what was acknowledged, and how soon it was answered."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any
from uuid import UUID

import httpx

PAUSE_SECONDS = 0.05
PATIENCE_SECONDS = 30.0


class Load:
    """Some clients that submit what ``order(n)`` makes until ``count`` tasks are accepted, or until `stop`.

    A request that is not answered is not repeated: whether its task exists is in doubt, and nobody was told
    that it does. With ``keyed`` it is repeated with its Idempotency-Key until it is accepted. ``pause`` is
    the time between two requests of one client.
    """

    def __init__(
        self,
        url: str,
        order: Callable[[int], dict[str, Any]],
        *,
        count: int | None = None,
        clients: int = 4,
        pause: float = 0.0,
        keyed: bool = False,
    ) -> None:
        self._url = url
        self._order = order
        self._count = count
        self._pause = pause
        self._keyed = keyed
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._next = 0
        self._promised = 0
        self.accepted: list[UUID] = []
        self.refused: Counter[str] = Counter()
        self.retry_after: set[str | None] = set()
        self.slowest = 0.0
        self.repeated = 0
        self._threads = [threading.Thread(target=self._submit_all, daemon=True) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> list[UUID]:
        """Let the clients finish their last requests; what was accepted."""
        self._stopping.set()
        return self.wait(PATIENCE_SECONDS)

    def wait(self, timeout: float) -> list[UUID]:
        """Wait until everything is accepted; what it is."""
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        assert not any(thread.is_alive() for thread in self._threads), f"still only {len(self.accepted)}"
        return self.accepted

    def _submit_all(self) -> None:
        with httpx.Client(base_url=f"{self._url}/api/v1", timeout=PATIENCE_SECONDS) as http:
            while (number := self._take()) is not None:
                accepted = self._submit(http, number)
                while self._keyed and not accepted:
                    time.sleep(PAUSE_SECONDS)
                    accepted = self._submit(http, number)
                if not accepted:
                    with self._lock:
                        self._promised -= 1
                    time.sleep(PAUSE_SECONDS)
                time.sleep(self._pause)

    def _take(self) -> int | None:
        """The number of the next order; None when there are enough."""
        while not self._stopping.is_set():
            with self._lock:
                if self._count is None or self._promised < self._count:
                    self._promised += 1
                    self._next += 1
                    return self._next
                if len(self.accepted) >= self._count:
                    return None
            time.sleep(PAUSE_SECONDS)  # another client's request may still fail
        return None

    def _submit(self, http: httpx.Client, number: int) -> bool:
        began = time.monotonic()
        headers = {"Idempotency-Key": f"order-{number}"} if self._keyed else {}
        try:
            answer = http.post("/tasks", json=self._order(number), headers=headers)
        except httpx.TransportError as error:
            with self._lock:
                self.refused[type(error).__name__] += 1
            return False
        with self._lock:
            self.slowest = max(self.slowest, time.monotonic() - began)
            if answer.status_code == 202:
                self.repeated += answer.headers.get("Idempotency-Replayed") == "true"
                self.accepted.append(UUID(answer.json()["task_id"]))
                return True
            self.refused[str(answer.status_code)] += 1
            self.retry_after.add(answer.headers.get("Retry-After"))
            return False


def effects(seconds: float = 0.0, **fields: Any) -> Callable[[int], dict[str, Any]]:
    """Orders that are all the same."""
    return lambda _: {"task_type": "effect", "payload": {"seconds": seconds, **fields}}
