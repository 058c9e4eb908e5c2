"""The example of a user's own package: its tests pass, and it is served as its README says."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping

import pytest

from tests.support.deployment import REPOSITORY, Deployment, deployment

EXAMPLE = REPOSITORY / "deploy" / "example"
PATH = f"{REPOSITORY}{os.pathsep}{EXAMPLE}"
PROGRAM = """
from actors import connect, count, list_tasks, submit, wait
from newsroom import content_generation, newsletter

with connect() as board:
    run = submit(newsletter, {"title": "Weekly", "topics": ["tea", "cake"]})
    article = submit(content_generation, {"topic": "tea", "length": 50}, priority="high")
    print(wait(run.task_id, 30).result["newsletter"].splitlines()[0])
    print(len(wait(article.task_id, 30).result["content"]))
    print(count(status="completed") >= 2, list_tasks(task_type="newsletter").tasks[0].task_id == run.task_id)
"""


def python(*arguments: str, environ: Mapping[str, str]) -> str:
    """What a Python process says that ends well."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=EXAMPLE,
        env={**os.environ, "PYTHONPATH": PATH, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def newsroom() -> Iterator[Deployment]:
    """Callboard on its defaults, serving the example."""
    with deployment({"CALLBOARD_ACTORS": "newsroom", "PYTHONPATH": PATH}) as running:
        yield running


def test_its_own_tests_pass_without_a_server() -> None:
    said = python("-m", "pytest", "-p", "no:cacheprovider", "-c", os.devnull, "test_newsroom.py", environ={})

    assert "7 passed" in said


def test_it_works_over_http(newsroom: Deployment) -> None:
    # When one task of each type is submitted
    asked = {
        "content_generation": {"topic": "AI技术发展趋势", "style": "专业深度", "length": 2000},
        "video_processing": {"source": "tea.mp4"},
        "hotspot_monitor": {},
        "sync_assets": {"provider": "aliyun", "asset_types": ["ecs"], "regions": ["cn-shenzhen"]},
        "newsletter": {"title": "Weekly", "topics": ["tea", "cake"]},
    }
    answers = {
        task_type: newsroom.http.post("/api/v1/tasks", json={"task_type": task_type, "payload": payload})
        for task_type, payload in asked.items()
    }

    # Then all are accepted, and done.
    assert {answer.status_code for answer in answers.values()} == {202}
    done = {name: newsroom.wait_for_task(answer.json()["task_id"]) for name, answer in answers.items()}
    assert {task["status"] for task in done.values()} == {"completed"}, done
    assert done["sync_assets"]["result"] == {"total_count": 2, "added_count": 2, "updated_count": 0}
    assert "All about cake." in str(done["newsletter"]["result"])


def test_a_payload_that_does_not_fit_is_refused_with_its_field(newsroom: Deployment) -> None:
    body = {"task_type": "content_generation", "payload": {"topic": "", "length": 10}}

    answer = newsroom.http.post("/api/v1/tasks", json=body)

    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "payload.topic")


def test_it_works_from_python_without_http(newsroom: Deployment) -> None:
    # When a program on the same data folder submits and waits
    environ = {
        "CALLBOARD_ACTORS": "newsroom",
        "CALLBOARD_DATA_DIR": str(newsroom.log.parent / "data"),
    }
    said = python("-c", PROGRAM, environ=environ)

    # Then it has its results, and nobody has asked the API.
    assert said.splitlines() == ["# Weekly", "50", "True True"]
