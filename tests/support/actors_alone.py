"""Actors that the tests of isolation run in processes of their own."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec

from actors.context import CurrentTask, TimedOut, current_task
from actors.definitions import actor
from actors.errors import Permanent, RetryAfter

OURS_ALONE = ("numpy", "xberg", "falcon", "dramatiq", "pika", "psycopg", "peewee")


class End(msgspec.Struct):
    """How a process ends: by a signal, or with an exit code."""

    by_signal: int | None = None
    code: int = 0


@actor(isolated=True)
def whoami() -> int:
    """The process that runs this."""
    return os.getpid()


@actor
def ordinary() -> int:
    """The process that runs this."""
    return os.getpid()


@actor(isolated=True)
def about_itself() -> dict[str, Any]:
    task = current_task()
    return {"id": task.id, "attempt": task.attempt, "payload": task.payload, "state": task.state}


@actor(isolated=True)
def imported() -> list[str]:
    """Which of the heavy packages this process has imported."""
    return [name for name in OURS_ALONE if name in sys.modules]


@actor(isolated=True)
def echo(text: str) -> str:
    return text


@actor(isolated=True, backoff={"kind": "fixed", "base": 7})
def broken(permanent: bool) -> None:
    if permanent:
        raise Permanent("there is no such page", code="page_missing")
    raise RuntimeError("out of order")


@actor(isolated=True)
def talking() -> None:
    print("noise on standard output", flush=True)
    os.write(2, b"noise on standard error\n")
    current_task().progress(25, "begun")
    current_task().progress(step="pages", done=3, total=4)
    current_task().progress(90, "a lone surrogate \ud800, which JSON cannot hold")


@actor(isolated=True)
def saving(states: list[Any]) -> Any:
    for state in states:
        current_task().checkpoint(state)
    return current_task().state


@actor(isolated=True)
def saving_at_once(count: int) -> None:
    """Save from several threads at once."""
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(current_task().checkpoint, range(count)))


@actor(isolated=True)
def careless(what: str) -> str:
    """Hand over values of other types than those that were asked for."""
    wrong: Any = {"step": 3, "code": 404, "wait": timedelta(seconds=5), "total": 1 << 80}[what]
    if what == "step":
        current_task().progress(50, wrong)
        current_task().progress(step=wrong, done=3, total=4)
    elif what == "code":
        raise Permanent("gone", code=wrong)
    elif what == "wait":
        raise RetryAfter(wrong)
    elif what == "total":
        current_task().progress(step="many", done=1, total=wrong)
    return "done"


@actor(isolated=True)
def late_wait() -> None:
    """Ask to wait for what is no number."""
    error = RetryAfter(1)
    error.seconds = "soon"  # type: ignore[assignment]
    raise error


@actor(isolated=True)
def blocked(seconds: float) -> None:
    """Sleep in C, where no interrupt is noticed."""
    time.sleep(seconds)


@actor(isolated=True)
def hogging() -> None:
    """Hold the interpreter's lock in C for hours."""
    re.match("(a+)+b", "a" * 60)


@actor(isolated=True)
def tidy(file: str) -> None:
    """Work until the time is up, then clean up."""
    try:
        while True:
            time.sleep(0.01)
    except TimedOut:
        Path(file).write_text("cleaned up")
        raise


@actor(isolated=True)
def ending(end: End) -> None:
    """End the process."""
    if end.by_signal is None:
        os._exit(end.code)
    signal.signal(end.by_signal, signal.SIG_DFL) if end.by_signal != signal.SIGKILL else None
    os.kill(os.getpid(), end.by_signal)


@actor(isolated=True)
def ending_beside_its_child() -> None:
    """Fork a process that keeps all open, and end."""
    if os.fork() == 0:
        time.sleep(600)
        os._exit(0)
    os._exit(9)


@actor(isolated=True)
def parent(file: str) -> None:
    """Start a process, tell its id, and wait for it."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(file).write_text(str(child.pid))
    child.wait()


@actor(isolated=True)
def signalled() -> str:
    """Get the signals that a service manager or a terminal sends to all processes."""
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(os.getpid(), number)
    return "untouched"


@actor(isolated=True)
def haunting(text: str) -> None:
    """Leave a thread behind that goes on reporting."""
    task = current_task()
    threading.Thread(target=_report_for_ever, args=(task, text), daemon=True).start()
    time.sleep(0.05)


def _report_for_ever(task: CurrentTask, text: str) -> None:
    with suppress(BaseException):
        while True:
            task.progress(1, text)
            time.sleep(0.01)


@actor(isolated=True)
def silent(seconds: float) -> None:
    """Report nothing for some seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.01)
