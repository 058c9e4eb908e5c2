"""A user's own module of actors, as ``CALLBOARD_ACTORS`` names it: what the tests of the workers ask for.

Each actor leaves its traces in a file outside of our tables, so that a test sees what was really done, not
what was recorded. The folder of that file, and of the flags that make actors misbehave, is ``EFFECTS``.
"""

import ctypes
import logging
import os
import re
import signal
import threading
import time
from pathlib import Path
from queue import PriorityQueue
from typing import Any

import msgspec
from dramatiq.worker import ConsumerThread

from actors.context import Cancelled, current_task
from actors.definitions import actor
from actors.errors import Permanent, RetryAfter
from actors.locks import lock
from actors.opening import OpenBoard
from actors.recorded_call import RecordedCall
from actors.usage import current_board, submit, wait
from pipelines.composition import Done, Pipeline, stage

log = logging.getLogger("the.users.own")
QUICK = {"kind": "fixed", "base": 0.1}


class Work(msgspec.Struct):
    """What most actors take: a key for the traces, and how long to work."""

    key: str
    seconds: float = 0.0


class Trouble(msgspec.Struct):
    """How often to fail before it works."""

    key: str
    failures: int


def folder() -> Path:
    return Path(os.environ["EFFECTS"])


def leave_trace(word: str, key: str) -> None:
    """Append a line; O_APPEND keeps the lines of several processes apart."""
    line = f"{word} {key} {os.getpid()}\n".encode()
    file = os.open(folder() / "effects", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line)
    finally:
        os.close(file)


def traces_of(key: str) -> int:
    """How often an actor was started with a key."""
    return (folder() / "effects").read_text().count(f"start {key} ")


