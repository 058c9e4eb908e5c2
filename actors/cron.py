"""Cron expressions: when they fire, in any time zone. Pure: what time it is, others know.

Five fields as Vixie cron reads them (minute, hour, day of the month, month, weekday), or six with the
second in front, or one of `ALIASES`. Names of months and weekdays, ranges, lists and steps are known, ``L``
is the last day of a month and ``LW`` its last working day, ``5L`` its last Friday, ``5#2`` its second one.
If both day fields are restricted, a day that fits either of them fits; one that begins with ``*`` restricts
nothing.

Where clocks are set forward, a job at a fixed time that does not exist fires right after the gap; where they
are set back, it fires once, the first time. A job with a ``*`` in front of its minute or hour goes by the
time that really passes: it fires in both of the hours that have one name, and in none that has none.

APScheduler's CronTrigger says which days of a month fit, which is remembered. Times of the day and changes of
the clocks are ours: it has other rules for them, and looks for a time second by second, minute by minute.
"""

import calendar
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache
from itertools import pairwise
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from apscheduler.triggers.cron import CronTrigger

from actors.fields import spell
from tasks.errors import InvalidField

ALIASES: Final = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
LONGEST: Final = 200
#: What has no date in so many years has none at all.
SEARCHED_YEARS: Final = 50
DAY, SECOND = timedelta(days=1), timedelta(seconds=1)
#: A time of the day: hour, minute, second.
Clock = tuple[int, int, int]
MIDNIGHT: Final = (0, 0, 0)


class _Kind(NamedTuple):
    """A field: its name, its least and greatest number, and names for numbers."""

    name: str
    least: int
    most: int
    names: tuple[str, ...] = ()


_MONTHS = tuple(["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"])
_WEEKDAYS = tuple(["sun", "mon", "tue", "wed", "thu", "fri", "sat"])
_KINDS: Final = (
    _Kind("second", 0, 59),
    _Kind("minute", 0, 59),
    _Kind("hour", 0, 23),
    _Kind("day", 1, 31),
    _Kind("month", 1, 12, _MONTHS),
    _Kind("weekday", 0, 7, _WEEKDAYS),
)


class Days(NamedTuple):
    """Which days fit, in the words of APScheduler's CronTrigger, whose weeks begin on Monday.

    ``days`` are those that the first of the two fields allows, ``weekdays`` those of the second: one of the
    triggers must fit; None allows all.
    """

    days: tuple[CronTrigger, ...] | None
    weekdays: tuple[CronTrigger, ...] | None
    last_working: bool
    must_fit_both: bool

    def of(self, year: int, month: int) -> tuple[int, ...]:
        """The days of a month that fit, ascending."""
        by_day = _matching(self.days, year, month)
        if self.last_working:
            by_day.add(_last_working(year, month))
        by_weekday = _matching(self.weekdays, year, month)
        return tuple(sorted(by_day & by_weekday if self.must_fit_both else by_day | by_weekday))


def _matching(triggers: Iterable[CronTrigger] | None, year: int, month: int) -> set[int]:
    if triggers is None:
        return set(range(1, calendar.monthrange(year, month)[1] + 1))
    found: set[int] = set()
    for trigger in triggers:
        moment = trigger.get_next_fire_time(None, datetime(year, month, 1, tzinfo=UTC))
        while moment is not None and (moment.year, moment.month) == (year, month):
            found.add(moment.day)
            moment = trigger.get_next_fire_time(moment, moment + DAY)
    return found


def _last_working(year: int, month: int) -> int:
    length = calendar.monthrange(year, month)[1]
    return length - max(0, date(year, month, length).isoweekday() - 5)


@lru_cache(maxsize=4_096)
def _days_of(day: str, weekday: str, year: int, month: int) -> tuple[int, ...]:
    return _days(day, weekday).of(year, month)


