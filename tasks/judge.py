"""Judging from observations which processes are lost: pure, and without any wall clock.

A process **died** if its lock stays free: the kernel closed its connection. It **froze** if it holds its lock
but its heartbeat has not changed for a lease: it is stopped, swapped out, or one of its tasks holds the GIL.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec

LEASE_SECONDS = 15.0
#: A lock must have been free for so long: a living process whose connection broke takes it again sooner.
GRACE_SECONDS = 0.5
#: And it must have been seen free so many times, lest a pause of the judge's own count as time passed.
LOOKS = 3
#: What one look can add to the judge's time, in seconds. While he does not look, no time passes for him.
STEP_SECONDS = 1.0


class Sighting(msgspec.Struct, frozen=True):
    """What is seen of a process at one look."""

    worker: UUID
    #: The last heartbeat as it is on record; only whether it changes matters. None: it is not on record.
    heartbeat: datetime | None
    locked: bool
    #: Whether it has had its lock from the Postgres that runs now.
    renewed: bool = True


class Loss(msgspec.Struct, frozen=True, order=True):
    """A process whose lease is over; ``died`` is False if it may only have frozen."""

    worker: UUID
    died: bool


class _Observed(msgspec.Struct, frozen=True):
    """What is known of a process, in the judge's own time."""

    heartbeat: datetime | None
    still_since: float
    free_since: float | None
    looks_free: int


class Judge:
    """Remembers what was seen, and says who is lost.

    Whoever judges must have been able to look for a whole lease: after an outage all locks may be free.
    """

    def __init__(self, *, lease: float, grace: float) -> None:
        self._lease = lease
        self._grace = grace
        self._observed: dict[UUID, _Observed] = {}
        self._time = 0.0
        self._looked_at: float | None = None
        self._silent_until = 0.0

    @property
    def suspects(self) -> set[UUID]:
        """The processes whose locks were free at the last look."""
        return {worker for worker, one in self._observed.items() if one.free_since is not None}

    def look(self, now: float, sightings: Sequence[Sighting]) -> list[Loss]:
        """The lost processes among all that are seen ``now`` (on a monotonic clock)."""
        if self._looked_at is not None:
            self._time += min(max(0.0, now - self._looked_at), STEP_SECONDS)
        self._looked_at = now
        self._observed = {sighting.worker: self._observe(sighting) for sighting in sightings}
        if self._time < self._silent_until:
            return []
        return sorted(loss for loss in map(self._verdict, sightings) if loss is not None)

    def lost_sight(self) -> None:
        """Nothing can be seen now: forget what was seen, and judge nobody before a lease of looking."""
        self._observed.clear()
        self._looked_at = None
        self._silent_until = self._time + self._lease

    def _observe(self, sighting: Sighting) -> _Observed:
        before = self._observed.get(sighting.worker)
        if before is None or before.heartbeat != sighting.heartbeat:  # a sign of life
            before = _Observed(sighting.heartbeat, self._time, None, 0)
        if sighting.locked:
            return _Observed(before.heartbeat, before.still_since, None, 0)
        free_since = self._time if before.free_since is None else before.free_since
        return _Observed(before.heartbeat, before.still_since, free_since, before.looks_free + 1)

    def _verdict(self, sighting: Sighting) -> Loss | None:
        seen = self._observed[sighting.worker]
        if seen.free_since is None:
            frozen = self._time - seen.still_since >= self._lease
            return Loss(sighting.worker, died=False) if frozen else None
        patience = self._grace if sighting.renewed else self._lease
        if seen.looks_free < LOOKS or self._time - seen.free_since < patience:
            return None
        # A process that is not on record was taken for lost before, and claimed after that: it lived.
        return Loss(sighting.worker, died=sighting.heartbeat is not None)
