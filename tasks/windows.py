"""Windows of time: how statistics cover one with whole buckets, as far as there are any."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import msgspec

#: How long the finer buckets are kept; those of days stay for ever.
MINUTES_KEPT, HOURS_KEPT = timedelta(days=2), timedelta(days=60)
#: Nothing is older than this.
BEGINNING = datetime(2000, 1, 1, tzinfo=UTC)
DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
LEVELS = {"day": DAY, "hour": HOUR, "minute": MINUTE}
#: Up to which length a series has buckets of which level.
SERIES = (("minute", 3 * HOUR), ("hour", 3 * DAY))


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """What statistics are asked about: tasks by ``created_at`` in [since, until), None is open.

    ``user`` is whose tasks count, None: everybody's.
    """

    since: datetime | None = None
    until: datetime | None = None
    user: str | None = None
    task_type: str | None = None
    queue_name: str | None = None
    stages: bool = False


class Piece(NamedTuple):
    """A part of a window: whole buckets of a level, or ``raw`` for the tasks themselves.

    ``use`` says for what it counts: ``figures``, ``series`` or ``both``.
    """

    level: str
    since: datetime
    until: datetime
    use: str = "both"


def cover(since: datetime, until: datetime, levels: Sequence[str], now: datetime) -> list[Piece]:
    """Whole buckets of ``levels`` (coarsest first) that fill a window, and what is left of it raw."""
    if since >= until:
        return []
    if not levels:
        return [Piece("raw", since, until)]
    level, finer = levels[0], levels[1:]
    first, last = _ceil(since, LEVELS[level]), _floor(until, LEVELS[level])
    if first >= last or (level == "minute" and since < now - MINUTES_KEPT):
        return cover(since, until, finer, now)
    return [
        *cover(since, first, finer, now),
        Piece(level, first, last),
        *cover(last, until, finer, now),
    ]


def plan(window: Window, now: datetime) -> tuple[str, list[Piece]]:
    """The level of the buckets that a series of the window has, and the pieces to read."""
    tomorrow = _ceil(now, DAY) + DAY
    if window.since is None and window.until is None:
        return "day", [
            Piece("all", BEGINNING, tomorrow, "figures"),
            Piece("day", BEGINNING, tomorrow, "series"),
        ]
    since = max(window.since or BEGINNING, BEGINNING)
    until = min(window.until or tomorrow, tomorrow)
    horizon = now - HOURS_KEPT
    if since < horizon:  # of those times only whole days are known
        since = _floor(since, DAY)
        until = until if until > horizon else _ceil(until, DAY)
    names = list(LEVELS)
    bucket = next((name for name, most in SERIES if until - since <= most and since > horizon), "day")
    return bucket, cover(since, until, names[names.index(bucket) :], now)


def _floor(moment: datetime, step: timedelta) -> datetime:
    return moment - (moment - BEGINNING) % step


def _ceil(moment: datetime, step: timedelta) -> datetime:
    return moment + (BEGINNING - moment) % step