class Pattern(NamedTuple):
    """What an expression says, without a time zone. All numbers ascend."""

    seconds: tuple[int, ...]
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    #: The fields of the days, as they were written.
    day: str
    weekday: str
    months: tuple[int, ...]
    #: Whether it is about fixed times, and not about what really passes.
    is_fixed: bool

    def at_or_after(self, start: datetime) -> datetime | None:
        """The first time from ``start`` on that fits, by a clock that is never set; None if there is none."""
        first, clock = start.date(), (start.hour, start.minute, start.second)
        for day in self._days_from(first):
            found = self._time_from(clock if day == first else MIDNIGHT)
            if found is not None:
                return datetime.combine(day, time(*found))
        return None

    def _days_from(self, first: date) -> Iterator[date]:
        for year in range(first.year, min(first.year + SEARCHED_YEARS, date.max.year) + 1):
            for month in self.months:
                if (year, month) < (first.year, first.month):
                    continue
                is_first = (year, month) == (first.year, first.month)
                for day in _days_of(self.day, self.weekday, year, month):
                    if not is_first or day >= first.day:
                        yield date(year, month, day)

    def _time_from(self, clock: Clock) -> Clock | None:
        """The first time of a day from ``clock`` on that fits."""
        for hour in self.hours[bisect_left(self.hours, clock[0]) :]:
            least = clock[1] if hour == clock[0] else 0
            for minute in self.minutes[bisect_left(self.minutes, least) :]:
                second = clock[2] if (hour, minute) == clock[:2] else 0
                at = bisect_left(self.seconds, second)
                if at < len(self.seconds):
                    return hour, minute, self.seconds[at]
        return None

    def shortest_interval(self) -> float:
        """The least number of seconds between two fires on the same day or on two days in a row."""
        first = last = 0
        found = DAY.total_seconds()
        for numbers, size in ((self.seconds, 1), (self.minutes, 60), (self.hours, 3_600)):
            steps = [after - before for before, after in pairwise(numbers)]
            if steps:
                found = min(found, min(steps) * size - (last - first))
            first, last = first + numbers[0] * size, last + numbers[-1] * size
        return min(found, DAY.total_seconds() - (last - first))


class Cron:
    """An expression in a time zone. Moments are aware datetimes; what is given is in UTC."""

    def __init__(self, pattern: Pattern, zone: tzinfo) -> None:
        self.pattern = pattern
        self._zone = zone

    def after(self, moment: datetime) -> datetime | None:
        """The first fire time after ``moment``; None if there is none in the next 50 years."""
        start = moment.astimezone(UTC).replace(microsecond=0) + SECOND
        if self._zone is UTC:
            found = self.pattern.at_or_after(start.replace(tzinfo=None))
            return None if found is None else found.replace(tzinfo=UTC)
        return self._fixed(start) if self.pattern.is_fixed else self._passing(start)

    def next(self, count: int, moment: datetime) -> list[datetime]:
        """The next ``count`` fire times after ``moment``, as far as there are so many."""
        found: list[datetime] = []
        at = self.after(moment)
        while at is not None and len(found) < count:
            found.append(at)
            at = self.after(at)
        return found

    def between(self, since: datetime, until: datetime, most: int) -> list[datetime]:
        """The fire times from ``since`` to ``until``, both included; the first ``most`` of them."""
        found: list[datetime] = []
        moment = self.after(since - timedelta(microseconds=1))
        while moment is not None and moment <= until and len(found) < most:
            found.append(moment)
            moment = self.after(moment)
        return found

    def last(self, since: datetime, until: datetime) -> datetime | None:
        """The last fire time from ``since`` to ``until``, both included; None if there is none."""
        span = timedelta(minutes=1)
        while True:
            start = max(since, until - span)
            found = self.between(start, until, 100_000)
            if found or start == since:
                return found[-1] if found else None
            span *= 30

    def _fixed(self, start: datetime) -> datetime | None:
        local = start.astimezone(self._zone).replace(tzinfo=None)
        while (found := self.pattern.at_or_after(local)) is not None:
            moment = found.replace(tzinfo=self._zone).astimezone(UTC)
            if moment.astimezone(self._zone).replace(tzinfo=None) != found:  # in a gap: right after it
                moment = _last_change(self._zone, moment)
            if moment >= start:
                return moment
            local = found + SECOND
        return None

    def _passing(self, start: datetime) -> datetime | None:
        limit = start.year + SEARCHED_YEARS
        while start.year <= limit:
            local = start.astimezone(self._zone)
            offset = local.utcoffset() or timedelta()
            found = self.pattern.at_or_after(local.replace(tzinfo=None))
            if found is None:
                return None
            moment, change = (found - offset).replace(tzinfo=UTC), _next_change(self._zone, start)
            if moment < change:
                return moment
            start = change
        return None


@lru_cache(maxsize=4_096)
def _changes(zone: tzinfo, year: int) -> tuple[datetime, ...]:
    """When a zone's offset changes in a year."""
    found = []
    day = datetime(year, 1, 1, tzinfo=UTC)
    while day.year == year:
        if _offset(zone, day) != _offset(zone, day + DAY):
            found.append(_change_within(zone, day, day + DAY))
        day += DAY
    return tuple(found)


def _change_within(zone: tzinfo, before: datetime, after: datetime) -> datetime:
    while after - before > SECOND:
        middle = (before + (after - before) / 2).replace(microsecond=0)
        if _offset(zone, middle) == _offset(zone, before):
            before = middle
        else:
            after = middle
    return after


def _offset(zone: tzinfo, moment: datetime) -> timedelta | None:
    return moment.astimezone(zone).utcoffset()


def _next_change(zone: tzinfo, moment: datetime) -> datetime:
    """The next change of a zone's offset, or where to look for it again."""
    years = (moment.year, moment.year + 1)
    changes = (change for year in years for change in _changes(zone, year) if change > moment)
    return next(changes, datetime(moment.year + 2, 1, 1, tzinfo=UTC))


