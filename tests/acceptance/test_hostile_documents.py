"""Documents that cannot be read end as failed tasks with a clear code, and the worker goes on."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import documents
from tests.support.deployment import Deployment

MEBIBYTE = 1 << 20


@pytest.fixture(scope="module")
def kb(embedded: Deployment) -> str:
    embedded.http.post("/api/v1/knowledge-bases", json={"kb_id": "hostile", "name": "hostile"})
    return "/api/v1/knowledge-bases/hostile"


CASES: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "a broken PDF": ("a.pdf", lambda: documents.pdf(["whole"] * 40)[:400], "unreadable_document"),
    "an empty file": ("b.md", lambda: b"", "empty_document"),
    "a zip bomb of 600 MB as a .docx": (
        "c.docx",
        lambda: documents.zip_bomb_docx(600 * MEBIBYTE),
        "document_too_large",
    ),
    "a program": ("d.bin", lambda: b"\x7fELF" + bytes(range(256)) * 20, "unsupported_type"),
    "a PDF under a password": ("e.pdf", documents.encrypted_pdf, "unreadable_document"),
    "a scanned page without text": ("f.pdf", documents.scanned_pdf, "empty_document"),
    "a billion laughs": ("g.docx", documents.entity_bomb_docx, "empty_document"),
}


@pytest.mark.parametrize("case", CASES)
def test_it_fails_with_its_code_within_30_seconds(embedded: Deployment, kb: str, case: str) -> None:
    # Given a document that cannot be read
    name, content, code = CASES[case]
    # When it is uploaded
    answer = embedded.http.post(f"{kb}/documents", files={"file": (name, content())})
    # Then it is refused at once, or its task fails with the code and a message
    if answer.status_code == 202:
        task = embedded.wait_for_task(answer.json()["task_id"], 30)
        assert task["status"] == "failed"
        error = task["error"]
        assert isinstance(error, dict)
        assert error["code"] == code
        assert error["message"]
    else:
        assert 400 <= answer.status_code < 500
        assert answer.json()["code"]


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


def test_an_unknown_knowledge_base_and_an_unknown_type_are_refused_by_name(embedded: Deployment) -> None:
    order = {"task_type": "document_processing", "kb_id": "nowhere", "payload": {"file_path": "x"}}
    assert embedded.http.post("/api/v1/tasks", json=order).json()["code"] == "unknown_knowledge_base"
    assert (
        embedded.http.post("/api/v1/tasks", json={"task_type": "nonsense"}).json()["code"]
        == "unknown_task_type"
    )
    stage = {"task_type": "document_processing.convert"}
    assert embedded.http.post("/api/v1/tasks", json=stage).json()["code"] == "unknown_task_type"
