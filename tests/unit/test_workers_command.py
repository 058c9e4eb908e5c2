"""``callboard workers`` and the client's view of a deployment."""

import json
from typing import Any

import click
import httpx
import pytest
from click.testing import CliRunner, Result

from api.cli import main
from api.client import ApiError, Client
from tests.support.answers import TASK_ID, Script, problem

WHEN = "2026-01-02T03:04:05Z"
FIGURES = ("queued", "running", "scheduled", "retrying", "blocked", "dead", "size")
QUEUE = {
    **dict.fromkeys((*FIGURES, "completed", "failed"), 1),
    "capacity": None,
    "concurrency": 5,
    "paused": False,
    "oldest_age_s": 2.5,
    "throughput": 0.5,
    "wait_ms": {"p50": 1.0, "p95": 2.0},
    "run_ms": {"p50": None, "p95": None},
}


def process(kind: str = "worker", pid: int = 100, **fields: Any) -> dict[str, Any]:
    """A process as the API shows it."""
    whole: dict[str, Any] = {"id": TASK_ID, "kind": kind, "host": "stage", "pid": pid, "version": "1"}
    whole |= {"queues": [], "types": [], "threads": 0, "busy": 0, "idle": 0, "running": []}
    whole |= {"memory_bytes": 71_000_000, "cpu_seconds": 12.3, "started_at": WHEN, "heartbeat_age_s": 1.2}
    return whole | fields


def running(task_type: str) -> dict[str, Any]:
    return {"task_id": TASK_ID, "task_type": task_type, "since": WHEN}


def page(plural: str, items: list[dict[str, Any]], cursor: str | None = None, **more: Any) -> httpx.Response:
    answer = {plural: items, "total": len(items), "total_is_exact": True, "next_cursor": cursor, **more}
    return httpx.Response(200, json=answer)


def call(server: Script, *arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, obj=httpx.MockTransport(server))


def client(server: Script) -> Client:
    return Client("http://server", transport=httpx.MockTransport(server))


BUSY = process(
    queues=["default", "mail"],
    threads=8,
    busy=3,
    idle=5,
    running=[running("letter"), running("report"), running("letter")],
)


def test_people_see_a_table_of_who_is_at_work() -> None:
    # Given a worker that runs three tasks, an API and a clock
    server = Script(page("workers", [process("api", 1), process("clock", 2), BUSY]))
    # When they are shown
    done = call(server, "workers")
    # Then there is a line for each, and a sum
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].split()[:4] == ["KIND", "HOST", "PID", "QUEUES"]
    assert [line.split()[0] for line in lines[1:4]] == ["api", "clock", "worker"]
    for word in ("default, mail", "3/8", "letter x2, report", "71 MB", "12 s", "1.2 s ago"):
        assert word in lines[3]
    assert lines[4] == "1 api, 1 clock, 1 worker; 3 of 8 threads are busy"


def test_programs_get_one_document() -> None:
    done = call(Script(page("workers", [BUSY])), "workers", "--json")
    assert json.loads(done.stdout)["workers"] == [BUSY]


def test_names_cannot_steer_the_terminal() -> None:
    done = call(Script(page("workers", [process(host="a\x1b[2Jb")])), "workers")
    assert "a[2Jb" in done.stdout
    assert "\x1b" not in done.stdout


def test_without_processes_it_says_so() -> None:
    done = call(Script(page("workers", [])), "workers")
    assert "no processes" in done.stdout


def test_who_is_no_administrator_is_told() -> None:
    server = Script(problem(403, "forbidden", "This is for administrators."))
    done = call(server, "workers")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: ")


def test_the_client_reads_all_pages() -> None:
    # Given more processes than fit into a page
    server = Script(page("workers", [process(pid=1)], "next"), page("workers", [process(pid=2)]))
    # When they are read, then the second page is asked for by the cursor of the first
    with client(server) as callboard:
        assert [one.pid for one in callboard.workers()] == [1, 2]
    assert [request.url.params.get("cursor") for request in server.requests] == [None, "next"]


def test_the_client_reads_queues_with_their_totals() -> None:
    totals = {**dict.fromkeys(FIGURES, 2), "oldest_age_s": 2.5}
    queues = [{"name": name, **QUEUE} for name in ("alpha", "beta")]
    server = Script(
        page("queues", queues[:1], "next", totals=totals), page("queues", queues[1:], totals=totals)
    )
    with client(server) as callboard:
        found, sums = callboard.stats_of_queues()
    assert [one.name for one in found] == ["alpha", "beta"]
    assert (sums.queued, sums.oldest_age_s) == (2, 2.5)


def test_a_refusal_is_an_error_of_the_client() -> None:
    with (
        client(Script(problem(403, "forbidden", "This is for administrators."))) as callboard,
        pytest.raises(ApiError),
    ):
        callboard.workers()


def test_the_command_is_in_the_help() -> None:
    assert "workers" in main.list_commands(click.Context(main))
