"""What becomes of a document when its worker is killed at every step of the way."""

import random
from typing import Any
from uuid import UUID

import httpx
import pytest

from tasks.states import FINAL
from tests.faults.board import Api, Board
from tests.faults.conftest import Verdict
from tests.support.processes import Running

MARKING = "tests.faults.marking"
FINISHED = """
SELECT t.stage || '-' || t.stage_index FROM tasks t JOIN task_state s USING (id)
WHERE t.run_id = %s AND s.status = 'completed'"""
CHUNKS = """
SELECT c.ordinal, c.text, c.heading_path, c.start_offset, c.end_offset, c.embedding::text
FROM chunks c JOIN documents d ON d.id = c.document_id AND d.version = c.version
JOIN knowledge_bases k ON k.key = d.kb WHERE k.kb_id = %s ORDER BY c.ordinal"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_no_finished_stage_of_a_document_runs_again_though_its_worker_is_killed_after_each(
    board: Board, chance: random.Random, verdict: Verdict
) -> None:
    # Given a document of some hundred chunks, and what becomes of it when nobody disturbs
    api = board.start_api()
    board.start_clock()
    text = a_document(chance)
    worker = start_worker(board)
    calm = submit(api, "calm", text)
    board.finished(calm, 120)
    # When another knowledge base gets the same document, without the embeddings that are there already,
    board.do("TRUNCATE vectors")
    stormy = submit(api, "stormy", text)
    # and the worker is killed as soon as a stage is finished, after each of them
    kills = 0
    seen: set[str] = set()
    while board.task(stormy).status not in FINAL:
        finished = {row[0] for row in board.rows(FINISHED, stormy)}
        if finished - seen:
            seen = finished
            worker.kill()
            kills += 1
            worker = start_worker(board)
    assert kills >= 5
    # Then it completes with the very same chunks
    run = board.finished(stormy)
    assert run.status == "completed", run.error
    chunks = board.rows(CHUNKS, "stormy")
    assert chunks == board.rows(CHUNKS, "calm")
    # and no stage was begun again after its end
    assert begun_after_their_end(board) == []
    report = verdict([calm, stormy], kills=kills, chunks=len(chunks), stages=len(seen))
    assert report.completed == report.recorded


def start_worker(board: Board) -> Running:
    return board.start_worker(threads=2, ACTORS=MARKING)


def submit(api: Api, kb: str, text: str) -> UUID:
    with httpx.Client(base_url=f"{api.url}/api/v1", timeout=60) as http:
        assert http.post("/knowledge-bases", json={"kb_id": kb, "name": kb}).status_code == 201
        document: dict[str, Any] = {"name": "book.md", "text": text, "chunk_size": 400, "chunk_overlap": 50}
        answer = http.post(f"/knowledge-bases/{kb}/documents", json=document)
    assert answer.status_code == 202, answer.text
    return UUID(answer.json()["task_id"])


def a_document(chance: random.Random) -> str:
    """A Markdown text of some hundred paragraphs, no two of them the same."""
    words = ("board", "call", "stage", "actor", "queue", "letter", "clock", "lease", "worker", "record")
    parts = ["# A book"]
    for number in range(90):
        if number % 12 == 0:
            parts.append(f"## Part {number // 12}")
        parts.append(f"{number}: " + " ".join(chance.choices(words, k=chance.randint(25, 60))) + ".")
    return "\n\n".join(parts)


def begun_after_their_end(board: Board) -> list[UUID]:
    """The tasks that the sink saw start once more after the claim that completed them."""
    last_start = {mark.task_id: mark.token for mark in board.starts()}
    sql = "SELECT id, token FROM task_state WHERE status = 'completed' AND queue IS NOT NULL"
    completed = board.rows(sql)
    return [task_id for task_id, token in completed if last_start[task_id] != token]
