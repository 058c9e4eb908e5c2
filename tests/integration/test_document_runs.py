"""Documents in their pipeline on RabbitMQ, while its workers are killed."""

import random
from typing import Any
from uuid import UUID

import pytest

from tests.faults.sink import read_marks
from tests.support.api import api_on
from tests.support.books import a_book
from tests.support.killing import KILLS, check_that_nothing_finished_ran_twice, kill_at_random_points
from tests.support.processes import Installation

ACTORS = "tests.support.quick_worker"
ROUNDS = 25  # of all of them, in each of which the worker is killed twice
BOOKS = {f"book-{number}.md": a_book(number, paragraphs=130, words=12) for number in range(3)}
OUTCOME = """
SELECT d.name, d.version, d.chunks, c.ordinal, c.text, c.heading_path, c.start_offset, c.end_offset,
       c.tokens, c.embedding::text
FROM chunks c JOIN documents d ON d.id = c.document_id AND d.version = c.version
JOIN knowledge_bases k ON k.key = d.kb WHERE k.kb_id = %s ORDER BY d.name, c.ordinal"""
LEFT = """
SELECT count(*) FROM chunks c JOIN documents d ON d.id = c.document_id WHERE c.version <> d.version"""

pytestmark = pytest.mark.parametrize("broker_url", ["rabbitmq"], indirect=True, scope="module")


@pytest.fixture(scope="module")
def undisturbed(house: Installation) -> tuple[list[Any], list[Any]]:
    """What becomes of the books when nobody disturbs: their reports, and what is stored."""
    worker = house.start_worker(ACTORS=ACTORS)
    runs = send(house, "calm")
    outcome = reports(house, runs), stored(house, "calm")
    worker.kill()
    return outcome


@pytest.mark.parametrize(
    "number", [1, *(pytest.param(one, marks=pytest.mark.slow) for one in range(2, ROUNDS + 1))]
)
def test_documents_whose_workers_are_killed_are_those_of_an_undisturbed_run(
    board: Installation, undisturbed: tuple[list[Any], list[Any]], number: int
) -> None:
    # Given the same books for another knowledge base, without the embeddings that are there already
    forget_embeddings(board)
    runs = send(board, f"stormy-{number}")

    # When the worker is killed at random points
    kills = kill_at_random_points(
        board, runs, ACTORS, lambda: len(read_marks(board.folder)), random.Random(number)
    )
    assert kills == KILLS, "it was killed when all was over"

    # Then their chunks, offsets, versions and reports are the same, and nothing else is left of them
    assert (reports(board, runs), stored(board, f"stormy-{number}")) == undisturbed
    assert board.value(LEFT) == 0
    # and no finished stage ran again
    for run in runs:
        starts = [str(mark.task_id) for mark in read_marks(board.folder) if mark.word == "start"]
        check_that_nothing_finished_ran_twice(board, run, starts)


def send(board: Installation, kb: str) -> list[UUID]:
    with api_on(board.kit) as api:
        assert api.simulate_post("/api/v1/knowledge-bases", json={"kb_id": kb, "name": kb}).status_code == 201
        return [
            UUID(
                api.simulate_post(
                    f"/api/v1/knowledge-bases/{kb}/documents",
                    json={"name": name, "text": text, "chunk_size": 100, "chunk_overlap": 20},
                ).json["task_id"]
            )
            for name, text in BOOKS.items()
        ]


def reports(board: Installation, runs: list[UUID]) -> list[Any]:
    found = []
    for run in runs:
        task = board.finished(run, 60)
        assert task.status == "completed", task.error
        found.append({name: value for name, value in task.result.items() if name != "document_id"})
    return found


def stored(board: Installation, kb: str) -> list[Any]:
    return board.rows(OUTCOME, kb)


def forget_embeddings(board: Installation) -> None:
    board.rows("DELETE FROM vectors RETURNING 1")
