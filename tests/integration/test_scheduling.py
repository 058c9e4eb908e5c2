"""Schedules on both brokers: what is due is fired once, as an ordinary task."""

from typing import Any

from tasks.schedule_records import Definition, Schedule
from tests.support.processes import Installation
from tests.support.waiting import eventually

EVERY_SECOND = "* * * * * *"


def schedule(board: Installation, name: str, **fields: Any) -> Schedule:
    asked = {"task_type": "benchmark", "cron_expr": EVERY_SECOND, **fields}
    return board.kit.schedules.create(Definition(name=name, **asked))


def test_every_second_is_fired_once_in_time_and_its_task_runs(board: Installation) -> None:
    # Given a worker, and a schedule of every second
    board.start_worker()
    schedule(board, "seconds", tags=("tick",), user_id="ann")
    # When three of them are over
    eventually(lambda: board.kit.schedules.show("seconds").fired >= 3, 15)
    board.kit.schedules.remove("seconds")
    # Then each has one task, in the name of the schedule and of its user, that completes
    ids = board.rows("SELECT id FROM tasks WHERE created_by = 'schedule:seconds' ORDER BY id")
    times = board.rows("SELECT fire_time FROM fires WHERE outcome = 'fired'")
    assert len(ids) == len(times) == len(set(times))
    board.all_finished([task_id for (task_id,) in ids])
    task = board.task(ids[0][0])
    assert (task.status, task.user_id, task.tags) == ("completed", "ann", ["tick"])