def _last_change(zone: tzinfo, moment: datetime) -> datetime:
    years = (moment.year, moment.year - 1)
    return next(one for year in years for one in reversed(_changes(zone, year)) if one <= moment)


@lru_cache(maxsize=20_000)
def parse(expression: str, timezone: str = "UTC") -> Cron:
    """An expression in a time zone of the IANA database (Europe/Berlin).

    Raises:
      InvalidField: it is not one (cron_expr), or it never fires, or there is no such zone (timezone).
    """
    zone = zone_of(timezone)
    pattern = _pattern(expression)
    if pattern.at_or_after(datetime(2000, 1, 1)) is None:
        raise _bad(f"{spell(expression)!r} never fires: no month has such a day")
    return Cron(pattern, zone)


def zone_of(name: str) -> tzinfo:
    """The time zone of a name.

    Raises:
      InvalidField: there is none.
    """
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise InvalidField.of(
            "timezone", f"{spell(name)!r} is not a time zone here: use a name like Europe/Berlin, or UTC"
        ) from None


def _pattern(expression: str) -> Pattern:
    words = ALIASES.get(expression.strip().lower(), expression).lower().split()
    if len(expression) > LONGEST or len(words) not in (5, 6):
        raise _bad(
            "must have five fields (minute hour day month weekday), six with the second in front,"
            f" or be one of {', '.join(ALIASES)}"
        )
    words = words if len(words) == 6 else ["0", *words]
    plain = [
        _numbers(word, kind) for word, kind in zip(words, _KINDS, strict=True) if kind.name not in _OF_DAYS
    ]
    seconds, minutes, hours, months = (tuple(sorted(numbers)) for numbers in plain)
    is_fixed = not words[1].startswith("*") and not words[2].startswith("*")
    _days(words[3], words[5])
    return Pattern(seconds, minutes, hours, words[3], words[5], months, is_fixed)


_OF_DAYS = ("day", "weekday")


@lru_cache(maxsize=1_024)
def _days(day: str, weekday: str) -> Days:
    days = [{"day": _day(term)} for term in day.split(",") if term != "lw"]
    weekdays = [_weekday(term) for term in weekday.split(",")]
    return Days(
        None if day == "*" else tuple(CronTrigger(**one, timezone=UTC) for one in days),
        None if weekday == "*" else tuple(CronTrigger(**one, timezone=UTC) for one in weekdays),
        "lw" in day.split(","),
        day.startswith("*") or weekday.startswith("*"),
    )


def _day(term: str) -> str:
    """A term of the day of the month for APScheduler."""
    return "last" if term == "l" else ",".join(map(str, sorted(_numbers(term, _KINDS[3]))))


def _weekday(term: str) -> dict[str, str]:
    """A term of the weekday for APScheduler: the nth one of a month is a day there."""
    name, sign, place = term.partition("#")
    if sign and place in _PLACES:
        return {"day": f"{_PLACES[place]} {_name_of(_number(name, _KINDS[5]))}"}
    if term.endswith("l") and len(term) == 2:
        return {"day": f"last {_name_of(_number(term[0], _KINDS[5]))}"}
    return {"day_of_week": ",".join(sorted({_name_of(number) for number in _numbers(term, _KINDS[5])}))}


def _name_of(weekday: int) -> str:
    return _WEEKDAYS[weekday % 7]


_PLACES: Final = {"1": "1st", "2": "2nd", "3": "3rd", "4": "4th", "5": "5th"}


def _numbers(word: str, kind: _Kind) -> set[int]:
    """The numbers that a field, or a part of its list, stands for."""
    if "," in word:
        return set().union(*(_numbers(term, kind) for term in word.split(",")))
    span, slash, step = word.partition("/")
    first, dash, last = span.partition("-")
    if span == "*":
        least, most = kind.least, kind.most
    else:
        least = _number(first, kind)
        most = _number(last, kind) if dash else kind.most if slash else least
        if last == "sun" and least:  # fri-sun
            most = 7
    by = _plain(step) if slash else 1
    if most < least or not by:
        raise _bad(f"{spell(word, 30)!r} is no {kind.name}: write it like {kind.least}-{kind.most}/2")
    return set(range(least, most + 1, by))


def _number(word: str, kind: _Kind) -> int:
    number = kind.names.index(word) + (kind.name == "month") if word in kind.names else _plain(word)
    if number is None or not kind.least <= number <= kind.most:
        names = f" or {kind.names[0]} to {kind.names[-1]}" if kind.names else ""
        raise _bad(f"{spell(word, 30)!r} is no {kind.name}: it is from {kind.least} to {kind.most}{names}")
    return number


def _plain(word: str) -> int | None:
    return int(word) if word.isascii() and word.isdigit() else None


def _bad(message: str) -> InvalidField:
    return InvalidField.of("cron_expr", message)
