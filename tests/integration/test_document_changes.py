"""A long document of which a paragraph changes, while it is searched all the time."""

from typing import Any
from uuid import UUID

import falcon.testing
import pytest

from tasks.records import Task
from tasks.states import FINAL
from tests.support.api import api_on
from tests.support.books import pieces
from tests.support.processes import Installation
from tests.support.waiting import eventually
from tests.support.word_vectors import take_the_place_of_e5

ACTORS = "tests.support.quick_worker"
WORDS = 60  # a paragraph
CHARACTERS_A_PAGE = 2_000
CHUNKS = """
SELECT c.start_offset, c.end_offset, c.text
FROM chunks c JOIN documents d ON d.id = c.document_id AND d.version = c.version
JOIN knowledge_bases k ON k.key = d.kb WHERE k.kb_id = %s"""

pytestmark = pytest.mark.parametrize("broker_url", ["local"], indirect=True, scope="module")


@pytest.mark.parametrize("pages", [60, pytest.param(300, marks=pytest.mark.slow)])
def test_an_edit_embeds_its_own_chunks_and_no_search_sees_a_mixture_or_a_gap(
    board: Installation, monkeypatch: pytest.MonkeyPatch, pages: int
) -> None:
    take_the_place_of_e5(monkeypatch.setattr)
    board.start_worker(ACTORS=ACTORS)
    with api_on(board.kit) as api:
        # Given a book of many pages that is searchable
        kb = f"pages-{pages}"
        parts = a_book_of(pages)
        api.simulate_post("/api/v1/knowledge-bases", json={"kb_id": kb, "name": "Books"})
        assert board.finished(send(api, kb, parts), 60).result["chunks"] > 1.5 * pages
        middle = len(parts) // 2
        longer = f"{parts[middle]} And it goes on for longer than it did before."
        for edited in (
            [*parts[:middle], longer, *parts[middle + 1 :]],
            [*parts[:middle], longer, "A paragraph that was not there.", *parts[middle + 1 :]],
        ):
            before = set(board.rows(CHUNKS, kb))

            # When a paragraph in the middle is changed, then one is inserted, and people search meanwhile
            task, answers = searched_until_finished(board, api, kb, send(api, kb, edited), parts[middle])

            # Then nearly all chunks keep their vectors
            assert task.status == "completed", task.error
            assert 0 < task.result["embedded"] < 0.03 * task.result["chunks"]
            # and each answer is of one version only, the old one up to a moment and the new one from then on
            after = set(board.rows(CHUNKS, kb))
            assert [] not in answers
            assert all(set(answer) <= before or set(answer) <= after for answer in answers)
            is_new = [not set(answer) <= before for answer in answers]
            assert is_new == sorted(is_new)
            assert (is_new[0], is_new[-1]) == (False, True)


def test_nothing_that_was_made_of_a_deleted_document_is_left_and_a_run_that_had_its_texts_goes_on(
    board: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_the_place_of_e5(monkeypatch.setattr)
    parts = pieces(8, paragraphs=20, words=WORDS)
    with api_on(board.kit) as api:
        # Given a document, and the same one on its way into another knowledge base, where nothing is embedded
        for kb in ("gone", "coming"):
            api.simulate_post("/api/v1/knowledge-bases", json={"kb_id": kb, "name": kb})
        worker = board.start_worker(ACTORS=ACTORS)
        first = send(api, "gone", parts)
        result = board.finished(first).result
        worker.kill()
        run = send(api, "coming", parts)
        passing = board.start_worker(ACTORS=ACTORS, queues=["documents", "convert"])
        eventually(lambda: ("embed", 0, "queued") in board.stages(run), 20)
        passing.kill()
        embedding = board.start_worker(ACTORS=ACTORS, queues=["embed"])
        eventually(lambda: ("store", 0, "queued") in board.stages(run), 20)
        embedding.kill()

        # When the first one is deleted, then its text, its chunks and their vectors are gone
        path = f"/api/v1/knowledge-bases/gone/documents/{result['document_id']}"
        assert api.simulate_delete(path).status_code == 204
        assert board.value("SELECT count(*) FROM chunks WHERE document_id = %s", result["document_id"]) == 0
        assert board.value("SELECT count(*) FROM vectors WHERE run_id = %s", first) == 0
        assert list((board.folder / "blobs" / "texts").glob(f"{result['document_id']}*")) == []

        # and the other one embeds what it had counted on
        board.start_worker(ACTORS=ACTORS)
        assert board.finished(run).status == "completed", board.task(run).error
        assert board.finished(run).result["embedded"] == result["chunks"]


def a_book_of(pages: int) -> list[str]:
    parts = pieces(7, paragraphs=pages * CHARACTERS_A_PAGE // (6 * WORDS), words=WORDS)
    assert len("\n\n".join(parts)) > 0.8 * pages * CHARACTERS_A_PAGE
    return parts


def send(api: falcon.testing.TestClient, kb: str, parts: list[str]) -> UUID:
    path = f"/api/v1/knowledge-bases/{kb}/documents"
    answer = api.simulate_post(path, json={"name": "book.md", "text": "\n\n".join(parts)})
    assert answer.status_code == 202, answer.text
    return UUID(answer.json["task_id"])


def searched_until_finished(
    board: Installation, api: falcon.testing.TestClient, kb: str, run: UUID, question: str
) -> tuple[Task, list[list[tuple[int, int, str]]]]:
    """The run when it has finished, and the places of the hits of every search from before to after."""
    answers = []
    is_over = False
    while not is_over:
        is_over = board.task(run).status in FINAL
        for mode in ("hybrid", "text"):
            asked = {"q": question[:500], "mode": mode, "limit": 20}
            found: Any = api.simulate_get(f"/api/v1/knowledge-bases/{kb}/search", params=asked)
            assert found.status_code == 200, found.text
            answers.append([(hit["start"], hit["end"], hit["text"]) for hit in found.json["hits"]])
    return board.task(run), answers
