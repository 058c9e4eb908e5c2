"""Signals that end the demo, turned into one exception that is never raised at a bad moment."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Ended(BaseException):  # like KeyboardInterrupt: what handles errors must let it pass
    """A signal asks the demo to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def ending_on_signals() -> Iterator[None]:
    """Raise `Ended` in the main thread when one of the signals arrives."""

    def end(number: int) -> None:
        raise Ended(number)

    with handled_by(end):
        yield


@contextmanager
def kept_for_later() -> Iterator[None]:
    """Let nothing interrupt a step; a signal that arrived meanwhile is raised after it."""
    arrived: list[int] = []
    with handled_by(arrived.append):
        yield
    if arrived:
        signal.raise_signal(arrived[0])


@contextmanager
def handled_by(handler: Callable[[int], object]) -> Iterator[None]:
    """Call ``handler`` with the number of each signal that arrives."""

    def handle(number: int, _: FrameType | None) -> None:
        handler(number)

    before = {number: signal.signal(number, handle) for number in ENDING}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
