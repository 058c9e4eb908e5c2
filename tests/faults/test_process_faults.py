"""What becomes of the work when our own processes are killed, stand still, or lose their connections."""

import os
import random
import signal
import time

import psutil
import pytest

from tests.faults.board import Api, Board
from tests.faults.conftest import Verdict
from tests.faults.load import Load, effects
from tests.faults.rabbit import Rabbit
from tests.support.proxy import proxy_to
from tests.support.waiting import eventually

#: What is accepted but neither published nor taken: RabbitMQ knows nothing of it, or nobody knows if it does.
UNDISPATCHED = """
SELECT count(*) FROM task_state s WHERE s.id = ANY(%s) AND s.status = 'queued'
AND (s.dispatch IS NULL OR EXISTS (SELECT FROM dispatches d WHERE d.id = s.dispatch))"""


@pytest.mark.parametrize(("submissions", "kills"), [(400, 2), pytest.param(1_000, 6, marks=pytest.mark.slow)])
def test_no_accepted_task_is_lost_when_the_api_is_killed_between_its_commits_and_its_messages(
    board: Board, chance: random.Random, verdict: Verdict, submissions: int, kills: int
) -> None:
    # Given clients that submit without a pause
    api = board.start_api()
    board.start_clock()
    board.start_worker()
    board.wait_for_workers(1)
    load = Load(api.url, effects(), count=submissions, clients=8)
    # When the API is killed at random points, now the whole of it, now its worker alone
    for point in sorted(chance.sample(range(1, submissions - 50), kills)):
        eventually(lambda point=point: len(load.accepted) >= point, 60)  # type: ignore[misc]
        time.sleep(chance.uniform(0, 0.02))
        restarted_at = kill_api(api, whole=chance.random() < 0.7)
    # Then what it had accepted is dispatched within 5 s of its last restart
    before = list(load.accepted)
    eventually(lambda: board.ask(UNDISPATCHED, before) == 0, 30)
    dispatched_after = time.monotonic() - restarted_at
    # and all of it completes
    accepted = load.wait(60)
    board.all_done()
    report = verdict(accepted, dispatched_after_s=round(dispatched_after, 1), refused=load.refused.total())
    assert report.accepted == submissions
    assert report.completed == report.recorded
    assert dispatched_after < 5.0


def kill_api(api: Api, *, whole: bool) -> float:
    """Kill the API, and wait until it takes requests again; when that was."""
    if whole:
        api.process.kill()
        api.start()
    else:
        for child in psutil.Process(api.process.pid).children():
            os.kill(child.pid, signal.SIGKILL)  # gunicorn starts another one
    api.wait_until_ready()
    return time.monotonic()


def test_nothing_is_lost_when_connections_are_cut_in_mid_task_and_the_worker_is_killed_afterwards(
    board: Board, rabbit: Rabbit, chance: random.Random, verdict: Verdict
) -> None:
    # Given a worker that reaches RabbitMQ through a proxy, in the middle of 200 tasks
    api = board.start_api()
    board.start_clock()
    with proxy_to(rabbit.url) as proxy:
        victim = board.start_worker(threads=8, BROKER_URL=proxy.url)
        board.wait_for_workers(1)
        accepted = Load(api.url, effects(0.2), count=200).wait(30)
        board.wait_for_starts(8)
        # When its connections are cut again and again, so that it finishes what others delivered
        for _ in range(4):
            time.sleep(chance.uniform(0.05, 0.5))
            proxy.cut()
        # and it is killed after that
        time.sleep(chance.uniform(0.1, 0.6))
        victim.kill()
        board.start_worker(threads=8)
        # Then all of it completes
        board.all_done()
    report = verdict(accepted)
    assert report.completed == 200
    assert report.lost <= 8


def test_the_work_of_a_killed_worker_is_taken_over_at_once_and_its_place_is_filled(
    board: Board, chance: random.Random, verdict: Verdict
) -> None:
    # Given two workers under their supervisor, in the middle of 200 tasks
    api = board.start_api()
    board.start_clock()
    board.start_supervised_workers(2)
    board.wait_for_workers(2)
    accepted = Load(api.url, effects(0.3), count=200).wait(30)
    board.wait_for_starts(chance.randint(16, 50))
    # When one of them is killed
    victim = board.starts()[-1].pid
    killed_at = time.time()
    os.kill(victim, signal.SIGKILL)
    # Then its tasks are taken over within a second
    taken_over = "SELECT extract(epoch FROM max(ended_at))::float8 FROM attempts WHERE outcome = 'lost'"
    takeover = eventually(lambda: board.ask(taken_over), 20) - killed_at
    # and there are two workers again within 10 s
    fresh = "SELECT count(*) FROM workers WHERE kind = 'worker' AND pid != %s"
    eventually(lambda: board.ask(fresh, victim) == 2, 30)
    restored = time.time() - killed_at
    board.all_done()
    report = verdict(accepted, takeover_s=round(takeover, 2), capacity_restored_s=round(restored, 1))
    assert report.completed == 200
    assert 1 <= report.lost <= 4
    assert restored < 10.0
    assert takeover < 1.0


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_worker_that_stood_still_cannot_write_what_was_taken_over_meanwhile(
    board: Board, chance: random.Random, verdict: Verdict
) -> None:
    # Given two workers in the middle of 200 tasks
    api = board.start_api()
    board.start_clock()
    frozen = board.start_worker()
    other = board.start_worker()
    board.wait_for_workers(2)
    accepted = Load(api.url, effects(1.0), count=200).wait(30)
    eventually(lambda: sum(one.pid == frozen.pid for one in board.starts()) >= chance.randint(4, 12), 30)
    # When one of them stands still for 30 s, long after its tasks were taken over
    frozen.freeze()
    frozen_at = time.monotonic()
    lost = "SELECT count(*) FROM attempts WHERE outcome = 'lost'"
    eventually(lambda: board.ask(lost) >= 1, 29)
    takeover = time.monotonic() - frozen_at
    time.sleep(max(0.0, 30 - (time.monotonic() - frozen_at)))
    frozen.thaw()
    # Then what it still writes is refused: every task has one result, that of its last claim
    board.all_done(90)
    report = verdict(accepted, takeover_s=round(takeover, 1))
    assert report.completed == 200
    assert 1 <= report.lost <= 4
    # and it knows that it lost its lease
    assert frozen.exit_code() == 1
    assert not other.has_ended
