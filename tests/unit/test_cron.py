"""Cron expressions fire when Vixie cron's would, in any time zone; cronsim is the reference."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from actors.cron import parse
from tasks.errors import InvalidField

YEAR = timedelta(days=366)
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)

ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Sao_Paulo",
    "Africa/Casablanca",
    "Asia/Kolkata",
    "Asia/Shanghai",
    "Europe/Dublin",
    "Pacific/Apia",
)
#: About which times a year is seen whole, and all that is particular to days.
MINUTES = ("0", "30", "*/15", "7,37", "50-59/3", "*", "5/20")
HOURS = ("0", "2", "*/6", "1-3", "9-17/4", "*", "2,3,22")
DAYS = ("*", "1", "*/2", "13", "28-31", "L", "LW", "1-7")
MONTHS = ("*", "mar", "2", "1-12/3", "OCT,nov", "*/2")
WEEKDAYS = ("*", "mon", "0", "7", "1-5", "*/2", "fri,SUN", "5L", "2#1", "sat#5")


def reference(expression: str, zone: str, start: datetime, most: int) -> list[datetime]:
    """The fire times of a year from ``start`` on, at most ``most``."""
    found: list[datetime] = []
    for one in CronSim(expression, start.astimezone(ZoneInfo(zone))):
        moment = one.astimezone(UTC)
        if moment > start + YEAR or len(found) == most:
            break
        found.append(moment)
    return found


def ours(expression: str, zone: str, start: datetime, most: int) -> list[datetime]:
    timing = parse(expression, zone)
    return timing.between(start + timedelta(seconds=1), start + YEAR, most)


def two_hundred() -> list[tuple[str, str]]:
    """Expressions with their zones: each word of each field several times, in changing company."""
    fields = (MINUTES, HOURS, DAYS, MONTHS, WEEKDAYS)
    made = []
    for number in range(200):
        words = [
            words[(number * step + number // 7) % len(words)]
            for words, step in zip(fields, (1, 2, 3, 5, 7), strict=True)
        ]
        made.append((" ".join(words), ZONES[number % len(ZONES)]))
    return made


@pytest.mark.parametrize("most", [40, pytest.param(20_000, marks=pytest.mark.slow)])
@pytest.mark.timeout(1_000)
def test_a_year_of_two_hundred_expressions_is_the_references(most: int) -> None:
    for expression, zone in two_hundred():
        # A year from its beginning, and from days before the changes of clocks on, as far as is looked at.
        for month, day in ((1, 1), (3, 7), (3, 28), (10, 24), (10, 31)):
            start = datetime(2026, month, day, 12, tzinfo=UTC)
            expected = reference(expression, zone, start, most)
            assert ours(expression, zone, start, most) == expected, (expression, zone, start)


def a_field(least: int, most: int, *names: str) -> st.SearchStrategy[str]:
    number = st.integers(least, most)
    spans = st.tuples(number, number).filter(lambda pair: pair[0] < pair[1]).map("{0[0]}-{0[1]}".format)
    term = st.one_of(
        number.map(str),
        spans,
        st.integers(1, most + 2).map("*/{}".format),
        st.tuples(spans, st.integers(1, most)).map("{0[0]}/{0[1]}".format),
        st.tuples(number, st.integers(1, most)).map("{0[0]}/{0[1]}".format),
        st.sampled_from(names or ("*",)),
    )
    return st.one_of(st.just("*"), term, st.lists(term, min_size=1, max_size=3).map(",".join))


EXPRESSIONS = st.tuples(
    a_field(0, 59),
    a_field(0, 23),
    a_field(1, 31, "L", "LW"),
    a_field(1, 12, "feb", "DEC"),
    a_field(0, 7, "sun", "3#2", "4L"),
).map(" ".join)
SECONDS = a_field(0, 59)


@settings(max_examples=60)
@given(EXPRESSIONS, st.sampled_from(ZONES), st.integers(0, 366 * 86_400))
def test_any_expression_fires_when_the_reference_does(expression: str, zone: str, offset: int) -> None:
    start = BEGIN + timedelta(seconds=offset)
    try:
        found = ours(expression, zone, start, 60)
    except InvalidField:  # the reference gives up after having looked for 50 years, or refuses it at once
        assume(False)
    assert found == reference(expression, zone, start, 60)


@settings(max_examples=40)
@given(SECONDS, EXPRESSIONS, st.integers(0, 366 * 86_400))
def test_a_sixth_field_in_front_is_about_seconds(seconds: str, expression: str, offset: int) -> None:
    start = BEGIN + timedelta(seconds=offset)
    expression = f"{seconds} {expression}"
    try:
        found = ours(expression, "UTC", start, 60)
    except InvalidField:
        assume(False)
    assert found == reference(expression, "UTC", start, 60)


BERLIN = "Europe/Berlin"


@pytest.mark.parametrize(
    ("expression", "start", "expected"),
    [
        # Clocks go from 2:00 to 3:00 on 29 March: what does not exist fires right after the gap, once.
        ("30 2 * * *", "2026-03-28T12:00", ["2026-03-29T01:00Z", "2026-03-30T00:30Z"]),
        ("0,15,30 2 * * *", "2026-03-28T12:00", ["2026-03-29T01:00Z", "2026-03-30T00:00Z"]),
        ("0 30 2 * * *", "2026-03-28T12:00", ["2026-03-29T01:00Z", "2026-03-30T00:30Z"]),
        # what goes by real time does not: there is no such hour
        ("*/30 2 * * *", "2026-03-28T12:00", ["2026-03-30T00:00Z", "2026-03-30T00:30Z"]),
        ("30 * * * *", "2026-03-29T00:00", ["2026-03-29T00:30Z", "2026-03-29T01:30Z"]),
        # and from 3:00 to 2:00 on 25 October: what exists twice fires the first time
        ("30 2 * * *", "2026-10-24T12:00", ["2026-10-25T00:30Z", "2026-10-26T01:30Z"]),
        ("0 30 2 * * *", "2026-10-24T12:00", ["2026-10-25T00:30Z", "2026-10-26T01:30Z"]),
        ("30 2 * * *", "2026-10-25T00:45", ["2026-10-26T01:30Z", "2026-10-27T01:30Z"]),
        # what goes by real time fires both times
        ("30 * * * *", "2026-10-25T00:00", ["2026-10-25T00:30Z", "2026-10-25T01:30Z"]),
        ("59 */2 * * *", "2026-10-25T00:00", ["2026-10-25T00:59Z", "2026-10-25T01:59Z"]),
    ],
)
def test_both_changes_of_the_clocks(expression: str, start: str, expected: list[str]) -> None:
    after = datetime.fromisoformat(start).replace(tzinfo=UTC)

    found = parse(expression, BERLIN).next(2, after)

    assert [one.strftime("%Y-%m-%dT%H:%MZ") for one in found] == expected


def test_clocks_that_are_set_by_half_an_hour() -> None:
    lord_howe = parse("15 2 * * *", "Australia/Lord_Howe")

    # On 4 October 2:00 becomes 2:30 there, at 15:30 UTC of the day before.
    assert lord_howe.after(datetime(2026, 10, 3, 12, tzinfo=UTC)) == datetime(2026, 10, 3, 15, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("alias", "expression"),
    [
        ("@hourly", "0 * * * *"),
        ("@daily", "0 0 * * *"),
        ("@midnight", "0 0 * * *"),
        ("@WEEKLY", "0 0 * * 7"),
        ("@monthly", "0 0 1 * *"),
        ("@yearly", "0 0 1 jan *"),
        ("0 0 * * fri-sun", "0 0 * * 5-7"),
        ("  0   0 */1 * Sun ", "0 0 * * 0"),
    ],
)
def test_two_spellings_of_one_expression(alias: str, expression: str) -> None:
    assert parse(alias).next(20, BEGIN) == parse(expression).next(20, BEGIN)


def test_if_both_days_are_restricted_either_fits() -> None:
    days = [one.day for one in parse("0 0 13 * fri").next(6, datetime(2026, 2, 1, tzinfo=UTC))]
    assert days == [6, 13, 20, 27, 6, 13]
    # unless one of the fields begins with a star
    odd_fridays = parse("0 0 */2 * fri").next(3, datetime(2026, 2, 1, tzinfo=UTC))
    assert [(one.month, one.day) for one in odd_fridays] == [(2, 13), (2, 27), (3, 13)]


def test_a_leap_day_is_found_over_a_century_without_one() -> None:
    leap_day = parse("0 0 29 2 *")

    assert leap_day.after(datetime(2096, 3, 1, tzinfo=UTC)) == datetime(2104, 2, 29, tzinfo=UTC)


def test_nothing_comes_after_the_last_year() -> None:
    assert parse("@yearly").after(datetime(9999, 2, 1, tzinfo=UTC)) is None
    assert parse("@yearly", BERLIN).after(datetime(9998, 6, 1, tzinfo=UTC)) is not None


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "*",
        "* * * *",
        "* * * * * * *",
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * * 13 *",
        "* * * * 8",
        "5-1 * * * *",
        "*/0 * * * *",
        "*/-1 * * * *",
        "1.5 * * * *",
        ", * * * *",
        "1,,2 * * * *",
        "* * * * mon#6",
        "* * * * monl",
        "* * L * L",
        "1-2-3 * * * *",
        "1/2/3 * * * *",
        "² * * * *",
        "? * * * *",
        "@reboot",
        "@every 5m",
        "0 0 30 2 *",
        "0 0 31 4,6,9,11 *",
        "0 0 31 feb *",
        "1" * 300,
    ],
)
def test_what_is_no_expression_or_never_fires_is_refused(expression: str) -> None:
    with pytest.raises(InvalidField) as refused:
        parse(expression)
    assert [field for field, _ in refused.value.errors] == ["cron_expr"]


@pytest.mark.parametrize(
    "zone", ["", "Mars/Olympus", "../etc/passwd", "/etc/localtime", "Europe", "a\0b", "é", "x" * 999]
)
def test_what_is_no_time_zone_is_refused(zone: str) -> None:
    with pytest.raises(InvalidField) as refused:
        parse("@daily", zone)
    assert [field for field, _ in refused.value.errors] == ["timezone"]


@pytest.mark.parametrize(
    ("expression", "seconds"),
    [
        ("* * * * * *", 1),
        ("*/20 * * * * *", 20),
        ("0,59 * * * * *", 1),
        ("7 * * * * *", 60),
        ("* * * * *", 60),
        ("0,50 * * * *", 600),
        ("0 * * * *", 3_600),
        ("0 0 * * *", 86_400),
        ("59 23 * * *", 86_400),
        ("0,59 0,23 * * *", 60),
        ("0 0 1 1 *", 86_400),
    ],
)
def test_the_shortest_interval(expression: str, seconds: float) -> None:
    assert parse(expression).pattern.shortest_interval() == seconds


@given(EXPRESSIONS, st.integers(0, 366 * 86_400))
@settings(max_examples=40)
def test_no_two_fires_are_nearer_than_the_shortest_interval(expression: str, offset: int) -> None:
    try:
        timing = parse(expression)
    except InvalidField:
        assume(False)
    found = timing.next(50, BEGIN + timedelta(seconds=offset))
    nearest = min(after - before for before, after in pairwise(found))
    assert nearest.total_seconds() >= timing.pattern.shortest_interval()


def test_the_last_fire_time_of_a_span() -> None:
    rare, often = parse("0 3 1 * *"), parse("* * * * * *")
    until = datetime(2026, 12, 24, 18, 30, 15, 500_000, tzinfo=UTC)

    assert rare.last(BEGIN, until) == datetime(2026, 12, 1, 3, tzinfo=UTC)
    assert often.last(BEGIN, until) == datetime(2026, 12, 24, 18, 30, 15, tzinfo=UTC)
    assert rare.last(until, until + timedelta(days=3)) is None
