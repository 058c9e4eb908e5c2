"""The actors that come with Callboard, mostly for trying things out."""

import time
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import msgspec

from actors.context import current_task
from actors.definitions import actor
from actors.errors import Permanent
from actors.usage import count, statistics
from tasks.states import STATES

PERIODS = {
    "hourly": timedelta(hours=1),
    "daily": timedelta(days=1),
    "weekly": timedelta(days=7),
    "monthly": timedelta(days=30),
}


class Sleep(msgspec.Struct, forbid_unknown_fields=True):
    """How many seconds to sleep."""

    seconds: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 1.0


class Fail(msgspec.Struct, forbid_unknown_fields=True):
    """What to fail with, and whether trying again is pointless."""

    message: str = "failed as it was asked to"
    permanent: bool = False


class Report(msgspec.Struct, forbid_unknown_fields=True):
    """Over which period to report."""

    report_type: Literal["hourly", "daily", "weekly", "monthly"] = "daily"


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


@actor
def report_generation(payload: Report) -> dict[str, Any]:
    """Report on the tasks of the last hour, day, week or month (30 days): how they ended, how long they took.

    They are those of the user whose task this is; without auth everybody's. The figures are those of
    ``GET /tasks/statistics``; of ``by_status`` a count beyond 10,000 is a lower bound.
    """
    until = datetime.now(UTC)
    since = until - PERIODS[payload.report_type]
    user = current_task().user_id or None
    by_status = {
        status: count(status=status, created_after=since, created_before=until, user_id=user)
        for status in STATES
    }
    figures = msgspec.to_builtins(statistics(since, until, user_id=user))
    del figures["series"]
    return {
        "report_type": payload.report_type,
        "since": since,
        "until": until,
        **figures,
        "by_status": by_status,
    }


ACTORS = (test, benchmark, sleep, fail, report_generation)
