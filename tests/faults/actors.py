"""The actors of the fault suite, as ``CALLBOARD_ACTORS`` names them: all they do is seen in the sink."""

import ctypes
import os
import signal
import time

import msgspec

from actors.context import current_task
from actors.definitions import actor
from actors.errors import Permanent
from pipelines.composition import Pipeline, stage
from tests.faults.sink import mark

QUICK = {"kind": "fixed", "base": 0.2}


class Effect(msgspec.Struct):
    """How long to work, how often to fail before it works, whether to fail for good, and mere weight."""

    seconds: float = 0.0
    failures: int = 0
    hopeless: bool = False
    weight: str = ""


class Ran(msgspec.Struct):
    """What is recorded as a result: the claim that it came from, and a value for the next stage."""

    token: int
    value: int = 0


def nap(seconds: float) -> None:
    """Sleep in small steps, so that an interrupt is noticed."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, 0.05))


@actor(backoff=QUICK)
def effect(payload: Effect) -> Ran:
    """Leave a mark, work, fail if told to, leave a mark."""
    token = mark("start")
    nap(payload.seconds)
    if payload.hopeless:
        raise Permanent("it was told to fail", code="hopeless")
    if current_task().attempt <= payload.failures:
        raise RuntimeError("it was told to fail for now")
    mark("end")
    return Ran(token)


@actor(backoff=QUICK)
def deadly(payload: Effect) -> None:
    """Kill the process that runs it, always."""
    mark("start")
    nap(payload.seconds)
    os.kill(os.getpid(), signal.SIGKILL)


@actor(backoff=QUICK)
def hogging(payload: Effect) -> Ran:
    """Hold the interpreter's lock all the time, as a call into C may: no other thread of the process runs."""
    token = mark("start")
    ctypes.PyDLL(None).usleep(int(payload.seconds * 1_000_000))
    mark("end")
    return Ran(token)


# --- a pipeline: a list of parts, a map over them, and a join --------------------------------------


@stage(backoff=QUICK)
def split(payload: int) -> list[int]:
    mark("start")
    nap(0.01)
    mark("end")
    return list(range(payload))


@stage(backoff=QUICK)
def square(payload: int) -> Ran:
    token = mark("start")
    nap(0.02)
    mark("end")
    return Ran(token, payload**2)


@stage(backoff=QUICK)
def add(payload: list[Ran]) -> int:
    mark("start")
    mark("end")
    return sum(part.value for part in payload)


squares = Pipeline("squares", split | square.map() | add)
