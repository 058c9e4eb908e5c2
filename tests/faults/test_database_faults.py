"""What becomes of the work when Postgres dies in the middle of it."""

import random
import time
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import httpx
import pytest

from tests.faults.board import Api, Board
from tests.faults.conftest import Verdict
from tests.faults.load import Load, effects
from tests.faults.postgres import Postgres
from tests.support.proxy import proxy_to
from tests.support.waiting import eventually


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_nothing_that_was_acknowledged_is_lost_when_postgres_is_killed_under_load(
    board: Board, postgres: Postgres, chance: random.Random, verdict: Verdict
) -> None:
    # Given clients that submit, and workers that work
    api = board.start_api()
    board.start_clock()
    board.start_worker()
    board.start_worker()
    board.wait_for_workers(2)
    load = Load(api.url, effects(0.02), count=1_000, clients=4, pause=0.01)
    # When Postgres is killed in the middle, twice, and comes back
    for part in (1, 2):
        eventually(lambda part=part: len(load.accepted) >= 300 * part, 60)  # type: ignore[misc]
        time.sleep(chance.uniform(0.0, 0.3))
        postgres.kill()
        time.sleep(chance.uniform(0.5, 4.0))
        postgres.start()
    accepted = load.wait(60)
    # Then the clients were told to come again meanwhile
    assert set(load.refused) <= {"503"}
    assert load.retry_after <= {"1"}
    # and all that was accepted is there, and completes
    board.all_done(90)
    report = verdict(accepted, refused=load.refused.total(), slowest_post_s=round(load.slowest, 2))
    assert report.completed == report.recorded
    assert report.accepted == 1_000


def test_an_order_that_is_repeated_with_its_key_after_an_answer_in_doubt_is_one_task(
    board: Board, postgres: Postgres, chance: random.Random, verdict: Verdict
) -> None:
    # Given clients that repeat each order, always with the same key, until it is accepted
    api = board.start_api()
    board.start_clock()
    board.start_worker()
    board.wait_for_workers(1)
    with proxy_to(board.database_url) as proxy:
        doubtful = board.start_api(DATABASE_URL=proxy.url)
        loads = [
            Load(one.url, effects(), count=150, clients=4, pause=0.01, keyed=True) for one in (api, doubtful)
        ]
        # When the connections of one API to Postgres break again and again, and Postgres is killed once
        for _ in range(8):
            time.sleep(chance.uniform(0.02, 0.2))
            proxy.cut()
        postgres.kill()
        time.sleep(chance.uniform(0.5, 2.5))
        postgres.start()
        accepted = {task_id for load in loads for task_id in load.wait(60)}
    # Then both APIs have made one task for each of the 150 keys, together
    board.all_done()
    report = verdict(accepted, refused=sum(load.refused.total() for load in loads))
    assert len(accepted) == report.recorded == report.completed == 150
    assert sum(load.repeated for load in loads) >= 150


@pytest.mark.slow
def test_a_postgres_that_stands_still_keeps_nobody_waiting(
    board: Board, postgres: Postgres, verdict: Verdict
) -> None:
    # Given an API, and work that is done
    api = board.start_api()
    board.start_clock()
    board.start_worker()
    board.wait_for_workers(1)
    accepted = Load(api.url, effects(), count=200).wait(30)
    board.all_done()
    # When Postgres stands still for 12 s, while more clients ask than there are connections
    postgres.freeze()
    frozen_at = time.monotonic()
    load = Load(api.url, effects(), clients=8, pause=0.1)
    asked: list[tuple[int, float]] = []
    with ThreadPoolExecutor(16) as crowd:
        while time.monotonic() - frozen_at < 12:
            asked += crowd.map(lambda task_id: read(api, task_id), accepted[:16])
    postgres.thaw()
    # Then everybody is told within seconds to come again
    assert {status for status, _ in asked} == {503}
    slowest = max(seconds for _, seconds in asked)
    assert slowest < 8.0
    eventually(lambda: len(load.accepted) > 50, 30)
    accepted += load.stop()
    assert set(load.refused) == {"503"}
    assert load.slowest < 8.0
    # and afterwards all goes on
    board.all_done()
    report = verdict(accepted, slowest_post_s=round(load.slowest, 1), slowest_get_s=round(slowest, 1))
    assert report.completed == report.recorded


def read(api: Api, task_id: UUID) -> tuple[int, float]:
    """Ask for a task: the status of the answer, and how long it took."""
    began = time.monotonic()
    answer = httpx.get(f"{api.url}/api/v1/tasks/{task_id}", timeout=30)
    return answer.status_code, time.monotonic() - began


def test_no_task_runs_unrecorded_while_postgres_is_down(
    board: Board, postgres: Postgres, chance: random.Random, verdict: Verdict
) -> None:
    # Given a worker that is busy, and 200 tasks behind, many of them on RabbitMQ already
    api = board.start_api()
    board.start_clock()
    board.start_worker(threads=4)
    board.wait_for_workers(1)
    accepted = Load(api.url, effects(0.15), count=200).wait(30)
    board.wait_for_starts(chance.randint(4, 30))
    # When Postgres is away when the next ones are due
    postgres.kill()
    time.sleep(1.0)
    started = len(board.starts())
    time.sleep(3.0)
    # Then nothing is started
    assert len(board.starts()) == started
    # and when it is back, the worker goes on, and no start is without a claim
    postgres.start()
    back_at = time.monotonic()
    board.wait_for_starts(started + 1)
    resumed_after = time.monotonic() - back_at
    board.all_done()
    report = verdict(accepted, resumed_after_s=round(resumed_after, 1))
    assert report.completed == 200
