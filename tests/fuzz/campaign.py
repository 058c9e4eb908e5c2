"""One campaign: a prefilled Callboard, schemathesis with all of its checks, and what came of it."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from tests.fuzz import hooks
from tests.support.deployment import REPOSITORY, Deployment

TASKS = "/api/v1/tasks"
#: Half of the ids and names are of things that exist: else nearly everything would be answered with 404.
HITS = 0.5
CHECKS_OF_LIFE = 3
#: Its long tasks need not be waited for when it stops.
ENVIRONMENT = {"CALLBOARD_ACTORS": "tests.support.spec_actors", "CALLBOARD_DRAIN_SECONDS": "1"}


class Outcome(NamedTuple):
    """What a campaign found: the number of requests it made, whether all checks held, and its report."""

    cases: int
    is_clean: bool
    report: str


def campaign(running: Deployment, *, examples: int, seed: int, phases: str = "") -> Outcome:
    """Fuzz every operation with at most ``examples`` requests a phase; the same seed asks the same again."""
    with tempfile.TemporaryDirectory(prefix="callboard-fuzz-") as folder:
        config = Path(folder) / "schemathesis.toml"
        names = known_names(running)
        config.write_text(_config(names, examples, seed))
        report = Path(folder) / "report.json"
        command = ["-m", "schemathesis.cli", "--config-file", str(config), "run"]
        options = ["--checks", "all", "--report", "json", "--report-json-path", str(report)]
        options += ["--phases", phases] if phases else []
        environ = {"PYTHONPATH": str(REPOSITORY), "SCHEMATHESIS_HOOKS": hooks.__name__}
        environ[hooks.OVER_VARIABLE] = ",".join(names["over"])
        run = subprocess.run(
            [sys.executable, *command, f"{running.url}/openapi.json", *options],
            check=False,
            cwd=folder,
            env={**os.environ, **environ},
            capture_output=True,
            text=True,
        )
        told = run.stdout + run.stderr
        if not report.exists():
            return Outcome(0, False, told)
        found = json.loads(report.read_text())["test_cases"]["generated"]
        # Whatever it was sent, the server still does its work.
        is_well = all(_answers(running) for _ in range(CHECKS_OF_LIFE))
        return Outcome(found, run.returncode == 0 and is_well, told)


def prefill(running: Deployment) -> None:
    """Tasks of every state, a knowledge base and a document, so that made-up requests hit something."""
    orders: list[dict[str, Any]] = [
        {"task_type": "test", "payload": {"number": 1}},
        {"task_type": "fail", "payload": {"permanent": True}},
        {"task_type": "fail", "payload": {}, "backoff": {"kind": "fixed", "base": 3_600}},
        {"task_type": "sleep", "payload": {"seconds": 3_600}},
        {"task_type": "test", "delay": 86_400},
        {"task_type": "content_generation", "payload": {"topic": "a checkpoint"}},
    ]
    made = [running.http.post(TASKS, json=order).json()["task_id"] for order in orders * 3]
    blocked = {"task_type": "test", "depends_on": [made[3]]}
    running.http.post(TASKS, json=blocked).raise_for_status()
    running.http.post(f"{TASKS}/{made[9]}/cancel").raise_for_status()
    webhook = {"url": "https://hooks.example/", "filter": {"tag": "nobody"}}
    running.http.post("/api/v1/webhooks", json=webhook).raise_for_status()
    base = running.http.post("/api/v1/knowledge-bases", json={"kb_id": "fuzzed"})
    if base.status_code == 201:
        text = {"name": "a.txt", "text": "Whoever signs on Tuesday pays on Friday."}
        answer = running.http.post("/api/v1/knowledge-bases/fuzzed/documents", json=text).json()
        running.wait_for_task(answer["task_id"])
        # The first search loads the model.
        running.http.get("/api/v1/knowledge-bases/fuzzed/search", params={"q": "Tuesday"}, timeout=60)
    for name in ("default", "processing"):
        schedule = {"name": name, "task_type": "test", "cron_expr": "@yearly"}
        running.http.post("/api/v1/scheduled-tasks", json=schedule)
    for task_id in (made[0], made[1]):
        running.wait_for_task(task_id)
    replay = {"filter": {"task_type": "fail"}, "limit": 1, "rate": 0.001}
    running.http.post("/api/v1/dead-letters/replay", json=replay).raise_for_status()


def known_names(running: Deployment) -> dict[str, list[str]]:
    """What there is, by kind."""
    tasks = running.http.get(TASKS, params={"limit": 100}).json()["tasks"]
    letters = running.http.get("/api/v1/dead-letters").json()["dead_letters"]
    replays = running.http.get("/api/v1/dead-letters/replays").json()["replays"]
    documents = running.http.get("/api/v1/knowledge-bases/fuzzed/documents").json().get("documents", [])
    webhooks = running.http.get("/api/v1/webhooks").json()["webhooks"]
    return {
        "webhooks": [one["webhook_id"] for one in webhooks],
        "tasks": [task["task_id"] for task in tasks],
        "over": [task["task_id"] for task in tasks if task["status"] in ("completed", "failed")],
        "documents": [one["document_id"] for one in documents] or ["none"],
        "letters": [one["dead_letter_id"] for one in letters],
        "replays": [one["replay_id"] for one in replays],
        "bases": ["fuzzed"],
        "types": ["test", "benchmark"],
        "names": ["document_processing", "default", "processing"],
        "crons": ["0 3 * * *", "*/5 8-18 * * mon-fri", "@monthly"],
        "zones": ["UTC", "Europe/Berlin"],
    }


def _config(names: dict[str, list[str]], examples: int, seed: int) -> str:
    bindings = {
        "path.task_id": "tasks",
        "path.document_id": "documents",
        "path.letter_id": "letters",
        "path.replay_id": "replays",
        "path.kb_id": "bases",
        "path.webhook_id": "webhooks",
        "path.name": "names",
        "body.task_type": "types",
        "body.type": "types",
        "body.cron_expr": "crons",
        "body.timezone": "zones",
    }
    # How quick things are is measured elsewhere, on a machine that does nothing else.
    lines = [
        f"seed = {seed}",
        "continue-on-failure = true",
        "request-timeout = 30.0",
        "max-stream-events = 20",
        'suppress-health-check = ["too_slow"]',
    ]
    lines += ["[generation]", f"max-examples = {examples}"]
    for name, values in names.items():
        lines += [f"[dictionaries.{name}]", f"values = {json.dumps(values)}"]
    lines += ["[checks]", "max_response_time = 60.0"]
    lines.append("[parameters]")
    lines += [
        f'"{where}" = {{ dictionary = "{name}", probability = {HITS} }}' for where, name in bindings.items()
    ]
    return "\n".join(lines) + "\n"


def _answers(running: Deployment) -> bool:
    """Whether a task is still accepted and done."""
    began = time.monotonic()
    try:
        task_id = running.http.post(TASKS, json={"task_type": "benchmark"}).json()["task_id"]
        done = running.wait_for_task(task_id)["status"] == "completed"
    except (httpx.HTTPError, KeyError):
        return False
    return done and time.monotonic() - began < 60
