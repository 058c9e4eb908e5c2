"""The schedules of document 001, as printed: what each call is answered, and that they run, on both brokers.

The rows of the table are played in their order: the document makes, changes and deletes the same schedule.
What its Go examples call is translated into the request that its REST interface has for it.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, NamedTuple

import pytest

from tests.support.deployment import Deployment
from tests.support.waiting import eventually

SCHEDULES, TASKS = "/api/v1/scheduled-tasks", "/api/v1/tasks"


class Row(NamedTuple):
    """A call of the document: its lines, the request, and the status and fields of the answer."""

    where: str
    method: str
    path: str
    body: Any
    status: int
    expected: dict[str, Any]


HOURLY = {
    "name": "hourly_report",
    "task_type": "report_generation",
    "cron_expr": "0 * * * *",
    "queue_name": "processing",
    "payload": {"report_type": "hourly"},
}
DAILY = {
    "name": "daily_summary",
    "task_type": "report_generation",
    "cron_expr": "0 9 * * *",
    "queue_name": "processing",
    "payload": {"report_type": "daily"},
}
HOTSPOT = {
    "name": "hotspot_check",
    "task_type": "hotspot_monitor",
    "cron_expr": "*/5 * * * *",
    "queue_name": "notification",
}
RUN = {"task_type": "report_generation", "created_by": "schedule:hourly_report", "queue_name": "processing"}
HALF_HOURLY = {"cron_expr": "*/30 * * * *"}

ROWS = [
    # The Go examples
    Row("001:223-231", "POST", SCHEDULES, HOURLY, 201, {**HOURLY, "is_active": True}),
    Row("001:234-242", "POST", SCHEDULES, DAILY, 201, {**DAILY, "is_active": True}),
    Row("001:245-250", "POST", SCHEDULES, HOTSPOT, 201, {**HOTSPOT, "payload": {}}),
    Row("001:257", "POST", f"{SCHEDULES}/hourly_report/pause", None, 200, {"is_active": False}),
    Row("001:260", "POST", f"{SCHEDULES}/hourly_report/resume", None, 200, {"is_active": True}),
    Row("001:263", "POST", f"{SCHEDULES}/hourly_report/run", None, 202, RUN),
    Row("001:266", "PUT", f"{SCHEDULES}/hourly_report", HALF_HOURLY, 200, {**HOURLY, **HALF_HOURLY}),
    Row("001:279", "GET", f"{SCHEDULES}/hourly_report", None, 200, {**HOURLY, **HALF_HOURLY}),
    Row("001:282", "GET", SCHEDULES, None, 200, {"total": 3}),
    Row("001:285", "GET", "/api/v1/stats/schedules", None, 200, {"active": 3, "paused": 0}),
    Row("001:272", "DELETE", f"{SCHEDULES}/hourly_report", None, 204, {}),
    # The HTTP examples
    Row("001:390-402", "POST", SCHEDULES, HOURLY, 201, {**HOURLY, "timezone": "UTC", "overlap": "queue"}),
    Row("001:406", "GET", SCHEDULES, None, 200, {"total": 3}),
    Row("001:411", "GET", f"{SCHEDULES}/hourly_report", None, 200, HOURLY),
    Row("001:416-422", "PUT", f"{SCHEDULES}/hourly_report", HALF_HOURLY, 200, {**HOURLY, **HALF_HOURLY}),
    Row("001:431", "POST", f"{SCHEDULES}/hourly_report/pause", None, 200, {"is_active": False}),
    Row("001:436", "POST", f"{SCHEDULES}/hourly_report/resume", None, 200, {"is_active": True}),
    Row("001:441", "POST", f"{SCHEDULES}/hourly_report/run", None, 202, RUN),
    Row("001:426", "DELETE", f"{SCHEDULES}/hourly_report", None, 204, {}),
    # When a schedule does not run: is it active, and when is it next?
    Row("001:616", "GET", f"{SCHEDULES}/daily_summary", None, 200, {**DAILY, "is_active": True}),
    Row("001:620", "GET", "/api/v1/stats/schedules", None, 200, {"active": 2}),
]

#: The examples of expressions, and what is true of all their times: minute, hour, weekday and day.
EXPRESSIONS = [
    ("001:458", "* * * * *", lambda at: at.second == 0, timedelta(minutes=1)),
    ("001:459", "*/5 * * * *", lambda at: at.minute % 5 == 0, timedelta(minutes=5)),
    ("001:460", "0 * * * *", lambda at: at.minute == 0, timedelta(hours=1)),
    ("001:461", "0 9 * * *", lambda at: (at.hour, at.minute) == (9, 0), timedelta(days=1)),
    ("001:462", "0 9 * * 1", lambda at: (at.isoweekday(), at.hour) == (1, 9), timedelta(days=7)),
    ("001:463", "0 9 1 * *", lambda at: (at.day, at.hour) == (1, 9), None),
]


@pytest.fixture(params=["embedded", "on_rabbitmq"])
def running(request: pytest.FixtureRequest) -> Iterator[Deployment]:
    deployed: Deployment = request.getfixturevalue(request.param)
    forget(deployed)
    yield deployed
    forget(deployed)


def forget(deployed: Deployment) -> None:
    """Delete all schedules."""
    for one in deployed.http.get(SCHEDULES).json()["scheduled_tasks"]:
        deployed.http.delete(f"{SCHEDULES}/{one['name']}").raise_for_status()


def test_every_call_of_the_document_is_answered_as_it_says(running: Deployment) -> None:
    for row in ROWS:
        answer = running.http.request(row.method, row.path, json=row.body)
        assert answer.status_code == row.status, f"{row}: {answer.text}"
        found = answer.json() if answer.content else {}
        assert {name: found.get(name) for name in row.expected} == row.expected, row.where


def test_every_expression_of_the_document_has_the_times_that_it_says(running: Deployment) -> None:
    for where, expression, holds, step in EXPRESSIONS:
        body = {"name": "example", "task_type": "hotspot_monitor", "cron_expr": expression}
        made = running.http.post(SCHEDULES, json=body)
        times = [datetime.fromisoformat(one) for one in made.json()["next_runs"]]
        assert len(times) == 5, where
        assert all(holds(at) for at in times), where
        assert step is None or all(later - at == step for at, later in pairwise(times)), where
        running.http.delete(f"{SCHEDULES}/example")


def test_the_tasks_of_its_schedules_run(running: Deployment) -> None:
    # Given the three schedules of the document
    for body in (HOURLY, DAILY, HOTSPOT):
        running.http.post(SCHEDULES, json=body).raise_for_status()
    # When each is run at once
    ids = [
        running.http.post(f"{SCHEDULES}/{one['name']}/run").json()["task_id"]
        for one in (HOTSPOT, HOURLY, DAILY)
    ]
    hotspot, hourly, daily = [running.wait_for_task(task_id) for task_id in ids]
    # Then their tasks complete, and the results of the reports are the figures of their periods
    assert hotspot["status"] == hourly["status"] == daily["status"] == "completed"
    for task, period in ((hourly, timedelta(hours=1)), (daily, timedelta(days=1))):
        report: Any = task["result"]
        since, until = (datetime.fromisoformat(report[name]) for name in ("since", "until"))
        assert until - since == period
        assert report["total"] >= report["completed"] > 0
        assert 0 < report["success_rate"] <= 100
        assert report["p95"] >= report["p50"] >= 0 < report["avg_duration_ms"]
        assert {"hotspot_monitor", "report_generation"} <= set(report["by_type"])
        assert {"notification", "processing"} <= set(report["by_queue"])
    # and each schedule knows its last run
    shown = running.http.get(f"{SCHEDULES}/daily_summary").json()
    assert (shown["last_task_id"], shown["last_run_at"] is not None) == (daily["task_id"], True)


def test_what_is_due_runs_in_less_than_a_second(running: Deployment) -> None:
    # Given a schedule of every second
    body = {**HOTSPOT, "name": "every_second", "cron_expr": "* * * * * *"}
    running.http.post(SCHEDULES, json=body).raise_for_status()
    # When some seconds are over
    path = f"{SCHEDULES}/every_second"
    eventually(lambda: running.http.get(path).json()["fired"] >= 3, 15)
    running.http.post(f"{path}/pause").raise_for_status()
    # Then each has been run, at its time
    runs = running.http.get(f"{path}/runs").json()["runs"]
    times = [datetime.fromisoformat(one["fire_time"]) for one in runs][::-1]
    assert [at - times[0] for at in times] == [timedelta(seconds=number) for number in range(len(times))]
    assert all(running.wait_for_task(one["task_id"])["status"] == "completed" for one in runs)
    assert min(one["late_ms"] for one in runs) < 1_000


def test_a_failed_task_is_tried_again_three_times_at_growing_intervals(running: Deployment) -> None:
    # Given a task that fails, with all defaults (001:180-186)
    submitted = running.http.post(TASKS, json={"task_type": "fail"}).json()
    assert submitted["max_retries"] == 3
    # When it has failed for the first time, then it waits for about a second before it is tried again
    path = f"{TASKS}/{submitted['task_id']}"
    eventually(lambda: running.http.get(path).json()["attempts"] >= 2, 15)
    first, second, *_ = running.http.get(f"{path}/attempts").json()["attempts"]
    waited = datetime.fromisoformat(second["started_at"]) - datetime.fromisoformat(first["ended_at"])
    assert waited > timedelta(seconds=0.5)
    running.http.post(f"{path}/cancel")
