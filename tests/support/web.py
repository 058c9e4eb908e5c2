"""A web server on this machine, with and without TLS, for what fetches documents."""

import ssl
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

#: A certificate for docs.example that nobody but a test trusts, with its key.
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBnTCCAUSgAwIBAgIUHv6RM1OU4gaInCujkGyp3p3QvpwwCgYIKoZIzj0EAwIw
FzEVMBMGA1UEAwwMZG9jcy5leGFtcGxlMCAXDTI2MTEyNTA5Mjk0M1oYDzIxMjYx
MTAxMDkyOTQzWjAXMRUwEwYDVQQDDAxkb2NzLmV4YW1wbGUwWTATBgcqhkjOPQIB
BggqhkjOPQMBBwNCAATGxeWwIhFKjALaxLeL4x8CMb0aUoYN2/UhukjR/XQRzFLv
Jlv1Zn8AG760kwzKysquCtqAfUMCan+jbPELNt58o2wwajAdBgNVHQ4EFgQUD5SS
0TndI06gzCKpvxEmb+ShyF0wHwYDVR0jBBgwFoAUD5SS0TndI06gzCKpvxEmb+Sh
yF0wDwYDVR0TAQH/BAUwAwEB/zAXBgNVHREEEDAOggxkb2NzLmV4YW1wbGUwCgYI
KoZIzj0EAwIDRwAwRAIgGE+SHdVyMzxtvilKkzMW9opS7lMPTrkco668s76F/2IC
IHsuZQ7QQ46fW+rW71TemROtMmUf401dUq/URpJnfS2Z
-----END CERTIFICATE-----
"""
_KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgcHYbxzb7xCIvUb3h
d1MYCEkJ0W3k5DE4iz0o2aJADdShRANCAATGxeWwIhFKjALaxLeL4x8CMb0aUoYN
2/UhukjR/XQRzFLvJlv1Zn8AG760kwzKysquCtqAfUMCan+jbPELNt58
-----END PRIVATE KEY-----
"""

Answer = Callable[[BaseHTTPRequestHandler], None]


class Posted(NamedTuple):
    """A body that was sent here by POST."""

    path: str
    headers: dict[str, str]
    body: bytes


class Site:
    """A running server; every path has its answer. ``asked`` holds the paths and their Host headers."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.address = f"127.0.0.1:{port}"
        self.answers: dict[str, Answer] = {}
        self.asked: list[tuple[str, str]] = []
        self.named: list[str | None] = []
        self.posted: list[Posted] = []
        self.gone = threading.Event()


@contextmanager
def site(*, tls: bool = False) -> Iterator[Site]:
    """A server for as long as the context lasts; with ``tls`` it notes which host it is ``named``."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            here.asked.append((self.path, self.headers["Host"]))
            here.answers[self.path](self)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            here.posted.append(Posted(self.path, dict(self.headers), body))
            here.asked.append((self.path, self.headers["Host"]))
            here.answers[self.path](self)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """Say nothing: clients hang up in these tests."""

    server = Server(("127.0.0.1", 0), Handler)
    here = Site(server.server_port)
    if tls:
        server.socket = _context(here).wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield here
    finally:
        here.gone.set()
        server.shutdown()
        server.server_close()
        thread.join()


def answer(status: int = 200, body: bytes = b"", **headers: str) -> Answer:
    """An answer with a body; of the names of its headers ``_`` is a dash."""

    def write(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return write


def drip(web: Site, piece: bytes, pause: float = 0.0) -> Answer:
    """An answer whose body has no end."""

    def write(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not web.gone.wait(pause):
            handler.wfile.write(piece)

    return write


def hang(web: Site) -> Answer:
    """No answer at all, for as long as the server runs."""
    return lambda _: web.gone.wait(60) and None


def in_turn(*answers: Answer) -> Answer:
    """One answer after the other; the last one stays."""
    left = list(answers)
    return lambda handler: (left.pop(0) if len(left) > 1 else left[0])(handler)


def _context(here: Site) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
        file.write(_KEY + CERTIFICATE)
        file.flush()
        context.load_cert_chain(file.name)
    context.sni_callback = lambda _socket, name, _context: here.named.append(name)
    return context
