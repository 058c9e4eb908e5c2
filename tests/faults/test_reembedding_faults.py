"""What becomes of embedding a knowledge base anew when its worker is killed at every step of the way."""

import random
from uuid import UUID

import httpx
import pytest

from tasks.states import FINAL
from tests.faults.board import Board
from tests.faults.conftest import Verdict
from tests.faults.test_document_faults import FINISHED, MARKING, a_document, begun_after_their_end
from tests.support.embedding_server import MODELS, EmbeddingServer, embedding_server
from tests.support.processes import Running

CHUNKS = """
SELECT c.ordinal, c.text, c.generation, vector_dims(c.embedding), c.version = d.version
FROM chunks c JOIN documents d ON d.id = c.document_id ORDER BY c.ordinal"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_no_finished_stage_runs_again_and_all_chunks_get_their_new_vectors_though_workers_are_killed(
    board: Board, chance: random.Random, verdict: Verdict
) -> None:
    with embedding_server() as server:
        # Given a knowledge base with a document of some hundred chunks, by a model that was set before
        settings = {"EMBEDDING_URL": server.url, "EMBEDDING_MODEL": "small"}
        api = board.start_api(**settings)
        board.start_clock()
        worker = start_worker(board, server)
        board.kit.workshop.store.knowledge_bases.create("", "kb", "kb", "http:large", MODELS["large"])
        with httpx.Client(base_url=f"{api.url}/api/v1/knowledge-bases/kb", timeout=60) as http:
            body = {"name": "a", "text": a_document(chance), "chunk_size": 200, "chunk_overlap": 0}
            document = UUID(http.post("/documents", json=body).json()["task_id"])
            board.finished(document, 120)
            before = board.rows(CHUNKS)
            # When it is embedded anew by the one that is set now,
            run = UUID(http.post("/reembed", json={"embedder": "http"}).json()["task_id"])
        # and the worker is killed as soon as a stage is finished, after each of them
        kills, seen = 0, set[str]()
        while board.task(run).status not in FINAL:
            finished = {row[0] for row in board.rows(FINISHED, run)}
            if finished - seen:
                seen = finished
                worker.kill()
                kills += 1
                worker = start_worker(board, server)
        assert kills >= 4
        # Then every chunk has a new vector, once, and no former one is left
        done = board.finished(run)
        assert done.status == "completed", done.error
        expected = [(ordinal, text, 1, MODELS["small"], True) for ordinal, text, *_ in before]
        assert board.rows(CHUNKS) == expected
        # and no stage was begun again after its end
        assert begun_after_their_end(board) == []
        report = verdict([document, run], kills=kills, chunks=len(before), stages=len(seen))
        assert report.completed == report.recorded


def start_worker(board: Board, server: EmbeddingServer) -> Running:
    return board.start_worker(threads=2, ACTORS=MARKING, EMBEDDING_URL=server.url, EMBEDDING_MODEL="small")
