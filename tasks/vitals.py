"""How a process is, as it says itself: written with every heartbeat, so that any process can tell of all."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import psutil

log = logging.getLogger("callboard.vitals")

#: A part of the vitals, by the names of the fields of `Vitals`.
Source = Callable[[], Mapping[str, Any]]


class Traffic(msgspec.Struct, frozen=True):
    """What was asked of one address of an API process with one method, since the process began.

    ``statuses`` counts answers by class (``2xx``); ``within`` counts them by how long they took, one number
    for each bound of `api.traffic.BOUNDS` and one for what took longer; ``seconds`` is all that together.
    """

    method: str
    route: str
    statuses: Mapping[str, int]
    within: Sequence[int]
    seconds: float


class Vitals(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a process is. What does not concern its kind has its default.

    ``memory_bytes`` is what it has in memory (RSS), ``cpu_seconds`` what it has used since it began.
    ``busy`` are the threads that run a task. ``commits`` are the group commits of its ledger, ``verbs`` what
    they held, ``largest_group`` the most since the last heartbeat. ``ready`` is RabbitMQ's own count of ready
    messages by queue, as the publisher last saw it, ``connected`` whether it can publish now.
    ``dispatch_lag_s`` and ``tick_lag_s`` are how long ago a dispatcher and a clock last finished a step.
    ``sockets`` and ``streams`` are open connections, ``stream_delay_s`` the longest time from an event to its
    followers since the last heartbeat.
    """

    memory_bytes: int = 0
    cpu_seconds: float = 0.0
    busy: int = 0
    commits: int = 0
    verbs: int = 0
    largest_group: int = 0
    connected: bool | None = None
    ready: Mapping[str, int] = {}
    dispatch_lag_s: float | None = None
    tick_lag_s: float | None = None
    sockets: int | None = None
    streams: int | None = None
    stream_delay_s: float | None = None
    traffic: Sequence[Traffic] = ()


class Pulse:
    """Collects the vitals of this process from its parts; read with each heartbeat, and by nobody else."""

    def __init__(self, *sources: Source) -> None:
        self._sources: list[Source] = [_process(), *sources]

    def add(self, source: Source) -> None:
        """From now on ask this part too."""
        self._sources.append(source)

    def read(self) -> Vitals:
        """The vitals now. A part that cannot answer is left out: a heartbeat is never late because of it."""
        found = Vitals()
        for source in self._sources:
            try:
                found = msgspec.structs.replace(found, **source())
            except Exception as error:
                log.debug("a part of the vitals cannot be told now: %s", error)
        return found


def vitals_of(value: Any) -> Vitals:
    """Vitals as they are on record; empty if a process of another version wrote what this one cannot read."""
    try:
        return msgspec.convert(value or {}, Vitals)
    except msgspec.ValidationError:
        return Vitals()


def _process() -> Source:
    process = psutil.Process()

    def tell() -> Mapping[str, Any]:
        with process.oneshot():
            times = process.cpu_times()
            memory: int = process.memory_info().rss
        return {"memory_bytes": memory, "cpu_seconds": round(times.user + times.system, 2)}

    return tell
