"""How a process collects garbage: what was there at the start is left alone, the rest seldom looked at."""

import gc
from typing import Final

#: Python's own 700 would have every few dozen tasks looked through; almost nothing of theirs is cyclic.
THRESHOLD: Final = 20_000


def settle_down() -> None:
    """The process has started: what it has by now stays, and need not be looked through again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(THRESHOLD)
