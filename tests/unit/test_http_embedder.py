"""The embedder on an OpenAI-compatible endpoint, against a real server that can misbehave."""

import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import numpy as np
import pytest

from pipelines.documents import embedders
from pipelines.documents.embedders.http import MOST_BYTES, MOST_TEXTS, HttpEmbedder
from pipelines.documents.embedders.port import Endpoint
from pipelines.documents.errors import EmbeddingRefused, EmbeddingUnavailable
from tasks.errors import SettingsError
from tests.support.embedding_server import Answer, EmbeddingServer, embedding_server, embeddings

KEY = "sk-very-secret"
TEXTS = ["red wine", "green tea", "black coffee"]
Embed = Callable[..., HttpEmbedder]


@pytest.fixture(scope="module")
def running() -> Iterator[EmbeddingServer]:
    with embedding_server() as server:
        yield server


@pytest.fixture
def server(running: EmbeddingServer) -> EmbeddingServer:
    running.asked.clear()
    return running


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def embed(server: EmbeddingServer, pauses: list[float]) -> Embed:
    """An embedder whose pauses take no time."""

    def make(**changes: Any) -> HttpEmbedder:
        endpoint = Endpoint(**{"url": server.url, "model": "small", "key": KEY} | changes)
        return HttpEmbedder(endpoint, sleep=pauses.append)

    return make


def test_vectors_come_in_the_order_of_the_texts_and_are_of_length_one(
    server: EmbeddingServer, embed: Embed
) -> None:
    # When texts are embedded by a server that answers in another order
    embedder = embed()
    vectors = embedder.passages(TEXTS)

    # Then each has its own, and the endpoint was asked as the protocol says
    assert (vectors.shape, vectors.dtype) == ((3, 16), np.float32)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-6)
    assert int(np.argmax(vectors @ embedder.query("cold green tea"))) == 1
    assert server.asked[0] == ("/v1/embeddings", f"Bearer {KEY}", "small", TEXTS)


def test_the_name_tells_the_model_and_the_dimension_is_asked_for_once(
    server: EmbeddingServer, embed: Embed
) -> None:
    embedder = embed(model="large", key=None)

    assert (embedder.name, embedder.dim, embedder.dim) == ("http:large", 24, 24)
    assert [asked.key for asked in server.asked] == [None]
    assert embedder.passages([]).shape == (0, 24)


def test_texts_go_out_in_requests_of_bounded_size(server: EmbeddingServer, embed: Embed) -> None:
    # Given many short texts, and three long ones of which two fit into a request
    long = "x" * (MOST_BYTES // 2)
    texts = ["short"] * (MOST_TEXTS + 1) + [long, long, long]

    # When they are embedded
    embed().passages(texts)

    # Then no request has more than so many, nor more bytes
    assert [len(asked.texts) for asked in server.asked] == [MOST_TEXTS, 2, 2]
    assert [text for asked in server.asked for text in asked.texts] == texts


def test_what_no_encoding_has_is_sent_without_it(server: EmbeddingServer, embed: Embed) -> None:
    embed().query("a\ud800b\0")

    assert server.asked[0].texts == ["a?b\0"]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_may_pass_is_tried_again_with_growing_pauses(
    server: EmbeddingServer, embed: Embed, pauses: list[float], status: int
) -> None:
    server.say(*[Answer(status)] * 3)

    assert embed().passages(TEXTS).shape == (3, 16)
    assert len(server.asked) == 4
    assert 0.05 <= pauses[0] <= 0.1 <= pauses[1] <= 0.2 <= pauses[2] <= 0.4


@pytest.mark.parametrize("as_date", [False, True], ids=["seconds", "date"])
def test_the_pause_that_the_server_asks_for_is_made(
    server: EmbeddingServer, embed: Embed, pauses: list[float], as_date: bool
) -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True) if as_date else "20"
    server.say(Answer(429, headers=[("Retry-After", later)]))

    embed().passages(TEXTS)

    assert pauses == [pytest.approx(20, abs=10 if as_date else 0)]


def test_a_question_does_not_wait_for_longer_than_people_do(
    server: EmbeddingServer, embed: Embed, pauses: list[float]
) -> None:
    server.say(Answer(429, headers=[("Retry-After", "60")]))

    with pytest.raises(EmbeddingUnavailable, match="429"):
        embed().query("where?")
    assert pauses == []


