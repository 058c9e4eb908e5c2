"""Acknowledging in groups: one multi-ack for a contiguous run of tags, single acks for the rest."""

import threading
from collections import OrderedDict


class Acknowledgements:
    """The delivery tags of one channel: which are out, and which may be acknowledged.

    A message that names several tasks may be acknowledged when all of them are settled.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._outstanding: OrderedDict[int, int] = OrderedDict()
        self._done: set[int] = set()

    def delivered(self, tag: int, tasks: int = 1) -> None:
        """A message about so many ``tasks`` came in; tags ascend."""
        with self._lock:
            self._outstanding[tag] = tasks

    def done(self, tag: int) -> bool:
        """A task of a message is settled; True if that makes the first message to be collected."""
        with self._lock:
            left = self._outstanding.get(tag, 0) - 1
            if left < 0:  # given back, or acknowledged: it is nothing to us any more
                return False
            self._outstanding[tag] = left
            if left:
                return False
            first = not self._done
            self._done.add(tag)
            return first

    @property
    def are_due(self) -> bool:
        """Whether there is something to collect."""
        return bool(self._done)

    def forget(self, tag: int) -> None:
        """A message was given back: there is nothing to acknowledge."""
        with self._lock:
            self._outstanding.pop(tag, None)
            self._done.discard(tag)

    def collect(self) -> list[tuple[int, bool]]:
        """The acks to send now, as (tag, multiple). What was collected is forgotten."""
        with self._lock:
            last = None
            while self._outstanding and next(iter(self._outstanding)) in self._done:
                last, _ = self._outstanding.popitem(last=False)
                self._done.discard(last)
            singles = sorted(self._done)
            for tag in singles:
                del self._outstanding[tag]
            self._done.clear()
        return ([(last, True)] if last is not None else []) + [(tag, False) for tag in singles]