def nap(seconds: float) -> None:
    """Sleep in small steps, so that an interrupt is noticed."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.01)


def die_while(flag: str) -> None:
    """Kill this process while the flag is up."""
    if (folder() / flag).exists():
        os.kill(os.getpid(), signal.SIGKILL)


def die_once(flag: str) -> None:
    """Take the flag down, if it is up, and kill this process."""
    try:
        (folder() / flag).unlink()
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


@actor
def work(payload: Work) -> dict[str, Any]:
    """Work for some seconds."""
    leave_trace("start", payload.key)
    nap(payload.seconds)
    leave_trace("end", payload.key)
    return {"key": payload.key, "attempt": current_task().attempt}


@actor
def deaf(payload: Work) -> None:
    """Block the thread, so that no interrupt is noticed."""
    leave_trace("start", payload.key)
    time.sleep(payload.seconds)
    leave_trace("end", payload.key)


class Doom(msgspec.Struct):
    """What `doomed` takes: the moment at which its thread is hit by a SystemExit."""

    key: str
    moment: str


MOMENTS: dict[str, tuple[type, str]] = {
    "finishing": (ConsumerThread, "post_process_message"),
    "idle": (PriorityQueue, "get"),
    "next call": (RecordedCall, "__call__"),
}


@actor
def doomed(payload: Doom) -> str:
    """Let a SystemExit come, once, when this actor is over, as if it had been raised from outside."""
    owner, name = MOMENTS[payload.moment]
    original = getattr(owner, name)

    def broken(*_: object, **__: object) -> None:
        setattr(owner, name, original)
        leave_trace("doom", payload.key)
        raise SystemExit

    leave_trace("start", payload.key)
    setattr(owner, name, broken)
    return "returned"


@actor
def end_consumers(payload: Work) -> None:
    """Raise SystemExit in the threads that consume, as some other library might."""
    leave_trace("start", payload.key)
    for thread in threading.enumerate():
        if isinstance(thread, ConsumerThread):
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit)
            )


@actor
def hold_the_gil(payload: Work) -> str:
    """Stop every thread of its process for a while, three times at most."""
    leave_trace("start", payload.key)
    if traces_of(payload.key) <= 3:
        ctypes.PyDLL(None).usleep(int(payload.seconds * 1e6))
    leave_trace("end", payload.key)
    return "at last"


@actor
def killer(payload: Work) -> str:
    """Kill its own process as long as the flag of its key is up."""
    leave_trace("start", payload.key)
    nap(payload.seconds)
    die_while(payload.key)
    leave_trace("end", payload.key)
    return "survived"


@actor(backoff=QUICK)
def flaky(payload: Trouble) -> str:
    """Fail some times, then work."""
    leave_trace("start", payload.key)
    if current_task().attempt <= payload.failures:
        raise RuntimeError(f"failure {current_task().attempt}")
    return "at last"


@actor
def hopeless(payload: Work) -> None:
    """Fail in a way that trying again does not help."""
    leave_trace("start", payload.key)
    raise Permanent("there is no such page", code="page_missing")


@actor(max_retries=0)
def moody(payload: Work) -> str:
    """Fail as long as the flag of its key is up."""
    leave_trace("start", payload.key)
    if (folder() / payload.key).exists():
        raise RuntimeError("not now")
    return "in a good mood"


@actor(max_retries=1)
def later(payload: Work) -> str:
    """Ask to be tried again after so many seconds, once."""
    leave_trace("start", payload.key)
    if current_task().attempt == 1:
        raise RetryAfter(payload.seconds)
    return "on the second try"


@actor
def unserialisable(payload: Work) -> object:
    """Return something that JSON cannot hold."""
    leave_trace("start", payload.key)
    if payload.seconds:
        endless: list[object] = []
        endless.append(endless)
        return endless
    return object()


@actor
def talkative(payload: Work) -> None:
    """Log, and report progress."""
    log.info("a line about %s", payload.key)
    current_task().progress(step="half way", done=1, total=2)
    nap(payload.seconds)


class Climb(msgspec.Struct):
    """Steps to make, and at which to fail in the first attempt, or to wait for some seconds."""

    key: str
    steps: int
    fail_at: int = 0
    wait_at: int = 0
    wait: float = 60.0


@actor(backoff=QUICK)
def climber(payload: Climb) -> dict[str, Any]:
    """Make steps, and save after each how far it came, and where each attempt began."""
    task = current_task()
    state = task.state or {"made": 0, "first": []}
    state["first"].append(state["made"] + 1)
    begun_before = len(state["first"]) > 1
    while state["made"] < payload.steps:
        step = state["made"] + 1
        leave_trace(f"step-{step}", payload.key)
        if step == payload.wait_at and not begun_before:
            nap(payload.wait)
        if step == payload.fail_at and not begun_before:
            raise RuntimeError("slipped")
        state["made"] = step
        task.checkpoint(state)
    return {"first": state["first"], "steps": state["made"]}


@actor
def hoarder(payload: Work) -> None:
    """Save something that JSON cannot hold."""
    current_task().checkpoint({"thing": object()})


# --- tasks that ask for others ---------------------------------------------------------------------


def ask(payload: Any) -> dict[str, Any]:
    """Have another task done, and tell whether that took connections of their own."""
    other = submit("test", payload)
    finished = wait(other.task_id, 15)
    return {"answer": finished.result, "shared": not isinstance(current_board(), OpenBoard)}


@actor
def delegates(payload: Any) -> dict[str, Any]:
    """Have another task done."""
    return ask(payload)


delegates_alone = actor(name="delegates_alone", isolated=True)(ask)


@actor
def waits_for_nobody(payload: Any) -> None:
    """Wait for a task that waits for tomorrow."""
    leave_trace("start", payload)
    try:
        wait(submit("test", delay=86_400).task_id)
    except Cancelled:
        leave_trace("cancelled", payload)
        raise


# --- in processes of their own -------------------------------------------------------------------


@actor(isolated=True)
def alone(payload: Work) -> dict[str, Any]:
    """Report, work for some seconds, and tell which process did it."""
    leave_trace("start", payload.key)
    current_task().progress(step="half way", done=1, total=2)
    nap(payload.seconds)
    leave_trace("end", payload.key)
    return {"key": payload.key, "attempt": current_task().attempt, "process": os.getpid()}


alone_but_flaky = actor(name="alone_but_flaky", isolated=True, backoff=QUICK)(flaky.function)
alone_but_deaf = actor(name="alone_but_deaf", isolated=True)(deaf.function)
alone_and_deadly = actor(name="alone_and_deadly", isolated=True)(killer.function)
alone_climber = actor(name="alone_climber", isolated=True, backoff=QUICK)(climber.function)


@actor(isolated=True)
def hogging(payload: Work) -> None:
    """Hold the interpreter's lock in C for hours."""
    leave_trace("start", payload.key)
    re.match("(a+)+b", "a" * 60)


# --- pipelines -----------------------------------------------------------------------------------


def trace_stage(name: str) -> None:
    leave_trace(name, str(current_task().run_id))


@stage(backoff=QUICK)
def make_list(payload: int) -> list[int]:
    trace_stage("make_list")
    return list(range(1, payload + 1))


@stage(queue="squares", backoff=QUICK)
def square(payload: list[int]) -> list[int]:
    trace_stage(f"square-{payload[0]}")
    return [number**2 for number in payload]


@stage(backoff=QUICK)
def total(payload: list[list[int]]) -> int:
    trace_stage("total")
    return sum(number for part in payload for number in part)


@stage
def guess(payload: int) -> list[int] | Done:
    trace_stage("guess")
    return Done({"known": payload})


@stage
def die_first(payload: list[int]) -> list[int]:
    """Kill the process on the first try of its run, if the test wants it to."""
    trace_stage("die_first")
    die_once("die_first")
    return payload


