"""Actors for the benchmarks of progress and streams: they report, and say when."""

import random
import time

import msgspec

from actors.context import current_task
from actors.definitions import actor


class Talk(msgspec.Struct):
    """How long to talk, in seconds, and how often a second."""

    seconds: float
    rate: float


@actor(queue="talk", timeout=600)
def talker(talk: Talk) -> list[float]:
    """Report at a rate, each with the moment at which it is made; how long each call took, in seconds."""
    task, took = current_task(), []
    total = round(talk.seconds * talk.rate)
    begun = time.perf_counter() + random.random() / talk.rate  # real tasks are not in step
    for step in range(1, total + 1):
        time.sleep(max(0.0, begun + step / talk.rate - time.perf_counter()))
        before = time.perf_counter()
        task.progress(100.0 * step / total, repr(time.time()), step=f"part {step}")
        took.append(time.perf_counter() - before)
    return took
