"""The actor of the benchmark of latency: it notes how long it waited, in the folder of the data."""

import os
import time
from pathlib import Path

import msgspec

from actors.definitions import actor
from tests.benchmarks.peers.stamps import Stamps

_stamps = Stamps(Path(os.environ.get("CALLBOARD_DATA_DIR", ".")))


class Sent(msgspec.Struct):
    """When the task was sent, in seconds; 0 is not noted."""

    sent: float


@actor
def timed(payload: Sent) -> None:
    """Note how long it took until this line."""
    now = time.time()
    if payload.sent:
        _stamps.note(now - payload.sent)
