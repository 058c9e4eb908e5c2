"""The actors that come with Callboard, mostly for trying things out."""

import time
from typing import Annotated, Any

import msgspec

from actors.context import current_task
from actors.definitions import actor
from actors.errors import Permanent


class Sleep(msgspec.Struct, forbid_unknown_fields=True):
    """How many seconds to sleep."""

    seconds: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 1.0


class Fail(msgspec.Struct, forbid_unknown_fields=True):
    """What to fail with, and whether trying again is pointless."""

    message: str = "failed as it was asked to"
    permanent: bool = False


@actor
def test(payload: Any) -> Any:
    """Echo the payload."""
    return payload


@actor
def benchmark(payload: Any) -> None:
    """Do nothing, quickly."""


@actor
def sleep(payload: Sleep) -> dict[str, float]:
    """Sleep for some seconds, reporting progress ten times a second."""
    began = time.monotonic()
    while (passed := time.monotonic() - began) < payload.seconds:
        current_task().progress(100.0 * passed / payload.seconds, f"{passed:.1f} of {payload.seconds:g} s")
        time.sleep(min(0.1, payload.seconds - passed))
    return {"slept": payload.seconds}


@actor
def fail(payload: Fail) -> None:
    """Fail with a message."""
    if payload.permanent:
        raise Permanent(payload.message)
    raise RuntimeError(payload.message)


ACTORS = (test, benchmark, sleep, fail)
