"""Who is blamed when a process dies, and who is not: quarantine hits the killer, and nobody else."""

import random
import time

import pytest

from tests.faults.board import Board
from tests.faults.conftest import Verdict
from tests.faults.load import Load, effects
from tests.faults.rabbit import Rabbit
from tests.support.proxy import proxy_to
from tests.support.waiting import eventually

DEATHS = "SELECT coalesce(max(deaths), 0) FROM task_state WHERE id = ANY(%s)"


def test_a_task_that_kills_its_workers_is_quarantined_and_none_of_its_fifty_neighbours_is(
    board: Board, chance: random.Random, verdict: Verdict
) -> None:
    # Given a worker of eight threads under its supervisor, and 50 tasks
    api = board.start_api()
    board.start_clock()
    board.start_supervised_workers(1, threads=8)
    board.wait_for_workers(1)
    before = chance.randint(8, 30)
    neighbours = list(Load(api.url, effects(0.5), count=before, clients=1).wait(30))
    # When one that kills its process, always, comes among them
    payload = {"seconds": 0.2}
    [killer] = board.submit_batch(api, [{"task_type": "deadly", "payload": payload, "priority": 8}])
    neighbours += Load(api.url, effects(0.5), count=50 - before, clients=1).wait(30)
    # Then it fails at its third death, with the reason
    task = board.finished(killer, 60)
    assert task.status == "failed"
    assert task.error is not None
    assert task.error["code"] == "worker_lost"
    assert board.ask(DEATHS, [killer]) == 3
    # and all of its neighbours finish: who was with it when it first struck is not blamed a second time
    board.all_done()
    report = verdict([killer, *neighbours], most_deaths_of_a_neighbour=board.ask(DEATHS, neighbours))
    assert (report.completed, report.failed) == (50, 1)
    assert board.ask(DEATHS, neighbours) <= 1


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_nobody_is_blamed_for_cut_connections_killed_brokers_and_long_silences(
    board: Board, rabbit: Rabbit, chance: random.Random, verdict: Verdict
) -> None:
    # Given a worker under its supervisor, in the middle of its work
    api = board.start_api()
    board.start_clock()
    with proxy_to(rabbit.url) as proxy:
        board.start_supervised_workers(1, threads=8, BROKER_URL=proxy.url)
        board.wait_for_workers(1)
        load = Load(api.url, effects(0.5), clients=2, pause=0.2)
        # When its connections are cut and RabbitMQ is killed, three times each
        for _ in range(3):
            time.sleep(chance.uniform(0.5, 1.5))
            proxy.cut()
            time.sleep(chance.uniform(0.5, 1.5))
            rabbit.kill()
            rabbit.start()
        # and three times a task holds the interpreter's lock for longer than the worker's lease
        hogs = []
        for _ in range(3):
            [hog] = board.submit_batch(api, [{"task_type": "hogging", "payload": {"seconds": 20.0}}])
            eventually(lambda hog=hog: board.started([hog]), 60)  # type: ignore[misc]
            hogs.append(hog)
            time.sleep(20)
        accepted = load.stop()
        # Then everything completes, and nobody died of anything
        board.all_done(90)
    report = verdict([*accepted, *hogs], most_deaths=board.ask(DEATHS, [*accepted, *hogs]))
    assert report.failed == 0
    assert report.completed == report.recorded
    assert board.ask(DEATHS, [*accepted, *hogs]) == 0
