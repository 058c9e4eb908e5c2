"""Documents that cannot be read or fetched end as failed tasks with a clear code, and the worker goes on."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.support.deployment import Deployment
from tests.support.hostile import hostile_files
from tests.support.memory import MEBIBYTE, Memory, watching
from tests.support.waiting import eventually
from tests.support.web import Site, answer, site

CASES = {what: file for what, file in hostile_files().items() if not file.slow}


@pytest.fixture(scope="module")
def kb(embedded: Deployment) -> str:
    embedded.http.post("/api/v1/knowledge-bases", json={"kb_id": "hostile", "name": "hostile"})
    return "/api/v1/knowledge-bases/hostile"


@pytest.fixture(scope="module")
def web() -> Iterator[Site]:
    with site() as running:
        yield running


@pytest.fixture(scope="module")
def memory(embedded: Deployment, kb: str) -> Iterator[Memory]:
    """How much the workers hold together with their converters, from when all have embedded something."""
    numbers = count()

    def are_warm() -> bool:
        texts = [f"Text {next(numbers)}" for _ in range(4)]
        sent = [
            embedded.http.post(f"{kb}/documents", json={"name": text, "text": text}).json() for text in texts
        ]
        for one in sent:
            embedded.wait_for_task(one["task_id"])
        return all(
            any("e5-small" in mapped.path for mapped in worker.memory_maps()) for worker in embedded.workers()
        )

    eventually(are_warm, 60)
    with watching(embedded.workers) as memory:
        yield memory


@pytest.mark.parametrize("case", CASES)
def test_it_fails_with_a_code_or_is_read_right(
    embedded: Deployment, kb: str, memory: Memory, case: str
) -> None:
    # Given a hostile document
    file = CASES[case]
    # When it is uploaded
    answer = embedded.http.post(f"{kb}/documents", files={"file": (file.name, file.make())})
    assert answer.status_code == 202
    task = embedded.wait_for_task(answer.json()["task_id"], 60)
    # Then its task fails with a code and a message, or its text is found
    error = task["error"]
    if isinstance(error, dict):
        assert error["code"] in file.codes
        assert error["message"]
    else:
        found = embedded.http.get(f"{kb}/search", params={"q": file.text, "limit": 50, "mode": "text"}).json()
        texts = [hit["text"] for hit in found["hits"] if hit["name"] == file.name]
        assert file.is_right("".join(texts))


def test_no_hostile_document_takes_300_mb_of_a_worker(memory: Memory) -> None:
    assert memory.growth < 300 * MEBIBYTE


def test_the_workers_go_on_afterwards(embedded: Deployment, kb: str) -> None:
    # Given the same worker processes as before
    before = {worker.pid for worker in embedded.workers()}
    # When a good document comes after a bad one
    bad = embedded.http.post(f"{kb}/documents", files={"file": ("bad.pdf", b"%PDF-1.7 nothing")}).json()
    good = embedded.http.post(
        f"{kb}/documents", json={"name": "good", "text": "# All is well\n\nIndeed."}
    ).json()
    # Then the bad one fails, the good one completes, and no worker died
    assert embedded.wait_for_task(bad["task_id"], 30)["status"] == "failed"
    assert embedded.wait_for_task(good["task_id"], 60)["status"] == "completed"
    assert {worker.pid for worker in embedded.workers()} == before


def test_a_missing_file_and_one_outside_of_the_roots_are_refused_by_name(
    embedded: Deployment, kb: str, file_root: Path
) -> None:
    for path in (str(file_root / "missing.pdf"), "/etc/passwd", f"{file_root}/../../etc/passwd", "\0"):
        order = {"task_type": "document_processing", "kb_id": "hostile", "payload": {"file_path": path}}
        answer = embedded.http.post("/api/v1/tasks", json=order)
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["field"] == "payload.file_path"


def test_a_document_is_fetched_described_and_found_unchanged_the_next_time(
    embedded: Deployment, kb: str, web: Site
) -> None:
    # Given a page on a server, behind a redirect
    web.answers["/latest?key=secret"] = answer(302, Location="/pages/cats")
    page = b"<title>Cats</title><h1>Cats</h1><p>A cat sleeps for most of the day.</p>"
    web.answers["/pages/cats"] = answer(body=page, Content_Type="text/html; charset=utf-8")
    # And which is too busy at first
    answers = [answer(503), web.answers["/pages/cats"], web.answers["/pages/cats"]]
    web.answers["/pages/cats"] = lambda handler: answers.pop(0)(handler)
    # When its URL is sent, and once more
    body = {"url": f"http://{web.address}/latest?key=secret", "metadata": {"kind": "page"}}
    first, second = (
        embedded.wait_for_task(embedded.http.post(f"{kb}/documents", json=body).json()["task_id"])
        for _ in range(2)
    )
    # Then it was fetched whenever it was tried, and is one document, named by the end of its path
    assert [path for path, _ in web.asked] == ["/latest?key=secret", "/pages/cats"] * 3
    done = first["result"], second["result"]
    assert isinstance(done[0], dict)
    assert isinstance(done[1], dict)
    assert (done[0]["name"], done[0]["version"], done[1]["unchanged"]) == ("latest", 1, True)
    document = embedded.http.get(f"{kb}/documents/{done[0]['document_id']}").json()
    assert (document["media_type"], document["metadata"]) == ("text/html", {"kind": "page"})
    # And the secret in the URL is not in the log
    assert "secret" not in embedded.log.read_text()


def test_a_url_that_leads_to_what_nobody_may_reach_is_refused_by_name_or_fails(
    embedded: Deployment, kb: str, web: Site
) -> None:
    # Given a URL that itself says where it leads, and one that only its server does
    inner = "http://169.254.169.254/latest/meta-data"
    web.answers["/inner"] = answer(302, Location=inner)
    # When they are sent, then the first is refused by the field's name, on both ways in
    refused = embedded.http.post(f"{kb}/documents", json={"url": inner})
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "url")
    order = {"task_type": "document_processing", "kb_id": "hostile", "payload": {"url": inner}}
    refused = embedded.http.post("/api/v1/tasks", json=order)
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "payload.url")
    # And the second fails at once
    order["payload"] = {"url": f"http://{web.address}/inner"}
    task = embedded.wait_for_task(embedded.http.post("/api/v1/tasks", json=order).json()["task_id"], 30)
    assert isinstance(task["error"], dict)
    assert (task["status"], task["error"]["code"]) == ("failed", "fetch_refused")


def test_the_same_bytes_are_one_document_unless_something_else_is_said_of_them(
    embedded: Deployment, kb: str
) -> None:
    def send(name: str, text: str, **said: str) -> str:
        body = {"name": name, "text": text} | ({"metadata": said} if said else {})
        return str(embedded.http.post(f"{kb}/documents", json=body).json()["task_id"])

    def result(task_id: str) -> dict[str, Any]:
        task = embedded.wait_for_task(task_id)
        assert isinstance(task["result"], dict)
        return task["result"]

    def hits(**where: str) -> list[str]:
        asked = {"q": "whales", "mode": "text", **{f"metadata.{key}": value for key, value in where.items()}}
        return sorted(hit["name"] for hit in embedded.http.get(f"{kb}/search", params=asked).json()["hits"])

    # Given a text of Ann's under two names, sent at once, and another text
    whales = "Whales sing."
    sent = [send("whales.md", whales, by="Ann"), send("copy.md", whales, by="Ann")]
    later = send("later.md", "Dolphins click.")
    # Then one of the two is a duplicate, and tells so when it is asked
    first, twin = sorted(map(result, sent), key=lambda one: one["duplicate_of"] is not None)
    assert (first["duplicate_of"], twin["duplicate_of"]) == (None, first["document_id"])
    assert hits(by="Ann") == [first["name"]]
    listed = {one["name"]: one for one in embedded.http.get(f"{kb}/documents").json()["documents"]}
    assert (listed[twin["name"]]["duplicate_of"], listed[twin["name"]]["version"]) == (
        first["document_id"],
        0,
    )
    # When the same is sent with something else said of it, then it is found by that
    theirs = result(send("theirs.md", whales, by="Bob"))
    assert (theirs["duplicate_of"], theirs["embedded"], theirs["reused"]) == (None, 0, 1)
    assert hits(by="Bob") == ["theirs.md"]
    # When a document that is there gets the same text, then that is its new version
    assert result(later)["version"] == 1
    assert result(send("later.md", whales))["version"] == 2
    assert hits() == sorted(["later.md", "theirs.md", first["name"]])


def test_an_unknown_knowledge_base_and_an_unknown_type_are_refused_by_name(embedded: Deployment) -> None:
    order = {"task_type": "document_processing", "kb_id": "nowhere", "payload": {"file_path": "x"}}
    assert embedded.http.post("/api/v1/tasks", json=order).json()["code"] == "unknown_knowledge_base"
    assert (
        embedded.http.post("/api/v1/tasks", json={"task_type": "nonsense"}).json()["code"]
        == "unknown_task_type"
    )
    stage = {"task_type": "document_processing.convert"}
    assert embedded.http.post("/api/v1/tasks", json=stage).json()["code"] == "unknown_task_type"
