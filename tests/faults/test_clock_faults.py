"""What becomes of work that waits for its time, and of the time itself."""

import random
import time
from pathlib import Path

from tests.faults.board import Board
from tests.faults.conftest import Verdict
from tests.faults.faketime import WallClock
from tests.faults.load import Load, effects
from tests.support.waiting import eventually

HOUR = 3_600
LATENESS = "SELECT extract(epoch FROM started_at - ready_at)::float8 FROM task_state WHERE id = %s"


def test_a_task_of_one_second_does_not_wait_behind_a_thousand_of_the_far_future(
    board: Board, chance: random.Random, verdict: Verdict
) -> None:
    # Given 1,000 tasks that are due in hours or days
    api = board.start_api()
    board.start_clock()
    board.start_worker()
    board.wait_for_workers(1)
    later = [chance.uniform(HOUR, 300 * HOUR) for _ in range(1_000)]
    orders = [{"task_type": "effect", "delay": seconds} for seconds in later]
    far = board.submit_batch(api, orders)
    # When one comes that is due in a second
    [soon] = board.submit_batch(api, [{"task_type": "effect", "delay": 1.0}])
    # Then it starts in time, and the others wait
    eventually(lambda: board.started([soon]), 20)
    board.finished(soon)
    late = board.ask(LATENESS, soon)
    assert 0.0 <= late < 2.0
    assert board.unfinished() == 1_000
    # and they can be cancelled like any others
    board.cancel_all(far)
    report = verdict([*far, soon], late_s=round(late, 2))
    assert (report.completed, report.cancelled, report.starts) == (1, 1_000, 1)


def test_two_clocks_never_dispatch_or_rescue_twice_though_one_jumps_and_one_is_killed(
    board: Board, tmp_path: Path, chance: random.Random, verdict: Verdict
) -> None:
    # Given two clocks, of which one does not know what time it is
    wall = WallClock(tmp_path / "wall")
    api = board.start_api()
    clocks = [board.start_clock_with(wall.environ), board.start_clock()]
    victim = board.start_worker()
    board.start_worker()
    board.wait_for_workers(2)
    # and 200 tasks that are due now, and 200 that become due bit by bit
    accepted = Load(api.url, effects(0.3), count=200).wait(30)
    delays = [chance.uniform(0.5, 6.0) for _ in range(200)]
    accepted += board.submit_batch(api, [{"task_type": "effect", "delay": seconds} for seconds in delays])
    # When its time jumps an hour ahead and two back, a worker is killed, and then one of the clocks
    for seconds in (HOUR, -HOUR):
        time.sleep(chance.uniform(0.3, 1.0))
        wall.jump(seconds)
    eventually(lambda: victim.pid in {one.pid for one in board.starts()}, 10)
    victim.kill()
    lost = "SELECT count(*) FROM attempts WHERE outcome = 'lost'"
    eventually(lambda: board.ask(lost), 20)
    chance.choice(clocks).kill()
    # Then everything completes, and nothing was started again but what the killed worker had in hand
    board.all_done()
    report = verdict(accepted)
    assert report.completed == 400
    assert 1 <= report.lost <= 4
    assert report.again <= report.lost
    # and nothing was started before its time
    early = "SELECT count(*) FROM task_state WHERE started_at < ready_at"
    assert board.ask(early) == 0
