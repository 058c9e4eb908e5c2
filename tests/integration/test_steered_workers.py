"""Queues that are steered while worker processes work, on both brokers, by the actors' own account."""

import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest

from actors.submission import Order
from tasks.ledger.queues import Change, Define
from tasks.records import RateLimit
from tests.support.processes import Installation, Running, installation_of
from tests.support.steered_actors import FLAG, Entry, most_at_once, read_account
from tests.support.waiting import eventually

ACTORS = "tests.support.steered_actors"
PROCESSES, THREADS = 2, 8


class Theatre(Installation):
    """An installation with queues of its own for each test."""

    crew: Running

    def define(self, queue: str, **settings: Any) -> None:
        self.kit.ledger.define_queue(Define(queue, **settings)).result(10)

    def change(self, queue: str, **settings: Any) -> None:
        assert self.kit.ledger.change_queue(Change(queue, **settings)).result(10)

    def pause(self, queue: str) -> None:
        """Pause a queue as the API does."""
        assert self.kit.ledger.pause_queue(queue).result(10)
        self.kit.queues.wait_for_claims()

    def resume(self, queue: str) -> None:
        assert self.kit.ledger.resume_queue(queue).result(10)

    def give(self, queue: str, count: int, **shift: Any) -> list[UUID]:
        """Submit shifts to a queue, whose account is kept under its name."""
        payload = {"key": queue, **shift}
        return self.submit_all(
            [Order(task_type="shift", queue_name=queue, payload=payload) for _ in range(count)]
        )

    def workers(self) -> int:
        return int(self.value("SELECT count(*) FROM workers WHERE kind = 'worker'"))

    def account(self, queue: str) -> list[Entry]:
        return read_account(self.folder, queue)

    def begun(self, queue: str) -> int:
        return sum(one.word == "start" for one in self.account(queue))

    def at_work(self, queue: str) -> int:
        return sum(1 if one.word == "start" else -1 for one in self.account(queue))

    def running(self, queue: str) -> int:
        return int(
            self.value("SELECT count(*) FROM task_state WHERE queue = %s AND status = 'running'", queue)
        )


@pytest.fixture(scope="module")
def open_theatre(
    postgres_url: str, broker_url: str | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Theatre]:
    """A clock, and two worker processes under a supervisor."""
    folder = tmp_path_factory.mktemp("theatre")
    with installation_of(Theatre, ACTORS, postgres_url, broker_url, folder) as made:
        made.start_clock()
        made.crew = made.start_workers(PROCESSES, threads=THREADS)
        eventually(lambda: made.workers() == PROCESSES, timeout=60)
        yield made


@pytest.fixture
def theatre(open_theatre: Theatre) -> Iterator[Theatre]:
    yield open_theatre
    open_theatre.show_logs()
    (open_theatre.folder / FLAG).unlink(missing_ok=True)


