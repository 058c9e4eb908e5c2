"""An OpenAI-compatible endpoint (TEI, Ollama, vLLM, OpenAI) as an embedder.

Texts go out in requests of bounded size. What may pass (429, 5xx, no connection) is tried again with growing
pauses within a bounded time; then the error goes to the stage, whose own retries take over.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import httpx
import msgspec
import numpy as np
from numpy.typing import NDArray

from actors.web.headers import retry_after
from pipelines.documents.embedders.port import Endpoint
from pipelines.documents.errors import EmbeddingRefused, EmbeddingUnavailable

MOST_TEXTS = 32  # the most that TEI takes unless told otherwise
MOST_BYTES = 256 << 10
_MOST_ANSWER_BYTES = 64 << 20
_PASSAGES_SECONDS = 120.0
_QUERY_SECONDS = 4.0  # somebody waits for it
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0
_ABOUT_THE_INPUT = (400, 413, 422)
_PROBE = "dimension"


class _Item(msgspec.Struct):
    index: int
    embedding: list[float]


class _Answer(msgspec.Struct):
    data: list[_Item]


class _Passing(Exception):
    """This try failed, another one may not. ``pause`` is what the server asked for, in seconds."""

    def __init__(self, reason: str, pause: float = 0.0) -> None:
        super().__init__(reason)
        self.pause = pause


class HttpEmbedder:
    """The port's `Embedder` on an endpoint. Safe to share between threads; connects at the first use.

    Every method but `count_tokens` raises `EmbeddingUnavailable` when the endpoint gives no usable answer in
    time, and `EmbeddingRefused` when it refuses the texts themselves.
    """

    def __init__(self, endpoint: Endpoint, sleep: Callable[[float], None] = time.sleep) -> None:
        self.name = f"http:{endpoint.model}"
        self._url = endpoint.url.rstrip("/") + "/embeddings"
        self._model = endpoint.model
        self._key = endpoint.key
        self._sleep = sleep
        self._gate = _Gate(endpoint.rate)
        self._dim: int | None = None
        # What the environment says of proxies and passwords is meant for other programs.
        self._http = httpx.Client(headers=_credentials(endpoint.key), trust_env=False)

    @property
    def dim(self) -> int:
        """How many numbers a vector has: the endpoint is asked once, by a probe text."""
        if self._dim is None:
            self._dim = len(self.query(_PROBE))
        return self._dim

    def passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts to be found: (len(texts), dim), each row of L2 norm 1."""
        if not texts:
            return np.zeros((0, self.dim), np.float32)
        deadline = time.monotonic() + _PASSAGES_SECONDS
        parts = [self._embed(batch, deadline) for batch in _batches(texts)]
        if len({part.shape[1] for part in parts}) > 1:
            raise _useless("vectors of different lengths")
        return np.concatenate(parts)

    def query(self, text: str) -> NDArray[np.float32]:
        """Embed a question: (dim,), of L2 norm 1."""
        vector: NDArray[np.float32] = self._embed([text], time.monotonic() + _QUERY_SECONDS)[0]
        return vector

    def count_tokens(self, text: str) -> int:
        """Estimate the tokens of the text, one for each four bytes: only the server knows its tokenizer."""
        return -(-len(_encodable(text)) // 4) if text.strip() else 0

    def _embed(self, texts: Sequence[str], deadline: float) -> NDArray[np.float32]:
        body = msgspec.json.encode(
            {"model": self._model, "input": [_encodable(one).decode() for one in texts]}
        )
        pause = _FIRST_PAUSE
        while True:
            self._wait(self._gate.turn(deadline), deadline, "its rate limit leaves no room")
            try:
                return _vectors(self._post(body, deadline), len(texts))
            except _Passing as failure:
                wanted = max(failure.pause, pause * random.uniform(0.5, 1.0))
                self._wait(wanted, deadline, str(failure))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _wait(self, seconds: float, deadline: float, reason: str) -> None:
        if time.monotonic() + seconds >= deadline:
            raise EmbeddingUnavailable(f"The embedding endpoint cannot be used ({reason}): try again later.")
        if seconds > 0:
            self._sleep(seconds)

    def _post(self, body: bytes, deadline: float) -> bytes:
        left = max(0.1, deadline - time.monotonic())
        headers = {"Content-Type": "application/json"}
        try:
            with self._http.stream(
                "POST", self._url, content=body, headers=headers, timeout=left
            ) as response:
                content = _read(response, deadline)
        except httpx.HTTPError as error:
            raise _Passing(type(error).__name__) from error
        self._check(response, content)
        return content

    def _check(self, response: httpx.Response, content: bytes) -> None:
        status = response.status_code
        if status == 200:
            return
        if status == 429 or status >= 500:
            raise _Passing(f"it answers {status}", retry_after(response.headers.get("Retry-After", "")))
        if status in _ABOUT_THE_INPUT:
            said = content[:300].decode("utf-8", "replace").replace(self._key or "\0", "…")
            raise EmbeddingRefused(f"The embedding endpoint refuses the text ({status}): {said}")
        raise EmbeddingUnavailable(
            f"The embedding endpoint answers {status}: check CALLBOARD_EMBEDDING_URL, _MODEL and _KEY."
        )


class _Gate:
    """Spreads requests evenly, at most ``rate`` a second."""

    def __init__(self, rate: float | None) -> None:
        self._interval = 1 / rate if rate else 0.0
        self._next = 0.0
        self._lock = threading.Lock()

    def turn(self, deadline: float) -> float:
        """Take the next turn; how many seconds it is away. One after ``deadline`` stays for others."""
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next)
            if turn < deadline:
                self._next = turn + self._interval
            return turn - now


def _credentials(key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        length = len(_encodable(text))
        if batch and (len(batch) == MOST_TEXTS or size + length > MOST_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += length
    if batch:
        yield batch


def _encodable(text: str) -> bytes:
    """UTF-8 has no lone surrogates."""
    return text.encode("utf-8", "replace")


def _read(response: httpx.Response, deadline: float) -> bytes:
    content = bytearray()
    for part in response.iter_bytes():
        content += part
        if len(content) > _MOST_ANSWER_BYTES:
            raise _useless("more than any vectors need")
        if time.monotonic() > deadline:
            raise _Passing("it answers too slowly")
    return bytes(content)


def _vectors(content: bytes, count: int) -> NDArray[np.float32]:
    """The vectors of an answer in the order of the texts, normalised."""
    try:
        items = sorted(msgspec.json.decode(content, type=_Answer).data, key=lambda item: item.index)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise _useless("no list of embeddings") from None
    if [item.index for item in items] != list(range(count)):
        raise _useless(f"{len(items)} embeddings that do not belong to the {count} texts one by one")
    if len({len(item.embedding) for item in items}) != 1:
        raise _useless("vectors of different lengths")
    vectors = np.asarray([item.embedding for item in items], np.float64)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not (np.isfinite(norms).all() and (norms > 0).all()):
        raise _useless("vectors without a direction")
    unit: NDArray[np.float32] = (vectors / norms).astype(np.float32)
    return unit


def _useless(what: str) -> EmbeddingUnavailable:
    return EmbeddingUnavailable(f"The embedding endpoint answers with {what}: check its URL and model.")
