"""The command line: what people and programs get from ``callboard``."""

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import httpx
import pytest
from click.testing import CliRunner, Result

from api.cli import main
from api.cli.search import query_words, snippet
from tests.support.answers import (
    DOCUMENT_ID,
    TASK_ID,
    Documents,
    Script,
    event,
    problem,
    status,
    stream,
    task,
    told,
)

Handler = Callable[[httpx.Request], httpx.Response]
HIT = {
    "text": "The cat sat on the mat.",
    "score": 0.75,
    "document_id": DOCUMENT_ID,
    "name": "cats.md",
    "heading_path": ["Animals", "Cats"],
    "start": 0,
    "end": 23,
}
LINE = {
    "event_id": 7,
    "level": "warning",
    "logger": "mine",
    "message": "[red]careful",
    "timestamp": "2026-01-02T03:04:05Z",
    "attempt": 1,
}


def call(server: Handler, *arguments: str, **options: str) -> Result:
    transport = httpx.MockTransport(server)
    return CliRunner().invoke(main, arguments, obj=transport, **options)  # type: ignore[arg-type]


def ok(value: object) -> httpx.Response:
    return httpx.Response(200, json=value)


def test_help_lists_every_command_without_importing_any() -> None:
    # Given a fresh interpreter
    program = (
        "import sys; from api.cli import main; main(['--help'], standalone_mode=False);"
        "sys.exit(any(name in sys.modules for name in ('httpx', 'rich', 'dramatiq', 'falcon', 'peewee')))"
    )
    # When help is shown, then nothing heavy was imported and all commands are there
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("up", "worker", "submit", "tasks", "queues", "kb", "ingest", "search"):
        assert f"\n  {command} " in done.stdout


def test_the_version_is_shown() -> None:
    assert "callboard" in CliRunner().invoke(main, ["--version"]).stdout


def test_a_task_is_submitted_and_its_id_shown() -> None:
    server = Script(httpx.Response(202, json=task()))
    done = call(server, "submit", "sleep", "--payload", '{"seconds": 1}', "--priority", "8", "--tag", "a")
    assert (done.exit_code, done.stdout) == (0, f"{TASK_ID}  queued\n")
    body = json.loads(server.requests[0].content)
    assert body == {"task_type": "sleep", "payload": {"seconds": 1}, "priority": 8, "tags": ["a"]}


def test_a_payload_may_come_from_stdin() -> None:
    server = Script(httpx.Response(202, json=task()))
    call(server, "submit", "test", "--file", "-", input='{"a": 1}')
    assert json.loads(server.requests[0].content)["payload"] == {"a": 1}


def test_a_payload_that_is_not_json_is_refused_in_one_line() -> None:
    done = call(Script(), "submit", "test", "--payload", "{a:1}")
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: --payload is not JSON")
    assert done.stderr.count("\n") == 1


def test_following_a_task_that_fails_ends_with_one_and_shows_its_error() -> None:
    # Given a task that fails
    failed = task(status="failed", error={"code": "actor_error", "message": "no luck"})
    server = Script(
        httpx.Response(202, json=task()),
        stream(told(1, "snapshot", status("queued")), told(2, "state", event(2, "state", None, "failed"))),
        ok(failed),
    )
    # When it is submitted and followed
    done = call(server, "submit", "fail", "--follow")
    # Then people see why
    assert done.exit_code == 1
    assert "actor_error: no luck" in done.stdout


