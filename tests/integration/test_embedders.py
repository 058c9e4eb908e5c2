"""Each knowledge base has an embedder of its own; an endpoint that fails is told, and nothing else waits."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from falcon.testing import ASGIConductor, TestClient
from msgspec.structs import replace

from api.cli.doctor import examine
from pipelines.bootstrap import open_kit
from pipelines.documents.embedders import http
from tasks.settings import Settings
from tests.support.api import api_on
from tests.support.embedding_server import Answer, EmbeddingServer, embedding_server, embeddings

BASES = "/api/v1/knowledge-bases"
POOL = 2


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddingServer]:
    with embedding_server() as server:
        yield server


@pytest.fixture(scope="module")
def settings(url: str, server: EmbeddingServer, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("data")
    return Settings(
        database_url=url,
        data_dir=folder,
        db_pool=POOL,
        embedder="fast",
        embedding_url=server.url,
        embedding_model="small",
    )


@pytest.fixture(scope="module")
def client(settings: Settings) -> Iterator[TestClient]:
    kit = open_kit(settings)
    with api_on(kit) as client:
        client.simulate_post(BASES, json={"kb_id": "far", "embedder": "http"})
        yield client
    kit.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first pause before another try is longer than anybody waits."""
    monkeypatch.setattr(http, "_FIRST_PAUSE", 10.0)


def search(client: TestClient, **query: Any) -> Any:
    return client.simulate_get(f"{BASES}/far/search", params={"q": "red wine", **query})


def test_a_knowledge_base_is_embedded_by_what_was_asked_for_or_set(client: TestClient) -> None:
    made = [
        client.simulate_post(BASES, json={"name": "Wines", **asked}).json
        for asked in ({"embedder": "http"}, {"embedder": "e5"}, {}, {"embedder": None})
    ]

    assert [(one["embedder"], one["dim"]) for one in made] == [
        ("http:small", 16),
        ("e5", 384),
        ("fast", 512),
        ("fast", 512),
    ]
    assert client.simulate_get(f"{BASES}/{made[0]['kb_id']}").json == made[0]


@pytest.mark.parametrize("embedder", ["word2vec", "http:large", "", "e5\0", 5, ["e5"]])
def test_an_embedder_that_is_not_there_is_refused_by_name(client: TestClient, embedder: Any) -> None:
    answer = client.simulate_post(BASES, json={"kb_id": "none", "embedder": embedder})

    assert (answer.status_code, answer.json["errors"][0]["field"]) == (422, "embedder")
    assert client.simulate_get(f"{BASES}/none").status_code == 404


def test_without_an_endpoint_the_embedder_http_is_refused_by_name(settings: Settings, tmp_path: Path) -> None:
    kit = open_kit(replace(settings, data_dir=tmp_path, embedding_url=None))
    with api_on(kit) as client:
        answer = client.simulate_post(BASES, json={"name": "Wines", "embedder": "http"})
        found = search(client)
    kit.close()

    # Also a knowledge base that was made when there was one cannot be searched by it.
    assert (answer.status_code, answer.json["errors"][0]["field"]) == (422, "embedder")
    assert "CALLBOARD_EMBEDDING_URL" in answer.json["detail"]
    assert (found.status_code, found.json["code"]) == (503, "unavailable")


@pytest.mark.usefixtures("impatient")
def test_an_endpoint_that_cannot_be_used_is_no_fault_of_the_server(
    client: TestClient, server: EmbeddingServer
) -> None:
    for bad in (Answer(500), Answer(429), Answer(401), Answer(200, "{}"), Answer(200, embeddings([[1.0]]))):
        server.say(bad)
        answer = search(client)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.json["code"] in ("embedding_unavailable", "embedding_refused")
    server.say(Answer(400, "too long"))
    assert search(client).json["errors"][0]["field"] == "q"
    assert search(client, mode="text").status_code == 200


def test_searches_that_wait_for_their_endpoint_hold_up_nobody_else(
    client: TestClient, server: EmbeddingServer
) -> None:
    async def play() -> None:
        async with ASGIConductor(client.app) as people:
            # Given as many searches as the process has threads, none of which gets an answer
            server.hold("small")
            asked = len(server.asked)
            path, query = f"{BASES}/far/search", {"q": "red wine"}
            waiting = [asyncio.create_task(people.simulate_get(path, params=query)) for _ in range(POOL)]
            while len(server.asked) < asked + POOL:
                await asyncio.sleep(0.01)

            # When others ask for something else, then they have their answers before
            assert (await people.simulate_get(BASES)).status_code == 200
            assert not any(one.done() for one in waiting)

            # And the searches have theirs when the endpoint goes on
            server.hold()
            assert [(await one).json for one in waiting] == [{"hits": []}] * POOL

    asyncio.run(play())


def test_the_doctor_looks_at_the_default_embedder_and_at_the_endpoint(
    settings: Settings, server: EmbeddingServer
) -> None:
    def found() -> list[tuple[bool, str]]:
        return [(one.fine, one.text) for one in examine(settings) if one.about == "Embedder"]

    assert found() == [(True, "fast, 512 dimensions"), (True, "http:small, 16 dimensions")]
    server.say(Answer(404))
    assert found()[1] == (
        False,
        "http: The embedding endpoint answers 404: check CALLBOARD_EMBEDDING_URL, _MODEL and _KEY.",
    )
