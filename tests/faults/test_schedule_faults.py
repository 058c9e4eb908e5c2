"""Schedules while clocks are killed, and while one of them does not know what time it is."""

import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tasks.schedule_records import Definition
from tests.faults.faketime import WallClock
from tests.faults.postgres import Postgres
from tests.support.processes import Installation, installation
from tests.support.servers import RabbitNode
from tests.support.waiting import eventually

SCHEDULES, FEW = 100, 10
HOUR = 3_600
KILLED_EVERY = 5.0
CLOCKS = 3

_FIRES = """
SELECT count(*), count(DISTINCT task_id), count(*) FILTER (WHERE outcome <> 'fired'),
    count(*) FILTER (WHERE fired_at < fire_time), sum(missed)::integer FROM fires"""
# Between the first and the last fire of a schedule there is one in every second.
_GAPS = """
SELECT count(*) FROM (
    SELECT extract(epoch FROM max(fire_time) - min(fire_time)) + 1 <> count(*) AS has_gap
    FROM fires GROUP BY schedule) AS by_schedule WHERE has_gap"""
_ALIVE = "SELECT count(*) FROM workers WHERE kind = 'clock' AND heartbeat_at > now() - interval '5 s'"


@contextmanager
def house(
    postgres_url: str, broker_url: str | None, folder: Path, count: int = SCHEDULES
) -> Iterator[Installation]:
    """A hundred schedules of every second, that begin when they are resumed."""
    with installation(postgres_url, broker_url, folder) as made:
        together(lambda name: made.kit.schedules.create(a_schedule(name), is_active=False), count)
        yield made


def a_schedule(name: str) -> Definition:
    return Definition(name=name, task_type="benchmark", cron_expr="* * * * * *")


def together(verb: Callable[[str], object], count: int) -> None:
    """Do something with all schedules; what is done at the same time is committed together."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(verb, [f"number-{number}" for number in range(count)]))


def begin(made: Installation, clocks: int, count: int = SCHEDULES) -> None:
    eventually(lambda: made.value(_ALIVE) >= clocks, 30)
    together(made.kit.schedules.resume, count)


def check(made: Installation, seconds: float, count: int = SCHEDULES) -> None:
    """Every fire time was fired once, none before its time, and each has one task."""
    together(made.kit.schedules.pause, count)
    time.sleep(0.5)  # what is committed just now
    fires, tasks, unfired, early, missed = made.rows(_FIRES)[0]
    assert (unfired, early, missed) == (0, 0, 0)
    assert fires == tasks == made.value("SELECT count(*) FROM tasks")
    assert made.value(_GAPS) == 0
    assert fires >= count * (seconds - 2)


@pytest.mark.parametrize(
    "seconds", [8.0, pytest.param(60.0, marks=[pytest.mark.slow, pytest.mark.timeout(300)])]
)
def test_every_second_of_a_hundred_schedules_is_fired_once_while_clocks_are_killed(
    postgres_url: str, tmp_path: Path, chance: random.Random, seconds: float
) -> None:
    # Given three clocks, and a hundred schedules of every second
    with house(postgres_url, None, tmp_path) as made:
        clocks = [made.start_clock() for _ in range(CLOCKS)]
        begin(made, CLOCKS)
        # When one of them is killed every five seconds, and another one started
        over = time.monotonic() + seconds
        while time.monotonic() < over:
            time.sleep(min(KILLED_EVERY, seconds / 2))
            victim = clocks.pop(chance.randrange(CLOCKS))
            victim.kill()
            clocks.append(made.start_clock())
        # Then every second was fired once
        check(made, seconds)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_it_is_so_with_rabbitmq(
    postgres_url: str, rabbit_node: RabbitNode, tmp_path: Path, chance: random.Random
) -> None:
    with house(postgres_url, rabbit_node.url, tmp_path) as made:
        made.start_worker()
        clocks = [made.start_clock() for _ in range(CLOCKS)]
        begin(made, CLOCKS)
        for _ in range(4):
            time.sleep(KILLED_EVERY)
            clocks.pop(chance.randrange(CLOCKS)).kill()
            clocks.append(made.start_clock())
        check(made, 4 * KILLED_EVERY)
        unfinished = "SELECT count(*) FROM task_state WHERE status <> 'completed'"
        eventually(lambda: made.value(unfinished) == 0, 60)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_clocks_that_stand_still_and_go_on_fire_nothing_twice(
    postgres_url: str, tmp_path: Path, chance: random.Random
) -> None:
    with house(postgres_url, None, tmp_path) as made:
        clocks = [made.start_clock() for _ in range(CLOCKS)]
        begin(made, CLOCKS)
        # When one after the other stands still for a while, wherever it is, with what it has planned in hand
        for _ in range(8):
            victim = chance.choice(clocks)
            victim.freeze()
            time.sleep(chance.uniform(0.5, 3.0))
            victim.thaw()
        check(made, 8.0)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_no_fire_time_is_lost_when_postgres_is_killed(
    postgres: Postgres, tmp_path: Path, chance: random.Random
) -> None:
    with house(postgres.url, None, tmp_path) as made:
        for _ in range(2):
            made.start_clock()
        begin(made, 2)
        # When Postgres is killed in the middle of commits, and comes back some seconds later
        for _ in range(3):
            time.sleep(chance.uniform(2.0, 3.0))
            postgres.kill()
            time.sleep(chance.uniform(0.5, 3.0))
            postgres.start()
        made.connect()
        # Then what went by meanwhile is fired too
        behind = "SELECT count(*) FROM schedules WHERE next_run_at < now() - interval '1 s'"
        eventually(lambda: made.value(behind) == 0, 60)
        check(made, 8.0)


def test_a_clock_that_is_an_hour_ahead_fires_nothing_early(postgres_url: str, tmp_path: Path) -> None:
    # Given one clock, whose time of day is wrong
    wall = WallClock(tmp_path / "wall")
    folder = tmp_path / "house"
    folder.mkdir()
    with house(postgres_url, None, folder, FEW) as made:
        made._start("clock", "pipelines.clock", wall.environ)
        begin(made, 1, FEW)
        # When it jumps an hour ahead, and two back
        for jump in (HOUR, -HOUR):
            time.sleep(1.5)
            wall.jump(jump)
        time.sleep(1.5)
        # Then every second was fired once, in time
        check(made, 4.0, FEW)