def test_for_programs_each_event_is_a_line_of_json_and_the_last_one_the_whole_task() -> None:
    server = Script(
        httpx.Response(202, json=task()),
        stream(
            told(1, "snapshot", status("running")),
            told(2, "log", event(2, "log", data={"level": "info"})),
            told(3, "state", event(3, "state", 100, "completed")),
        ),
        ok(task(status="completed", result=1)),
    )
    done = call(server, "submit", "test", "--follow", "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["event"] for line in lines] == ["snapshot", "log", "state", "task"]
    assert lines[-1]["data"]["result"] == 1
    assert {line["task_id"] for line in lines} == {TASK_ID}


def test_without_a_terminal_a_task_is_watched_in_plain_lines() -> None:
    # Given a task that makes progress and logs
    details = {"step": "climb", "steps_done": 1, "steps_total": 2}
    server = Script(
        stream(
            told(2, "snapshot", status("running")),
            told(3, "progress", event(3, "progress", 50, phase="climb", message="half", data=details)),
            told(4, "log", event(4, "log", message="a \x1b[2Jline", data={"level": "warning"})),
            told(5, "state", event(5, "state", 100, "completed")),
        ),
        ok(task(status="completed")),
    )
    # When it is watched, then each event is a line
    done = call(server, "tasks", "watch", TASK_ID)
    assert done.exit_code == 0
    assert done.stderr.splitlines() == [
        "  0%  running",
        " 50%  climb 1/2  half",
        "      warning  a [2Jline",
        "100%  completed 1/2  half",
    ]
    assert TASK_ID in done.stdout


def test_why_a_task_is_tried_again_is_shown_until_it_runs() -> None:
    server = Script(
        stream(
            told(2, "snapshot", status("running")),
            told(3, "state", event(3, "state", None, "retrying", message="RuntimeError: not yet")),
            told(4, "state", event(4, "state", None, "running")),
            told(5, "state", event(5, "state", 100, "completed")),
        ),
        ok(task(status="completed")),
    )

    done = call(server, "tasks", "watch", TASK_ID)

    assert done.stderr.splitlines() == [
        "  0%  running",
        "  0%  retrying  RuntimeError: not yet",
        "  0%  running",
        "100%  completed",
    ]


def test_several_tasks_are_watched_at_once() -> None:
    # Given two tasks, of which one fails
    other = TASK_ID[:-1] + "2"
    ends = {TASK_ID: "completed", other: "failed"}

    def server(request: httpx.Request) -> httpx.Response:
        task_id = next(one for one in ends if one in request.url.path)
        if not request.url.path.endswith("/stream"):
            return ok(task(task_id=task_id, status=ends[task_id]))
        end = told(2, "state", event(2, "state", None, ends[task_id]))
        return stream(told(1, "snapshot", status("running", task_id=task_id)), end)

    # Then both are shown to their end, and the failure counts
    done = call(server, "tasks", "watch", TASK_ID, other)
    assert done.exit_code == 1
    assert f"{TASK_ID}    0%  completed" in done.stderr
    assert f"{other}    0%  failed" in done.stderr


def test_tasks_are_listed_with_whole_ids() -> None:
    page = {"tasks": [task(task_type="[red]x")], "total": 10_000, "total_is_exact": False, "next_cursor": "c"}
    server = Script(ok(page))
    done = call(server, "tasks", "list", "--status", "failed", "--status", "queued")
    assert server.requests[0].url.params["status"] == "failed,queued"
    assert TASK_ID in done.stdout
    assert "[red]x" in done.stdout
    assert "more than 10,000 tasks" in done.stdout
    assert "--cursor c" in done.stdout


def test_a_task_is_shown_with_its_history_its_errors_and_its_log() -> None:
    event = {"event_id": 1, "kind": "state", "phase": None, "progress": None, "message": "hello"}
    history = {"history": [event | {"status": "queued", "timestamp": "2026-01-02T03:04:05Z"}]}
    attempt = {
        "attempt": 1,
        "outcome": "error",
        "status": "failed",
        "traceback": "Traceback\x1b[2J",
        "worker": None,
    }
    attempt |= {"error": {"code": "actor_error", "message": "no luck"}}
    attempt |= {"started_at": None, "ended_at": None, "duration_ms": None}
    graph = {"nodes": [], "edges": [], "truncated": False, "run": None}
    server = Script(ok(task()), ok(history), ok({"attempts": [attempt]}), ok({"logs": [LINE]}), ok(graph))
    done = call(server, "tasks", "show", TASK_ID)
    assert "task_type" in done.stdout
    assert "hello" in done.stdout
    assert "attempt 1  actor_error: no luck\nTraceback" in done.stdout
    assert "WARNING   [red]careful" in done.stdout
    assert "\x1b" not in done.stdout


def stage_of_run(name: str, status: str, **more: Any) -> dict[str, Any]:
    nothing = {"started_at": None, "completed_at": None, "wait_reason": None, "error": None}
    counts = dict.fromkeys(("tasks", "completed", "failed", "running", "waiting"), 0)
    times = {"duration_ms": 0.0, "expected_ms": None, "total": None}
    place = {"stage": name, "task_type": f"book.{name}", "queue_name": "default", "status": status}
    return place | nothing | counts | times | more


def test_a_run_is_drawn_by_its_stages() -> None:
    # Given a run in the middle of a map, with a choice ahead
    stages = [
        stage_of_run("write", "completed", tasks=1, completed=1, duration_ms=1_500.0),
        stage_of_run("read", "running", tasks=256, completed=100, running=8, waiting=148, total=1_000),
        stage_of_run("is_long", "pending", expected_ms=2_000.0),
        stage_of_run("shorten", "skipped"),
        stage_of_run("print", "queued", tasks=1, waiting=1, wait_reason="no worker for its queue"),
    ]
    pairs = [("write", "read", "map"), ("read", "is_long", "next"), ("is_long", "shorten", "then")]
    pairs += [("is_long", "print", "otherwise"), ("shorten", "print", "next")]
    run = {
        "run_id": TASK_ID,
        "pipeline": "book",
        "version": "2-0badcafe",
        "status": "running",
        "progress": 40.0,
        "estimated_completion": None,
        "stages": stages,
        "edges": [dict(zip(("source", "target", "kind"), pair, strict=True)) for pair in pairs],
    }
    graph = {"nodes": [], "edges": [], "truncated": False, "run": run}
    server = Script(ok(task()), ok({"history": []}), ok({"attempts": []}), ok({"logs": []}), ok(graph))

    # When it is shown
    done = call(server, "tasks", "show", TASK_ID)

    # Then each stage has a line that says how it is, and where it comes from if that is not the one above
    assert "book version 2  40%" in done.stdout
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "✓ write completed 1.5 s" in lines
    assert "▶ read running 100/1000 0.0 s for each of write" in lines
    assert "○ is_long pending ~ 2.0 s" in lines
    assert "− shorten skipped if is_long" in lines
    assert "◦ print queued waits: no worker for its queue" in lines


def test_the_log_of_a_task_is_shown_alone() -> None:
    done = call(Script(ok({"logs": [LINE]})), "tasks", "logs", TASK_ID)
    assert done.stdout.endswith("  WARNING   [red]careful\n")
    done = call(Script(ok({"logs": [LINE]})), "tasks", "logs", TASK_ID, "--json")
    assert json.loads(done.stdout)["logs"][0]["level"] == "warning"


def test_several_tasks_are_cancelled() -> None:
    server = Script(*[httpx.Response(202, json={}), ok(task(status="cancelled"))] * 2)
    done = call(server, "tasks", "cancel", TASK_ID, TASK_ID)
    assert done.stdout == f"{TASK_ID}  cancelled\n" * 2


def outcome(**counts: Any) -> httpx.Response:
    whole = {"matched": 3, "eligible": 2, "skipped": {"completed": 1}, "dry_run": False, "more": False}
    return ok(whole | counts)


def test_tasks_are_retried_recovered_and_deleted_by_their_ids() -> None:
    accepted = httpx.Response(202, json=task())
    server = Script(accepted, accepted, accepted, httpx.Response(204))
    assert call(server, "tasks", "retry", TASK_ID).stdout == f"{TASK_ID}  queued\n"
    call(server, "tasks", "recover", TASK_ID, "--mode", "stage", "--stage", "embed", "--output", "[1]")
    assert json.loads(server.requests[1].content) == {"mode": "stage", "stage": "embed", "output": [1]}
    done = call(server, "tasks", "delete", TASK_ID, TASK_ID)
    assert done.stdout == f"{TASK_ID}  queued\n{TASK_ID}  deleted\n"
    assert [request.method for request in server.requests[2:]] == ["DELETE"] * 2


def test_all_tasks_that_match_are_retried_until_there_are_no_more() -> None:
    server = Script(outcome(retried=2, more=True), outcome(retried=1))
    done = call(server, "tasks", "retry", "--status", "failed", "--status", "queued", "--type", "mail")
    assert done.stdout == "3 tasks retried.\n1 task skipped: completed\n"
    assert json.loads(server.requests[1].content) == {
        "filter": {"status": "failed,queued", "task_type": "mail"},
        "dry_run": False,
    }


def test_a_dry_run_says_what_it_would_be() -> None:
    done = call(Script(outcome(cancelled=0, dry_run=True)), "tasks", "cancel", "--tag", "a", "--dry-run")
    assert done.stdout == "2 tasks would be cancelled.\n1 task skipped: completed\n"


def test_old_tasks_are_pruned() -> None:
    server = Script(outcome(deleted=2))
    done = call(server, "tasks", "prune", "--older-than", "30", "--status", "completed", "--json")
    body = json.loads(server.requests[0].content)
    assert server.requests[0].url.path == "/api/v1/tasks/delete"
    assert body["filter"]["status"] == "completed"
    age = datetime.now(UTC) - datetime.fromisoformat(body["filter"]["created_before"])
    assert age.days == 30
    assert json.loads(done.stdout)["deleted"] == 2


@pytest.mark.parametrize("arguments", [(), ("--dry-run",), (TASK_ID, "--tag", "a")])
def test_which_tasks_are_meant_must_be_said_in_one_way(arguments: tuple[str, ...]) -> None:
    done = call(Script(), "tasks", "delete", *arguments)
    assert done.exit_code == 2
    assert "options that say which tasks are meant" in done.stderr


def test_documents_are_ingested_and_counted_for_programs(tmp_path: Path) -> None:
    # Given a folder of two documents, of which one fails
    for name in ("a.md", "b.md"):
        (tmp_path / name).write_text("text")
    results = {"a.md": {"version": 1, "embedded": 2}, "b.md": {"code": "empty_document", "message": "Empty."}}
    # When it is ingested
    done = call(Documents(results), "ingest", str(tmp_path), "--kb", "kb", "--no-create", "--json")
    # Then the report says so, and so does the exit code
    report = json.loads(done.stdout)
    assert (report["new"], report["failed"], report["embedded"]) == (1, 1, 2)
    assert done.stderr == ""
    assert done.exit_code == 1


def test_archives_and_urls_are_ingested_like_files(tmp_path: Path) -> None:
    # Given an archive with a document and a picture, and a URL
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("docs/a.md", "text")
        archive.writestr("photo.jpg", "light")
    server = Documents({"docs/a.md": {"version": 1}, "b.md": {"version": 2}})
    given = [str(tmp_path / "a.zip"), "https://example.com/b.md?key=secret"]
    # When they are ingested
    done = call(server, "ingest", *given, "--kb", "kb", "--no-create", "--json")
    # Then both are counted, and so is what was left out
    report = json.loads(done.stdout)
    assert (report["new"], report["changed"], report["skipped"]["unsupported"]) == (1, 1, 1)
    assert [one["path"] for one in report["documents"]] == [
        f"{given[0]}/docs/a.md",
        "https://example.com/b.md",
    ]


def test_without_a_terminal_ingest_writes_a_line_for_each_document(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("text")
    server = Documents({"a.md": {"version": 1, "chunks": 2, "embedded": 2}})
    done = call(server, "ingest", str(tmp_path), "--kb", "kb", "--no-create")
    assert done.exit_code == 0
    assert "[1/1] ✓ new        a.md  2 chunks, 2 embedded" in done.stderr
    assert "2 chunks embedded, 0 reused" in done.stdout


def test_hits_are_shown_with_document_headings_and_score() -> None:
    server = Script(ok({"hits": [HIT]}))
    done = call(server, "search", "kb", "where", "is", "the", "cat?")
    assert server.requests[0].url.params["q"] == "where is the cat?"
    assert "1. cats.md › Animals › Cats  0.750" in done.stdout
    assert "The cat sat on the mat." in done.stdout


def test_a_knowledge_base_is_created_with_the_embedder_asked_for() -> None:
    server = Script(ok({"kb_id": "kb", "name": "Wines", "embedder": "fast"}))
    assert call(server, "kb", "create", "Wines", "--embedder", "fast").stdout == "kb\n"
    assert server.requests[0].content == b'{"name":"Wines","embedder":"fast"}'
    assert "--embedder" in call(Script(), "kb", "create", "Wines", "--embedder", "word2vec").stderr


def test_a_knowledge_base_is_embedded_anew_and_that_can_be_followed() -> None:
    server = Script(ok({"task_id": TASK_ID}))
    assert call(server, "kb", "reembed", "kb", "--embedder", "fast").stdout == f"{TASK_ID}\n"
    assert server.requests[0].url.path == "/api/v1/knowledge-bases/kb/reembed"
    assert server.requests[0].content == b'{"embedder":"fast"}'

    ended = stream(told(2, "snapshot", status("failed")), told(3, "state", status("failed")))
    server = Script(ok({"task_id": TASK_ID}), ended, ok(task(status="failed")))
    done = call(server, "kb", "reembed", "kb", "--embedder", "http", "--follow")
    assert (done.exit_code, TASK_ID in done.stderr) == (1, True)


def test_a_knowledge_base_is_deleted_only_after_a_yes() -> None:
    server = Script(ok({"kb_id": "kb", "name": "kb", "documents": 3}))
    done = call(server, "kb", "delete", "kb", input="n\n")
    assert "3 documents" in done.stderr
    assert len(server.requests) == 1


def test_an_error_is_one_line_on_stderr() -> None:
    done = call(Script(problem(404, "not_found", "There is no task x.")), "tasks", "show", "x")
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", "Error: There is no task x (404)\n")


def test_ctrl_c_ends_with_130_and_no_traceback() -> None:
    def interrupted(_: httpx.Request) -> httpx.Response:
        raise KeyboardInterrupt

    done = call(interrupted, "tasks", "show", TASK_ID)
    assert (done.exit_code, done.stderr) == (130, "Interrupted.\n")


def test_the_url_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLBOARD_URL", "http://elsewhere.test:1")
    server = Script(ok({"knowledge_bases": []}))
    call(server, "kb", "list")
    assert str(server.requests[0].url).startswith("http://elsewhere.test:1/api/v1/")


def test_without_a_url_it_is_the_server_that_these_settings_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLBOARD_PORT", "8123")
    server = Script(ok({"knowledge_bases": []}))
    call(server, "kb", "list")
    assert str(server.requests[0].url).startswith("http://127.0.0.1:8123/api/v1/")


def test_what_a_document_holds_cannot_steer_the_terminal() -> None:
    server = Script(ok({"hits": [HIT | {"text": "a\x1b[2Jb [bold]c"}]}))
    assert "a[2Jb [bold]c" in call(server, "search", "kb", "x").stdout


def test_a_snippet_is_cut_around_the_words_of_the_question() -> None:
    text = "nothing here " * 100 + "the needle is sharp " + "nothing there " * 100
    piece = snippet(text, query_words("Where is the needle?"), 120)
    assert "needle" in piece
    assert len(piece) <= 122


def test_chinese_words_are_looked_for_in_pairs_and_common_words_not_at_all() -> None:
    assert query_words("What is 跨域资源 in MPI?") == ["跨域", "域资", "资源", "mpi"]


def test_commands_are_commands() -> None:
    context = click.Context(main)
    assert isinstance(main.get_command(context, "tasks"), click.Group)
    assert main.get_command(context, "nonsense") is None


# --- queues ----------------------------------------------------------------------------------------

MAIL = {
    "name": "mail",
    "concurrency": 3,
    "rate_limit": {"limit": 10, "per_seconds": 60.0, "burst": 10},
    "max_size": 1_000,
    "paused": True,
    "created_at": "2026-01-01T00:00:00Z",
    "updated_at": "2026-01-01T00:00:00Z",
}
IN_MAIL = {
    "name": "mail",
    "queued": 2,
    "running": 1,
    "scheduled": 3,
    "retrying": 1,
    "blocked": 2,
    "completed": 5,
    "failed": 4,
    "dead": 4,
    "size": 8,
    "capacity": 1_000,
    "concurrency": 3,
    "paused": True,
    "oldest_age_s": 61.0,
    "throughput": 0.5,
    "wait_ms": {"p50": 5.0, "p95": 9.0},
    "run_ms": {"p50": None, "p95": None},
}


def test_queues_are_listed_with_their_settings() -> None:
    done = call(Script(ok({"queues": [MAIL], "total": 1})), "queues", "list")

    assert done.exit_code == 0
    for text in ("mail", "3", "10 in 60 s", "1,000", "paused"):
        assert text in done.stdout


def test_a_queue_is_created_with_the_settings_that_are_given() -> None:
    server = Script(httpx.Response(201, json=MAIL))

    done = call(server, "queues", "create", "mail", "--concurrency", "3", "--rate", "10")

    assert done.exit_code == 0
    body = json.loads(server.requests[0].content)
    assert body == {"name": "mail", "concurrency": 3, "rate_limit": {"limit": 10}}
    assert call(server, "queues", "create", "mail", "--burst", "3").exit_code == 2


def test_a_queue_is_changed_by_what_is_given_and_none_takes_a_limit_away() -> None:
    server = Script(ok(MAIL))

    done = call(server, "queues", "set", "mail", "--concurrency", "none", "--rate", "5", "--burst", "9")

    assert done.exit_code == 0
    assert (server.requests[0].method, server.requests[0].url.path) == ("PATCH", "/api/v1/queues/mail")
    assert json.loads(server.requests[0].content) == {
        "concurrency": None,
        "rate_limit": {"limit": 5, "burst": 9},
    }
    for wrong in (["--burst", "3"], [], ["--rate", "many"], ["--rate", "none", "--burst", "3"]):
        assert call(server, "queues", "set", "mail", *wrong).exit_code == 2


@pytest.mark.parametrize("verb", ["pause", "resume"])
def test_a_queue_is_paused_and_resumed(verb: str) -> None:
    server = Script(ok(MAIL), ok(MAIL))

    done = call(server, "queues", verb, "mail")
    as_json = call(server, "queues", verb, "mail", "--json")

    assert (done.exit_code, json.loads(as_json.stdout)["name"]) == (0, "mail")
    assert (server.requests[0].method, server.requests[0].url.path) == ("POST", f"/api/v1/queues/mail/{verb}")


def test_a_queue_is_deleted() -> None:
    server = Script(httpx.Response(204))

    done = call(server, "queues", "delete", "mail")

    assert (done.exit_code, server.requests[0].method) == (0, "DELETE")


def test_a_queue_is_shown_with_what_is_in_it() -> None:
    done = call(Script(ok(MAIL), ok(IN_MAIL)), "queues", "show", "mail")

    assert done.exit_code == 0
    assert "mail: concurrency 3, 10 in 60 s, room for 1,000, paused" in done.stdout
    assert "2 queued" in done.stdout
    assert "the oldest waits for 1 min 1 s" in done.stdout
    assert "waited 5 ms (95%: 9 ms), ran ?" in done.stdout


def test_a_queue_and_its_statistics_are_one_document_for_programs() -> None:
    done = call(Script(ok(MAIL), ok(IN_MAIL)), "queues", "show", "mail", "--json")

    assert json.loads(done.stdout)["stats"]["wait_ms"] == {"p50": 5.0, "p95": 9.0}
