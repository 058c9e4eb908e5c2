"""A TCP proxy that can cut, freeze and delay what runs through it, and turn newcomers away."""

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit, urlunsplit

BUFFER = 1 << 16


class Proxy:
    """Forwards a free local port to the server of a URL."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._server = (parts.hostname, parts.port or 5672)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()
        self._closed = False
        self._flowing = threading.Event()
        self._flowing.set()
        #: How long everything that arrives is held back, in seconds.
        self.delay = 0.0
        port = self._listener.getsockname()[1]
        user = parts.netloc.rpartition("@")[0]
        #: The same URL, through the proxy.
        self.url = urlunsplit(parts._replace(netloc=f"{user}@127.0.0.1:{port}"))
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> int:
        """Reset all connections; how many there were."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                _reset(end)
        return len(pairs)

    def shut(self) -> None:
        """Reset all connections, and from now on every new one."""
        self._closed = True
        self.cut()

    def open(self) -> None:
        """Let connections through again."""
        self._closed = False

    def freeze(self) -> None:
        """Forward nothing any more, and keep all connections, as a network that swallows packets does."""
        self._flowing.clear()

    def thaw(self) -> None:
        """Forward again, also what was held back meanwhile."""
        self._flowing.set()

    def end(self) -> None:
        """Stop for good."""
        self.shut()
        self.thaw()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._closed:
                _reset(client)
                continue
            try:
                server = socket.create_connection(self._server)
            except OSError:  # nobody is there, and that is what the client gets to see
                _reset(client)
                continue
            with self._lock:
                self._pairs.append((client, server))
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(BUFFER):
                if self.delay:
                    time.sleep(self.delay)
                self._flowing.wait()
                target.sendall(data)
        self._flowing.wait()
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)


def _reset(end: socket.socket) -> None:
    """Close with a RST, as a crash of the other side does."""
    with suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()


@contextmanager
def proxy_to(url: str) -> Iterator[Proxy]:
    """A proxy to the server of a URL, for as long as it is needed."""
    proxy = Proxy(url)
    try:
        yield proxy
    finally:
        proxy.end()
