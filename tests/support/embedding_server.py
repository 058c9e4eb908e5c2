"""A server that embeds as OpenAI's protocol says, on this machine, and that can misbehave as told."""

import hashlib
import json
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

#: The models that it has, and the dimensions of their vectors.
MODELS = {"small": 16, "large": 24}


class Answer(NamedTuple):
    """What it says for once instead of embedding; ``body`` is sent as it is, or as JSON."""

    status: int = 200
    body: Any = ""
    headers: Sequence[tuple[str, str]] = ()


class Asked(NamedTuple):
    """A request that came in."""

    path: str
    key: str | None
    model: str
    texts: list[str]


class EmbeddingServer:
    """The server; ``say`` tells it what to answer next."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked: list[Asked] = []
        self._held: Collection[str] = ()
        self._changed = threading.Condition()
        self._next: deque[Answer] = deque()

    def say(self, *answers: Answer) -> None:
        """Answer the next requests so, one each."""
        self._next.extend(answers)

    def hold(self, *models: str) -> None:
        """Let requests for these models wait, and no others."""
        with self._changed:
            self._held = models
            self._changed.notify_all()

    def answer(self, asked: Asked) -> Answer:
        """The answer to a request."""
        self.asked.append(asked)
        if self._next:
            return self._next.popleft()
        with self._changed:
            self._changed.wait_for(lambda: asked.model not in self._held, 30)
        if asked.model not in MODELS:
            return Answer(404, {"error": {"message": f"there is no model {asked.model}"}})
        return Answer(200, embeddings([vector_of(text, MODELS[asked.model]) for text in asked.texts]))


def embeddings(vectors: Sequence[Sequence[float]]) -> dict[str, Any]:
    """An answer with these vectors, in another order than they were asked for, as the protocol allows."""
    listed = [
        {"object": "embedding", "index": index, "embedding": list(vector)}
        for index, vector in enumerate(vectors)
    ]
    return {"object": "list", "data": listed[::-1]}


def vector_of(text: str, dim: int) -> list[float]:
    """Texts that share words have vectors that are near to each other; none is of length 1."""
    vector = [0.0] * dim
    for word in text.lower().split():
        vector[int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big") % dim] += 2.0
    vector[0] += 0.1
    return vector


@contextmanager
def embedding_server() -> Iterator[EmbeddingServer]:
    """A server on a free port."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server = EmbeddingServer(f"http://127.0.0.1:{http.server_port}/v1")
    http.RequestHandlerClass = _handler(server.answer)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server
    finally:
        server.hold()
        http.shutdown()
        http.server_close()
        thread.join()


def _handler(answer: Callable[[Asked], Answer]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked = Asked(self.path, self.headers.get("Authorization"), body["model"], body["input"])
            said = answer(asked)
            content = said.body if isinstance(said.body, str) else json.dumps(said.body)
            self.send_response(said.status)
            for name, value in (*said.headers, ("Content-Length", str(len(content.encode())))):
                self.send_header(name, value)
            with suppress(ConnectionError):  # who asked may have lost patience
                self.end_headers()
                self.wfile.write(content.encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler
