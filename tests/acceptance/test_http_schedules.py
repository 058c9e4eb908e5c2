"""Scheduled tasks over HTTP: what may be asked for, and what is answered."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from falcon.testing import Result, TestClient

from pipelines.bootstrap import open_kit
from tasks.settings import Settings
from tests.support.api import api_on
from tests.support.databases import fresh_database

SCHEDULES, TASKS = "/api/v1/scheduled-tasks", "/api/v1/tasks"
FIELDS = (
    "name task_type cron_expr queue_name payload timezone overlap misfire jitter priority max_retries "
    "timeout kb_id project_id tags user_id is_active last_run_at last_task_id next_run_at next_runs fired "
    "skipped missed refused created_at updated_at"
)
HOURLY = {
    "name": "hourly_report",
    "task_type": "report_generation",
    "cron_expr": "0 * * * *",
    "queue_name": "processing",
    "payload": {"report_type": "hourly"},
}
YEARLY = {"name": "new_year", "task_type": "test", "cron_expr": "@yearly"}


def make(client: TestClient, **body: Any) -> Result:
    return client.simulate_post(SCHEDULES, json=body)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def test_a_schedule_is_made_and_says_when_it_runs(client: TestClient) -> None:
    # When the body of the documentation is sent
    made = make(client, **HOURLY)
    # Then there is a schedule with the fields of the contract, that has never run
    assert (made.status_code, made.headers["location"]) == (201, f"{SCHEDULES}/hourly_report")
    assert " ".join(made.json) == FIELDS
    assert {name: made.json[name] for name in HOURLY} == HOURLY
    assert (made.json["is_active"], made.json["last_run_at"], made.json["timezone"]) == (True, None, "UTC")
    # and its next five times are the next full hours
    runs = [at(one) for one in made.json["next_runs"]]
    first = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    assert runs == [first + timedelta(hours=number) for number in range(5)]
    assert at(made.json["next_run_at"]) == first
    assert client.simulate_get(f"{SCHEDULES}/hourly_report").json == made.json


def test_a_name_is_taken_once(client: TestClient) -> None:
    make(client, **HOURLY)

    again = make(client, **{**HOURLY, "cron_expr": "1 * * * *"})

    assert (again.status_code, again.json["code"]) == (409, "conflict")
    assert client.simulate_get(f"{SCHEDULES}/hourly_report").json["cron_expr"] == "0 * * * *"


def test_put_merges_what_is_given(client: TestClient) -> None:
    made = make(client, **HOURLY, tags=["a"]).json

    changed = client.simulate_put(f"{SCHEDULES}/hourly_report", json={"cron_expr": "*/30 * * * *"})

    assert changed.status_code == 200
    own = {"cron_expr", "next_run_at", "next_runs", "updated_at"}
    assert {name: value for name, value in changed.json.items() if name not in own} == {
        name: value for name, value in made.items() if name not in own
    }
    first, second, *_ = [at(one) for one in changed.json["next_runs"]]
    assert second - first == timedelta(minutes=30)
    # and the whole body that made it may be sent as well, with another payload
    whole = client.simulate_put(
        f"{SCHEDULES}/hourly_report", json={**HOURLY, "payload": {"report_type": "daily"}}
    )
    assert (whole.json["payload"], whole.json["cron_expr"]) == ({"report_type": "daily"}, "0 * * * *")


def test_a_name_cannot_be_changed(client: TestClient) -> None:
    make(client, **HOURLY)

    answer = client.simulate_put(f"{SCHEDULES}/hourly_report", json={"name": "other"})

    assert (answer.status_code, answer.json["errors"][0]["field"]) == (422, "name")


def test_a_paused_schedule_has_no_next_time_until_it_is_resumed(client: TestClient) -> None:
    make(client, **HOURLY)

    paused = client.simulate_post(f"{SCHEDULES}/hourly_report/pause")
    assert (paused.status_code, paused.json["is_active"]) == (200, False)
    assert (paused.json["next_run_at"], paused.json["next_runs"]) == (None, [])
    # again changes nothing, and it can be changed meanwhile
    assert client.simulate_post(f"{SCHEDULES}/hourly_report/pause").json == paused.json
    client.simulate_put(f"{SCHEDULES}/hourly_report", json={"cron_expr": "5 * * * *"})

    resumed = client.simulate_post(f"{SCHEDULES}/hourly_report/resume")
    assert (resumed.status_code, resumed.json["is_active"]) == (200, True)
    assert at(resumed.json["next_run_at"]).minute == 5


def test_a_schedule_can_be_made_paused_and_put_resumes_it(client: TestClient) -> None:
    assert make(client, **HOURLY, is_active=False).json["next_run_at"] is None

    resumed = client.simulate_put(f"{SCHEDULES}/hourly_report", json={"is_active": True}).json

    assert (resumed["is_active"], len(resumed["next_runs"])) == (True, 5)


def test_run_submits_its_task_at_once(client: TestClient) -> None:
    made = make(client, **YEARLY, priority="high", tags=["party"], payload={"wine": 1}, is_active=False).json

    ran = client.simulate_post(f"{SCHEDULES}/new_year/run")

    assert ran.status_code == 202
    task = client.simulate_get(ran.headers["location"]).json
    assert task["task_id"] == ran.json["task_id"]
    assert (task["task_type"], task["payload"], task["priority"]) == ("test", {"wine": 1}, 8)
    assert (task["created_by"], task["tags"]) == ("schedule:new_year", ["party"])
    after = client.simulate_get(f"{SCHEDULES}/new_year").json
    assert (after["last_task_id"], after["fired"]) == (task["task_id"], made["fired"] + 1)
    runs = client.simulate_get(f"{SCHEDULES}/new_year/runs").json
    assert [(one["outcome"], one["task_id"]) for one in runs["runs"]] == [("manual", task["task_id"])]
    assert (runs["total"], runs["total_is_exact"], runs["next_cursor"]) == (1, True, None)


def test_a_pipeline_can_be_scheduled(client: TestClient) -> None:
    make(client, name="shouts", task_type="shouting", cron_expr="@daily", payload={"words": ["a"]})

    run_id = client.simulate_post(f"{SCHEDULES}/shouts/run").json["task_id"]

    stages = client.simulate_get(TASKS, params={"stages": "true"}).json["tasks"]
    assert {one["run_id"] for one in stages if one["stage"] == "gather_words"} == {run_id}


def test_a_deleted_schedule_is_gone_and_its_tasks_stay(client: TestClient) -> None:
    make(client, **YEARLY)
    task_id = client.simulate_post(f"{SCHEDULES}/new_year/run").json["task_id"]

    assert client.simulate_delete(f"{SCHEDULES}/new_year").status_code == 204

    for method, below in (("GET", ""), ("PUT", ""), ("DELETE", ""), ("POST", "/run"), ("GET", "/runs")):
        answer = client.simulate_request(
            method, f"{SCHEDULES}/new_year{below}", json={} if method == "PUT" else None
        )
        assert (answer.status_code, answer.json["code"]) == (404, "not_found")
    assert client.simulate_get(f"{TASKS}/{task_id}").status_code == 200
    # and its name is free
    assert make(client, **YEARLY).json["fired"] == 0


def test_a_schedule_that_is_not_there_is_not_found(client: TestClient) -> None:
    for name in ("nix", "%00", "a%20b", "%FF", "x" * 3_000):
        for method, below in (
            ("GET", ""),
            ("DELETE", ""),
            ("POST", "/pause"),
            ("POST", "/run"),
            ("GET", "/runs"),
        ):
            assert client.simulate_request(method, f"{SCHEDULES}/{name}{below}").status_code == 404


def test_schedules_are_listed_by_name(client: TestClient) -> None:
    for name in ("zulu", "alpha", "mike"):
        make(client, **{**YEARLY, "name": name})

    first = client.simulate_get(SCHEDULES, params={"limit": 2}).json
    rest = client.simulate_get(SCHEDULES, params={"limit": 2, "cursor": first["next_cursor"]}).json

    assert [one["name"] for one in first["scheduled_tasks"] + rest["scheduled_tasks"]] == [
        "alpha",
        "mike",
        "zulu",
    ]
    assert (first["total"], rest["next_cursor"]) == (3, None)


def test_a_range_is_backfilled_once(client: TestClient) -> None:
    make(client, **HOURLY)
    body = {"from": "2026-02-01T00:00:00Z", "to": "2026-02-01T05:00:00Z"}
    hours = [f"2026-02-01T{hour:02}:00:00Z" for hour in range(6)]

    # When it is only asked what it would be, then nothing is run
    dry = client.simulate_post(f"{SCHEDULES}/hourly_report/backfill", json={**body, "dry_run": True})
    assert (dry.status_code, dry.json["fire_times"], dry.json["count"]) == (200, hours, 6)
    assert client.simulate_get(TASKS).json["total"] == 0

    # When it is run, then there is a task for each time, and none when it is run again
    done = client.simulate_post(f"{SCHEDULES}/hourly_report/backfill", json=body)
    assert (done.status_code, done.json["count"], done.json["fired_before"]) == (202, 6, 0)
    more = {**body, "to": "2026-02-01T07:00:00Z"}
    again = client.simulate_post(f"{SCHEDULES}/hourly_report/backfill", json=more)
    assert (again.json["count"], again.json["fired_before"]) == (2, 6)
    assert client.simulate_get(TASKS).json["total"] == 8
    runs = client.simulate_get(f"{SCHEDULES}/hourly_report/runs").json["runs"]
    assert {one["outcome"] for one in runs} == {"backfilled"}
    assert [one["fire_time"] for one in runs][-6:] == hours[::-1]


@pytest.mark.parametrize(
    ("since", "until", "field"),
    [
        ("2026-02-02T00:00:00Z", "2026-02-01T00:00:00Z", "to"),
        ("2026-02-01T00:00:00Z", "2226-02-01T00:00:00Z", "to"),
        ("2020-02-01T00:00:00Z", "2026-02-01T00:00:00Z", "to"),
        ("0001-01-01T00:00:00Z", "2026-02-01T00:00:00Z", "from"),
        ("0001-01-01T00:00:00+14:00", "2026-02-01T00:00:00Z", "from"),
        ("yesterday", "2026-02-01T00:00:00Z", "from"),
        ("2026-02-01T00:00:00", "2026-02-01T00:00:00Z", "from"),
        (None, "2026-02-01T00:00:00Z", "from"),
    ],
)
def test_a_range_that_cannot_be_filled_is_refused(
    client: TestClient, since: str | None, until: str, field: str
) -> None:
    make(client, **HOURLY)

    answer = client.simulate_post(f"{SCHEDULES}/hourly_report/backfill", json={"from": since, "to": until})

    assert (answer.status_code, answer.json["errors"][0]["field"]) == (422, field)


def test_what_was_fired_too_long_ago_to_know_is_not_filled_up(client: TestClient, database_url: str) -> None:
    # Given a schedule that is older than what is kept of its runs
    make(client, **HOURLY)
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE schedules SET created_at = now() - interval '1 year'")
    # When a range of those times is to be filled, then it is refused; one before it was made is not
    now = datetime.now(UTC)
    for days, status in ((60, 422), (20, 202), (400, 202)):
        since = now - timedelta(days=days)
        body = {"from": since.isoformat(), "to": (since + timedelta(hours=3)).isoformat()}
        answer = client.simulate_post(f"{SCHEDULES}/hourly_report/backfill", json=body)
        assert answer.status_code == status, answer.text


@pytest.fixture(scope="module")
def shared_client(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """The API on a record that what is refused leaves empty."""
    with fresh_database(postgres_url) as url:
        kit = open_kit(Settings(database_url=url, data_dir=tmp_path_factory.mktemp("data"), port=0))
        with api_on(kit) as client:
            yield client
        kit.close()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "two words"),
        ("name", ""),
        ("name", 7),
        ("task_type", None),
        ("cron_expr", "0 0 30 2 *"),
        ("cron_expr", "0 0 31 4,6,9,11 *"),
        ("cron_expr", "* * * *"),
        ("cron_expr", "* * * * * * *"),
        ("cron_expr", "60 * * * *"),
        ("cron_expr", "@reboot"),
        ("cron_expr", "*/0 * * * *"),
        ("cron_expr", "every hour of the day"),
        ("cron_expr", ""),
        ("cron_expr", "٣ * * * *"),
        ("cron_expr", 5),
        ("cron_expr", None),
        ("timezone", "Mars/Olympus"),
        ("timezone", "../../etc/passwd"),
        ("timezone", "/etc/localtime"),
        ("timezone", "Europe"),
        ("timezone", 2),
        ("overlap", "maybe"),
        ("misfire", "twice"),
        ("jitter", -1),
        ("jitter", 1e9),
        ("priority", 11),
        ("max_retries", -1),
        ("timeout", 0),
        ("queue_name", "amq.direct"),
        ("tags", "one"),
        ("is_active", "yes"),
        ("payload", {"report_type": "secondly"}),
        ("colour", "red"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(shared_client: TestClient, field: str, value: object) -> None:
    client = shared_client
    answer = make(client, **{**HOURLY, field: value})

    assert (answer.status_code, answer.json["code"]) == (422, "invalid_field")
    assert answer.json["errors"][0]["field"].startswith(field)
    assert client.simulate_get(SCHEDULES).json["total"] == 0
    if field not in ("name", "task_type") and value is not None:  # and no schedule becomes so
        make(client, **HOURLY)
        answer = client.simulate_put(f"{SCHEDULES}/hourly_report", json={field: value})
        assert answer.status_code == 422
        assert answer.json["errors"][0]["field"].startswith(field)
        client.simulate_delete(f"{SCHEDULES}/hourly_report")


def test_a_type_that_nobody_has_declared_is_refused(client: TestClient) -> None:
    answer = make(client, **{**HOURLY, "task_type": "unheard_of"})

    assert (answer.status_code, answer.json["code"]) == (422, "unknown_task_type")


def test_the_statistics_say_what_is_next(client: TestClient) -> None:
    make(client, **HOURLY)
    make(client, **YEARLY)
    make(client, **{**YEARLY, "name": "asleep"}, is_active=False)
    client.simulate_post(f"{SCHEDULES}/new_year/run")

    found = client.simulate_get("/api/v1/stats/schedules").json

    assert (found["active"], found["paused"], found["overdue"], found["fired"]) == (2, 1, 0, 1)
    assert found["next_schedule"] == "hourly_report"
    assert found["late_ms"] == {"p50": None, "p95": None, "max": None}


def test_a_full_queue_takes_no_run_of_a_schedule(client: TestClient) -> None:
    client.simulate_post("/api/v1/queues", json={"name": "processing", "max_size": 1})
    make(client, **HOURLY)
    assert client.simulate_post(f"{SCHEDULES}/hourly_report/run").status_code == 202

    full = client.simulate_post(f"{SCHEDULES}/hourly_report/run")

    assert (full.status_code, full.json["code"]) == (429, "queue_full")
    assert client.simulate_get(f"{SCHEDULES}/hourly_report").json["fired"] == 1
