"""Waiting for a condition instead of sleeping for luck."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

POLL_SECONDS = 0.02


def eventually(condition: Callable[[], T], timeout: float = 10.0) -> T:
    """What ``condition()`` returns as soon as that is truthy.

    Raises:
      AssertionError: it was not within ``timeout`` seconds; the message has its last answer.
    """
    deadline = time.monotonic() + timeout
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"this was not so within {timeout:g} s; the last answer was {answer!r}")
        time.sleep(POLL_SECONDS)