def test_nobody_there_is_told_without_the_key(pauses: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a port at which nobody listens
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        monkeypatch.setattr("pipelines.documents.embedders.http._QUERY_SECONDS", 0.1)

        # When a question is embedded
        with pytest.raises(EmbeddingUnavailable, match="ConnectError") as caught:
            HttpEmbedder(Endpoint(url, "small", KEY), sleep=pauses.append).query("where?")

    # Then the error is one that passes, and keeps the secret
    assert caught.value.code == "embedding_unavailable"
    assert KEY not in caught.value.message


def test_a_server_that_does_not_answer_is_not_waited_for_longer_than_allowed(
    server: EmbeddingServer, embed: Embed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.documents.embedders.http._QUERY_SECONDS", 0.2)
    server.hold("small")
    try:
        with pytest.raises(EmbeddingUnavailable):
            embed().query("where?")
    finally:
        server.hold()


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_text_that_is_refused_is_not_tried_again(
    server: EmbeddingServer, embed: Embed, status: int
) -> None:
    server.say(Answer(status, f"input is too long, {KEY}"))

    with pytest.raises(EmbeddingRefused, match="input is too long") as caught:
        embed().passages(TEXTS)
    assert len(server.asked) == 1
    assert KEY not in caught.value.message


@pytest.mark.parametrize("status", [302, 401, 403, 404])
def test_an_endpoint_that_is_set_wrongly_is_told_by_the_names_of_its_settings(
    server: EmbeddingServer, embed: Embed, status: int
) -> None:
    server.say(Answer(status, headers=[("Location", "/elsewhere")]))

    with pytest.raises(EmbeddingUnavailable, match=f"{status}: check CALLBOARD_EMBEDDING_URL"):
        embed().passages(TEXTS)
    assert len(server.asked) == 1


GOOD = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]


@pytest.mark.parametrize(
    "body",
    [
        "",
        "<html>",
        "[]",
        "{}",
        '{"data": null}',
        "[" * 100_000,
        embeddings(GOOD[:2]),
        embeddings([*GOOD, GOOD[0]]),
        {"data": [{"index": 0, "embedding": [1.0]}] * 3},
        embeddings([[1.0], [1.0, 2.0], [1.0]]),
        embeddings([[1.0, 2.0], [0.0, 0.0], [1.0, 1.0]]),
        embeddings([[], [], []]),
        '{"data": [{"index": 0, "embedding": [NaN, 1]}]}',
        '{"data": [{"index": 0, "embedding": [1e999]}]}',
        '{"data": [{"index": 0, "embedding": ["1"]}]}',
    ],
    ids=lambda body: str(body)[:30],
)
def test_an_answer_that_is_no_vector_for_each_text_is_not_used(
    server: EmbeddingServer, embed: Embed, body: Any
) -> None:
    server.say(Answer(200, body))

    with pytest.raises(EmbeddingUnavailable, match="check its URL and model"):
        embed().passages(TEXTS)


def test_a_model_that_changes_its_dimension_between_two_requests_is_not_used(
    server: EmbeddingServer, embed: Embed
) -> None:
    server.say(Answer(200, embeddings([[1.0, 2.0]] * MOST_TEXTS)))

    with pytest.raises(EmbeddingUnavailable, match="different lengths"):
        embed().passages(["text"] * (MOST_TEXTS + 1))


def test_requests_are_spread_as_the_rate_says_and_those_that_cannot_wait_take_no_turn(
    server: EmbeddingServer, embed: Embed, pauses: list[float]
) -> None:
    # Given an endpoint that may be asked once in fifty seconds
    embedder = embed(rate=0.02)
    begun = time.monotonic()

    # When it is asked at once more often than anybody waits for
    for _ in range(3):
        embedder.passages(TEXTS)
    for _ in range(3):
        with pytest.raises(EmbeddingUnavailable, match="rate limit"):
            embedder.query("where?")

    # Then each waits for its turn, and those that gave up have pushed nobody back
    passed = time.monotonic() - begun
    assert pauses == [pytest.approx(50, abs=passed), pytest.approx(100, abs=passed)]
    assert embedder._gate.turn(float("inf")) == pytest.approx(150, abs=passed + 1)


def test_tokens_are_estimated_and_that_never_fails(embed: Embed) -> None:
    embedder = embed(url="http://nobody.invalid")

    counts = [embedder.count_tokens(text) for text in ("", " \n", "tea", "red wine!", "任务", "\ud800")]

    assert counts == [0, 0, 1, 3, 2, 1]


def test_an_embedder_is_loaded_by_the_name_that_its_vectors_have(server: EmbeddingServer) -> None:
    endpoint = Endpoint(server.url, "small")

    assert embedders.stored_name("http", endpoint) == "http:small"
    assert embedders.stored_name("fast", endpoint) == "fast"
    # The model of a knowledge base stays, whatever the settings name by now.
    assert embedders.load("http:large", endpoint).dim == 24


def test_without_an_endpoint_it_is_told_what_to_set() -> None:
    for use in (lambda: embedders.stored_name("http", None), lambda: embedders.load("http:small")):
        with pytest.raises(SettingsError, match="CALLBOARD_EMBEDDING_URL"):
            use()
    with pytest.raises(SettingsError, match="http:MODEL"):
        embedders.load("http", Endpoint("http://localhost", "small"))
    assert KEY not in repr(Endpoint("http://localhost", "small", KEY))