@stage(retries=0)
def fragile(payload: int) -> int:
    """One item fails as soon as its sibling works, the others work for long."""
    trace_stage(f"fragile-{payload}")
    if payload == 1:
        nap(0.5)
        raise RuntimeError("one of the items is broken")
    nap(60)
    return payload


@stage
def linger(payload: int) -> int:
    trace_stage("linger")
    nap(60)
    return payload


@stage
def add_up(payload: list[int]) -> int:
    trace_stage("add_up")
    return sum(payload)


@stage(isolated=True, backoff=QUICK)
def doubled(payload: list[int]) -> list[int]:
    trace_stage("doubled")
    return [2 * number for number in payload]


@stage(isolated=True)
def fatal(payload: list[int]) -> list[int]:
    """Kill its own process, always."""
    trace_stage("fatal")
    os.kill(os.getpid(), signal.SIGKILL)
    return payload


numbers = Pipeline("numbers", make_list | square.map(batch=2) | total)
guessed = Pipeline("guessed", guess | square.map(batch=2) | total)
deadly_numbers = Pipeline("deadly_numbers", make_list | die_first | square.map(batch=2) | total)
fragile_numbers = Pipeline("fragile_numbers", make_list | fragile.map() | add_up)
lingering = Pipeline("lingering", linger)
doubled_numbers = Pipeline("doubled_numbers", make_list | doubled | add_up)
fatal_numbers = Pipeline("fatal_numbers", make_list | fatal | add_up)


class Speech(msgspec.Struct):
    """What to say: so many lines, at once."""

    key: str
    lines: int = 1


def speak(payload: Speech) -> None:
    for number in range(1, payload.lines + 1):
        log.info("line %d about %s", number, payload.key)


@actor
def speaker(payload: Speech) -> None:
    """Log lines."""
    speak(payload)


@actor(isolated=True)
def speaker_alone(payload: Speech) -> None:
    """Log lines from a process of its own."""
    speak(payload)


@actor
def gossip(payload: Speech) -> None:
    """Log what is kept and what is not, in all ways that there are."""
    log.debug("too small to be kept")
    logging.getLogger("callboard.worker").warning("our own affairs")
    log.warning("a NUL \0 and half a pair \ud800")
    log.info("x" * 10_000)
    log.info("these %d arguments do not fit", "wrong")
    try:
        raise RuntimeError("caught")
    except RuntimeError:
        log.exception("it went wrong")
    current_task().log(f"the last word about {payload.key}", level="error")


class Stairs(msgspec.Struct):
    """Steps to report, of so many, as fast as it goes; after each one a line if ``aloud``."""

    key: str
    steps: int
    flights: int = 1
    aloud: bool = False


@actor
def staircase(payload: Stairs) -> None:
    """Report every step of every flight, without a pause."""
    for flight in range(payload.flights):
        for step in range(1, payload.steps + 1):
            current_task().progress(step=f"flight {flight}", done=step, total=payload.steps)
            if payload.aloud:
                log.info("step %d", step)


@actor(isolated=True)
def staircase_alone(payload: Stairs) -> None:
    """Report every step from a process of its own."""
    for step in range(1, payload.steps + 1):
        current_task().progress(step="alone", done=step, total=payload.steps)


@actor(max_retries=0)
def loud_failure(payload: Speech) -> None:
    """Log a line, then fail."""
    log.info("about to fail")
    raise RuntimeError("as said")


class Guarded(msgspec.Struct):
    """What the actors with locks take: their key, the name of the lock, and how long to hold it."""

    key: str
    name: str
    seconds: float = 0.0


@actor
def guarded(payload: Guarded) -> int:
    """Work while holding a lock; what it returns is its fence."""
    with lock(payload.name) as held:
        leave_trace("start", payload.key)
        nap(payload.seconds)
        held.check()
        leave_trace("end", payload.key)
        return held.fence


class Lane(msgspec.Struct):
    """What the actors with limits take: a key, the lane in which few run at once, and how long to work."""

    key: str
    lane: str
    seconds: float = 0.0


@actor(concurrency=2, concurrency_key="payload.lane")
def in_lane(payload: Lane) -> None:
    """Work in a lane; the trace of a lane tells how many were in it."""
    leave_trace("start", payload.lane)
    nap(payload.seconds)
    leave_trace("end", payload.lane)


@actor(concurrency=1, concurrency_key="payload.lane")
def alone_in_lane(payload: Lane) -> None:
    """As `in_lane`, one at a time; the first with the key "fatal" ends its process."""
    if payload.key == "fatal" and current_task().attempt == 1:
        leave_trace("died", payload.lane)
        os.kill(os.getpid(), signal.SIGKILL)
    in_lane(payload)


@actor(isolated=True)
def guarded_alone(payload: Guarded) -> int:
    """As `guarded`, in a process of its own."""
    return guarded(payload)
