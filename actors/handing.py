"""Handing out work while it is found: what a stage yields begins before the stage is through.

What an attempt hands out is on record, and the next attempt cannot take it back: its list begins with that,
whatever it yields itself. No more is handed out than a map may have under way; the rest follows by and by.
"""

import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, Protocol

import msgspec

from actors.registry import Registry
from tasks.ports import Questions, Verbs
from tasks.values import Claimed, NewTask

#: What is yielded quickly is handed out together.
FLUSH_SECONDS, FLUSH_UNITS = 0.2, 64
LOOK_SECONDS = 1.0


class Opening(msgspec.Struct, frozen=True):
    """The map that a stage hands out to: its ``stages``, what a task gets, the tasks under way."""

    stages: tuple[str, ...]
    unit: int
    window: int

    @property
    def first(self) -> str:
        """The stage that gets the items."""
        return self.stages[0]


class Handed(Protocol):
    """What is composed, as far as handing out needs it."""

    def opening(self, claim: Claimed) -> Opening | None:
        """The map that a stage can hand out to, or None."""

    def handed(self, claim: Claimed, index: int, value: Any) -> Sequence[NewTask]:
        """The first tasks of the map for what is handed out as number ``index``."""


class _Handing:
    """What one attempt has handed out so far."""

    def __init__(self, opening: Opening, earlier: list[Any]) -> None:
        self.opening = opening
        self.earlier = earlier
        self.yielded = 0
        self.waiting: list[Any] = []
        self.next = len(earlier) // opening.unit
        self.under_way = self.next
        self.flushed_at = self.looked_at = time.monotonic()

    @property
    def units(self) -> int:
        """For how many tasks there are items."""
        return len(self.waiting) // self.opening.unit

    def take(self) -> Any:
        """What the next task gets."""
        unit = self.opening.unit
        items, self.waiting = self.waiting[:unit], self.waiting[unit:]
        return items


class Handings:
    """What the attempts of this process have handed out."""

    def __init__(self, registry: Registry, ledger: Verbs, queries: Questions, flow: Handed) -> None:
        self._registry = registry
        self._ledger = ledger
        self._queries = queries
        self._flow = flow
        self._open: dict[int, _Handing] = {}

    def begin(self, claim: Claimed) -> None:
        """An attempt begins: read what earlier ones have handed out.

        Raises:
          Unavailable: Postgres is away.
        """
        actor = self._registry.get(claim.task_type)
        opening = self._flow.opening(claim) if actor is not None and actor.yields else None
        if opening is None or claim.run_id is None:
            return
        payloads = self._queries.payloads(claim.run_id, opening.first)
        earlier = payloads if opening.unit == 1 else [item for batch in payloads for item in batch]
        self._open[claim.token] = _Handing(opening, earlier)

    def give(self, claim: Claimed, item: Any) -> "Future[bool] | None":
        """Take over what an attempt has yielded; a future if tasks were made of it.

        The future says False when the task is not this process's any more.
        """
        handing = self._open.get(claim.token)
        if handing is None:
            return None
        handing.yielded += 1
        if handing.yielded > len(handing.earlier):
            handing.waiting.append(item)
        is_late = time.monotonic() - handing.flushed_at >= FLUSH_SECONDS
        if not handing.units or not (is_late or handing.units >= FLUSH_UNITS):
            return None
        return self._flush(claim, handing)

    def whole(self, claim: Claimed, result: Any) -> Any:
        """The list that an attempt comes to: what was handed out before it, then what it added."""
        handing = self._open.get(claim.token)
        if handing is None or not isinstance(result, list):
            return result
        return handing.earlier + result[len(handing.earlier) :]

    def end(self, claim: Claimed) -> None:
        """An attempt is over."""
        self._open.pop(claim.token, None)

    def _flush(self, claim: Claimed, handing: _Handing) -> "Future[bool] | None":
        handing.flushed_at = time.monotonic()
        tasks: list[NewTask] = []
        for _ in range(min(handing.units, self._room(claim, handing))):
            items = handing.take()
            value = items if handing.opening.unit > 1 else items[0]
            tasks += self._flow.handed(claim, handing.next, value)
            handing.next += 1
            handing.under_way += 1
        return self._ledger.hand_out(claim, tasks) if tasks else None

    def _room(self, claim: Claimed, handing: _Handing) -> int:
        window = handing.opening.window
        if handing.under_way >= window and time.monotonic() - handing.looked_at >= LOOK_SECONDS:
            assert claim.run_id is not None
            handing.looked_at = time.monotonic()
            handing.under_way = self._queries.joining(claim.run_id, handing.opening.stages).unfinished
        return window - handing.under_way