def steer(theatre: Theatre, queue: str, *, count: int, seconds: float) -> None:
    """Three at once; then six, while they work; then a pause, and on again."""
    # Given a queue of which three may run at once, and processes with many more threads
    theatre.define(queue, concurrency=3)
    ids = theatre.give(queue, count, seconds=seconds)

    # When half of its tasks have begun
    eventually(lambda: theatre.begun(queue) >= count // 2, timeout=60)

    # Then three were at work at once, never more
    assert most_at_once(theatre.account(queue)) == 3

    # When it may be six, then it is soon
    theatre.change(queue, concurrency=6)
    eventually(lambda: most_at_once(theatre.account(queue)) == 6, timeout=2)

    # When all is done, then it was never more, and each task ran once
    theatre.all_finished(ids, timeout=60)
    assert most_at_once(theatre.account(queue)) == 6
    assert theatre.begun(queue) == count
    assert len({one.pid for one in theatre.account(queue)}) > 1


def test_no_more_run_at_once_than_a_queue_may_and_a_change_counts_while_they_work(theatre: Theatre) -> None:
    steer(theatre, "few", count=70, seconds=0.05)


@pytest.mark.slow
def test_of_five_hundred_tasks_in_four_processes_never_more_run_at_once_than_may(theatre: Theatre) -> None:
    more = theatre.start_workers(PROCESSES, threads=THREADS)
    eventually(lambda: theatre.workers() == 2 * PROCESSES, timeout=60)
    steer(theatre, "many", count=500, seconds=0.05)
    more.terminate()
    eventually(lambda: theatre.workers() == PROCESSES, timeout=60)


def test_a_pause_lets_those_finish_that_run_and_nothing_begin(theatre: Theatre) -> None:
    # Given ten tasks that run, and as many behind them
    theatre.define("break", concurrency=10)
    ids = theatre.give("break", 20, until_flag=True)
    eventually(lambda: theatre.at_work("break") == 10, timeout=20)

    # When their queue is paused, and then gets work and more places
    theatre.pause("break")
    ids += theatre.give("break", 5)
    theatre.change("break", concurrency=30)
    theatre.raise_flag(FLAG)

    # Then the ten finish, and nothing else begins, also when all has settled
    eventually(lambda: theatre.at_work("break") == 0)
    eventually(lambda: theatre.running("break") == 0)
    pulse = theatre.give("pulse", 1)
    theatre.all_finished(pulse)
    time.sleep(1.2)  # longer than anybody's poll: nothing may have happened, which cannot be waited for
    assert theatre.begun("break") == 10

    # When it is resumed, then all others run at once, and none runs twice
    theatre.resume("break")
    theatre.all_finished(ids, timeout=10)
    assert theatre.begun("break") == 25


def test_a_pause_in_the_middle_of_many_short_tasks_stops_all_of_them(theatre: Theatre) -> None:
    # Given many short tasks in a queue without a limit
    ids = theatre.give("rush", 400, seconds=0.01)
    eventually(lambda: theatre.begun("rush") > 20)

    # When it is paused, then nothing starts after that
    theatre.pause("rush")
    (paused_at,) = theatre.rows("SELECT clock_timestamp()")[0]
    eventually(lambda: theatre.running("rush") == 0)
    late = theatre.value(
        "SELECT count(*) FROM task_state WHERE queue = 'rush' AND started_at > %s", paused_at
    )
    assert late == 0
    assert theatre.begun("rush") < 400

    # And when it goes on, then each runs once
    theatre.resume("rush")
    theatre.all_finished(ids)
    assert theatre.begun("rush") == 400


def test_a_free_place_is_taken_at_once_and_not_at_the_next_look(theatre: Theatre) -> None:
    # Given a queue for one at a time: who waited for the next look would need 10 s on RabbitMQ, 40 s without
    theatre.define("relay", concurrency=1)
    began = time.monotonic()
    ids = theatre.give("relay", 40)

    theatre.all_finished(ids)

    assert time.monotonic() - began < 7
    assert most_at_once(theatre.account("relay")) == 1


def test_no_more_start_than_there_are_tokens_and_none_is_wasted(theatre: Theatre) -> None:
    # Given twenty starts a second, and five at once
    theatre.define("steady", concurrency=100, rate_limit=RateLimit(20, 1, 5))
    ids = theatre.give("steady", 45)

    # When all have run
    theatre.all_finished(ids)

    # Then in no window there were more than the limit says
    rows = theatre.rows(
        "SELECT extract(epoch FROM started_at)::float8 FROM task_state WHERE queue = 'steady'"
    )
    starts = sorted(at for (at,) in rows)
    for first in range(len(starts)):
        for last in range(first, len(starts)):
            window = starts[last] - starts[first]
            assert last - first + 1 <= 5 + 20 * window + 1, "the clocks of two transactions differ a little"

    # And they took hardly longer than the two seconds that they had to
    assert 1.9 <= starts[-1] - starts[0] < 5


def test_the_places_of_a_process_that_died_are_free_for_others(theatre: Theatre) -> None:
    # Given two places, held by tasks that do not end
    theatre.define("risky", concurrency=2)
    ids = theatre.give("risky", 6, until_flag=True)
    eventually(lambda: theatre.at_work("risky") == 2)

    # When the process of one of them dies
    victim = theatre.account("risky")[0].pid
    next(child for child in theatre.crew.children if child.pid == victim).kill()

    # Then there are two again soon, and never three
    eventually(lambda: theatre.begun("risky") >= 3 and theatre.running("risky") == 2, timeout=20)
    assert theatre.running("risky") == 2
    theatre.raise_flag(FLAG)
    theatre.all_finished(ids)
    assert {theatre.task(one).status for one in ids} == {"completed"}
