"""A knowledge base gets another embedder while it is searched and filled, and is never without one."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from falcon.testing import TestClient

from pipelines.bootstrap import Kit, open_kit
from pipelines.documents.store.errors import Superseded
from pipelines.worker import make_worker
from tasks.database import session
from tasks.records import Task
from tasks.settings import Settings
from tasks.states import FINAL
from tests.support.api import api_on
from tests.support.embedding_server import MODELS, EmbeddingServer, embedding_server
from tests.support.waiting import eventually

BASES = "/api/v1/knowledge-bases"
DRINKS = ("wine", "tea", "coffee")
CHUNKS = 40  # of each document
#: Chunks of a knowledge base whose vectors are not those of its model, or that no search sees.
WRONG = """
SELECT count(*) FROM chunks c JOIN knowledge_bases k ON k.key = c.kb JOIN documents d ON d.id = c.document_id
LEFT JOIN vectors v ON v.model = k.embedder AND v.text_hash = c.text_hash
WHERE k.kb_id = %s AND (c.embedding::text, c.generation, c.version) IS DISTINCT FROM
                       (v.embedding::text, k.generation, d.version)"""


class Cellar:
    """What the tests do with the API and the worker of one process."""

    def __init__(self, kit: Kit, client: TestClient) -> None:
        self.kit = kit
        self.http = client

    def create(self, kb: str, *drinks: str, model: str = "large") -> None:
        """A knowledge base with documents: by the model of the settings, or by one that they named before."""
        self.kit.workshop.store.knowledge_bases.create("", kb, kb, f"http:{model}", MODELS[model])
        for task_id in [self.send(kb, drink) for drink in drinks]:
            self.result(task_id)

    def send(self, kb: str, drink: str) -> UUID:
        """Send a document; the id of its task."""
        text = "\n\n".join(f"On shelf {number} there is {drink} number {number}." for number in range(CHUNKS))
        body = {"name": drink, "text": text, "chunk_size": 50, "chunk_overlap": 0}
        answer = self.http.simulate_post(f"{BASES}/{kb}/documents", json=body)
        assert answer.status_code == 202, answer.text
        return UUID(answer.json["task_id"])

    def reembed(self, kb: str) -> UUID:
        """Have it embedded anew by the model of the settings; the id of the run."""
        answer = self.http.simulate_post(f"{BASES}/{kb}/reembed", json={"embedder": "http"})
        assert answer.status_code == 202, answer.text
        assert answer.headers["location"] == f"/api/v1/tasks/{answer.json['task_id']}"
        return UUID(answer.json["task_id"])

    def result(self, task_id: UUID) -> Any:
        task = eventually(lambda: self.ended(task_id), 30)
        assert task.status == "completed", task.error
        return task.result

    def ended(self, task_id: UUID) -> Task | None:
        """The task, once it is over."""
        task = self.kit.queries.task(task_id)
        return task if task is not None and task.status in FINAL else None

    def found(self, kb: str, q: str, limit: int = 10) -> list[str]:
        """What is found by vectors alone, in order."""
        hits = self.kit.library.search(kb, owner=None, q=q, limit=limit, mode="vector", explain=False)
        return [hit.text for hit in hits]

    def forget_vectors(self, model: str) -> None:
        """Let nothing be reused; the chunks keep theirs."""
        with session(self.kit.database):
            self.kit.database.execute_sql("DELETE FROM vectors WHERE model = %s", (model,))

    def embedder(self, kb: str) -> tuple[str, int]:
        found = self.http.simulate_get(f"{BASES}/{kb}").json
        return found["embedder"], found["dim"]

    def value(self, sql: str, *params: object) -> Any:
        with session(self.kit.database):
            return self.kit.database.execute_sql(sql, params).fetchone()[0]


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddingServer]:
    with embedding_server() as server:
        yield server


@pytest.fixture(scope="module")
def cellar(url: str, server: EmbeddingServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cellar]:
    settings = Settings(
        database_url=url,
        data_dir=tmp_path_factory.mktemp("cellar"),
        threads=4,
        embedding_url=server.url,
        embedding_model="small",
    )
    kit = open_kit(settings)
    assert kit.workshop.embedder("http:small").dim == 16  # it is not asked for again
    kit.open_board()
    worker = make_worker(kit).start()
    with api_on(kit) as client:
        cellar = Cellar(kit, client)
        cellar.create("model", *DRINKS, model="small")
        yield cellar
    worker.drain()
    kit.close()


def test_searches_find_by_the_former_vectors_or_by_the_new_ones_but_never_by_both_or_neither(
    cellar: Cellar, server: EmbeddingServer
) -> None:
    # Given a knowledge base, what it finds, and what it would find by another embedder
    asked = "wine number 7"
    cellar.create("kept", *DRINKS[:2])
    phases = [cellar.found("kept", asked)]
    after = cellar.found("model", asked)
    cellar.forget_vectors("http:small")

    # and somebody who searches all the while
    with searching(lambda: cellar.found("kept", asked)) as found:
        # When it is embedded anew, and the endpoint lets it wait
        seen = len(server.asked)
        server.hold("small")
        run = cellar.reembed("kept")
        eventually(lambda: "small" in [asked.model for asked in server.asked[seen:]])

        # Then a second time at once is refused, and a document is found as soon as it is stored
        again = cellar.http.simulate_post(f"{BASES}/kept/reembed", json={"embedder": "fast"})
        assert (again.status_code, again.json["code"]) == (409, "conflict")
        cellar.result(cellar.send("kept", DRINKS[2]))
        phases.append(cellar.found("kept", asked))
        assert cellar.embedder("kept") == ("http:large", 24)

        # And when the endpoint goes on, then all of them have the new vectors and none the former
        server.hold()
        assert cellar.result(run) == {
            "embedder": "http:small",
            "embedded": 3 * CHUNKS,
            "reused": 0,
            "removed": 3 * CHUNKS,
        }
        assert cellar.embedder("kept") == ("http:small", 16)
        assert cellar.value(WRONG, "kept") == 0
        assert cellar.value("SELECT count(*) FROM vectors WHERE model = 'http:large'") == 0
        eventually(lambda: found[-1] == after)

    # and every search has found all of the one or all of the other
    phases.append(after)
    passed = [phases.index(one) for one in found]
    assert passed == sorted(passed)
    assert {passed[0], passed[-1]} == {0, 2}


def test_a_document_that_was_embedded_before_the_change_and_is_stored_after_it_has_the_new_vectors(
    cellar: Cellar, server: EmbeddingServer
) -> None:
    # Given a knowledge base, and a document whose vectors by its model are still being made
    cellar.create("late", "beer")
    seen = len(server.asked)
    server.hold("large")
    late = cellar.send("late", "juice")
    eventually(lambda: len(server.asked) > seen)

    # When the knowledge base gets another model in the meantime
    assert cellar.result(cellar.reembed("late"))["embedder"] == "http:small"
    server.hold()

    # Then the document is stored with vectors of that one
    assert cellar.result(late)["chunks"] == CHUNKS
    assert cellar.value(WRONG, "late") == 0
    assert cellar.value("SELECT chunks FROM documents WHERE name = 'juice'") == CHUNKS
    assert all("juice" in text for text in cellar.found("late", "juice", 5))


def test_vectors_that_another_knowledge_base_uses_are_used_again_and_stay(cellar: Cellar) -> None:
    # Given two knowledge bases of the same document by one model, and one that has it by another
    cellar.create("first", "wine")
    cellar.create("second", "wine")
    assert cellar.value(WRONG, "model") == 0

    # When the first gets the model of the last
    report = cellar.result(cellar.reembed("first"))

    # Then nothing had to be embedded, and what the second needs was not forgotten
    assert (report["embedded"], report["reused"], report["removed"]) == (0, CHUNKS, CHUNKS)
    assert cellar.value(WRONG, "first") == cellar.value(WRONG, "second") == 0


def test_by_the_model_that_it_has_or_without_documents_there_is_nothing_to_do(cellar: Cellar) -> None:
    cellar.create("empty")

    for _ in range(2):
        assert cellar.result(cellar.reembed("empty")) == {
            "embedder": "http:small",
            "embedded": 0,
            "reused": 0,
            "removed": 0,
        }
        assert cellar.embedder("empty") == ("http:small", 16)


def test_vectors_of_another_model_of_the_same_name_are_not_taken_for_those_of_this_one(
    cellar: Cellar,
) -> None:
    # Given a text that was embedded in other dimensions, when another model had the name
    cellar.create("changed", "port")
    store = cellar.kit.workshop.store
    text_hash = cellar.value("SELECT min(encode(text_hash, 'hex')) FROM chunks WHERE text LIKE '%%port%%'")
    store.vectors.save("http:small", [bytes.fromhex(text_hash)], np.ones((1, 3), np.float32))

    # When the knowledge base is to have that model, then this is refused, and it keeps what it has
    run = cellar.reembed("changed")
    task = eventually(lambda: cellar.ended(run), 30)
    assert (task.status, task.error["code"]) == ("failed", "embedding_refused")
    assert cellar.embedder("changed") == ("http:large", 24)
    assert len(cellar.found("changed", "port")) == 10


def test_what_was_cancelled_can_be_asked_for_again_and_leaves_nothing(
    cellar: Cellar, server: EmbeddingServer
) -> None:
    # Given a run that has copied some chunks, and was cancelled before they were seen
    cellar.create("again", "rum", "gin")
    store = cellar.kit.workshop.store
    kb = store.knowledge_bases.get("again")
    server.hold("small")
    cancelled = cellar.reembed("again")
    cellar.kit.ledger.cancel(cancelled).result(10)
    claimed = store.reembeddings.claim(kb, cancelled, "http:small", 16)
    span, _ = store.reembeddings.spans(kb, claimed)[0]
    pieces = store.reembeddings.pieces(kb, claimed, [span])
    store.vectors.save("http:small", [pieces[0].text_hash], np.ones((1, 16), np.float32))
    store.reembeddings.copy(kb, claimed, dict.fromkeys(pieces, 5))
    assert cellar.value(WRONG, "again") == 1
    server.hold()

    # When another one is asked for
    run = cellar.reembed("again")

    # Then it does all the work, nothing is left of the first, and the first can do no more
    assert cellar.result(run)["removed"] == 2 * CHUNKS + 1
    assert cellar.value(WRONG, "again") == 0
    with pytest.raises(Superseded):
        store.reembeddings.of_run(kb, cancelled)


@pytest.mark.parametrize(
    ("kb", "body", "status", "named"),
    [
        ("model", {}, 422, "embedder"),
        ("model", {"embedder": None}, 422, "embedder"),
        ("model", {"embedder": "word2vec"}, 422, "embedder"),
        ("model", {"embedder": "http:small"}, 422, "embedder"),
        ("model", {"embedder": ["e5"]}, 422, "embedder"),
        ("model", {"embedder": "e5", "dim": 3}, 422, "dim"),
        ("nowhere", {"embedder": "e5"}, 404, None),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    cellar: Cellar, kb: str, body: Any, status: int, named: str | None
) -> None:
    answer = cellar.http.simulate_post(f"{BASES}/{kb}/reembed", json=body)

    assert answer.status_code == status
    assert [error["field"] for error in answer.json["errors"]] == ([named] if named else [])


@pytest.mark.parametrize(
    ("order", "named"),
    [
        ({"payload": {"embedder": "fast"}}, "kb_id"),
        ({"payload": {"embedder": "fast"}, "kb_id": "nowhere"}, "kb_id"),
        ({"payload": {"embedder": "word2vec"}, "kb_id": "model"}, "payload.embedder"),
        ({"payload": {"embedder": "fast", "dim": 3}, "kb_id": "model"}, "payload"),
        ({"payload": {"embedder": "fast"}, "kb_id": "model", "user_id": "bob"}, "kb_id"),
    ],
)
def test_as_a_task_it_is_checked_alike(cellar: Cellar, order: dict[str, Any], named: str) -> None:
    answer = cellar.http.simulate_post("/api/v1/tasks", json={"task_type": "reembedding", **order})

    assert answer.status_code == 422
    assert answer.json["errors"][0]["field"].startswith(named)


@contextmanager
def searching(search: Callable[[], list[str]]) -> Iterator[list[list[str]]]:
    """What a search finds that is made again and again."""
    found: list[list[str]] = []
    is_over = threading.Event()

    def go_on() -> None:
        while not is_over.is_set():
            found.append(search())

    with ThreadPoolExecutor(1) as threads:
        searcher = threads.submit(go_on)
        try:
            eventually(lambda: found)
            yield found
        finally:
            is_over.set()
            searcher.result()
