"""Waiting for a condition, with a deadline, instead of sleeping for luck."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
POLL_SECONDS = 0.01


def eventually(condition: Callable[[], T], timeout: float = 10) -> T:
    """The first truthy answer of ``condition``.

    Raises:
      AssertionError: there was none within ``timeout`` seconds; the message says what it answered last.
    """
    deadline = time.monotonic() + timeout
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"still {answer!r} after {timeout:g} s")
        time.sleep(POLL_SECONDS)
