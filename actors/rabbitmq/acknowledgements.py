"""Acknowledging in groups: one multi-ack for a contiguous run of tags, single acks for the rest."""

import threading
from collections import OrderedDict


class Acknowledgements:
    """The delivery tags of one channel: which are out, and which may be acknowledged."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._outstanding: OrderedDict[int, None] = OrderedDict()
        self._done: set[int] = set()

    def delivered(self, tag: int) -> None:
        """A message came in; tags ascend."""
        with self._lock:
            self._outstanding[tag] = None

    def done(self, tag: int) -> bool:
        """A message may be acknowledged; True if nobody was about to collect already."""
        with self._lock:
            if tag not in self._outstanding:
                return False
            first = not self._done
            self._done.add(tag)
            return first

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
