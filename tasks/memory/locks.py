"""Named locks of one process, without a Postgres."""

import threading
from collections import Counter


class MemoryHold:
    """A lock that is held: in memory none is lost."""

    def __init__(self, locks: "MemoryLocks", name: str, fence: int) -> None:
        self._locks = locks
        self._name = name
        self.fence = fence

    def is_held(self) -> bool:
        """Whether it was not given back."""
        return self._locks.holder_of(self._name) == self.fence

    def release(self) -> None:
        """Give the lock back."""
        self._locks.release(self._name, self.fence)


class MemoryLocks:
    """The locks of a board in memory, with fences that ascend as those in Postgres do."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fences: Counter[str] = Counter()
        self._held: dict[str, int] = {}

    def try_hold(self, name: str) -> MemoryHold | None:
        """The lock of a name if it is free."""
        with self._lock:
            if name in self._held:
                return None
            self._fences[name] += 1
            self._held[name] = self._fences[name]
            return MemoryHold(self, name, self._fences[name])

    def holder_of(self, name: str) -> int | None:
        """The fence of who holds a lock, or None."""
        return self._held.get(name)

    def release(self, name: str, fence: int) -> None:
        """Give a lock back, if it is still held under ``fence``."""
        with self._lock:
            if self._held.get(name) == fence:
                del self._held[name]
