"""Serving the API with gunicorn, in one worker process.

gunicorn's worker and its arbiter both count to ``graceful_timeout``, and the arbiter then kills: with an idle
connection or a stream open, the application was never told to stop. So here the arbiter waits longer than
the worker, and on SIGTERM the worker itself

1. closes its listening sockets at once (gunicorn looks only once a second),
2. lets the requests in flight finish, up to the limit: answers say ``Connection: close``, streams end,
3. leaves its loop, which runs the lifespan shutdown.
"""

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.errors import HaltServer
from gunicorn.glogging import Logger

from api import websockets
from api.app import Service
from api.resources.sockets import MOST_BYTES
from pipelines.bootstrap import Kit
from tasks.settings import Settings

DRAIN_SECONDS = 5.0
#: SIGINT and SIGQUIT: what is nearly done may finish.
QUICK_SECONDS = 0.5
#: How long the lifespan shutdown may take after the drain.
CLOSE_SECONDS = 15
#: How long connections that nobody uses, and the last bytes of answers, are waited for.
LINGER_SECONDS = 1
#: Longer than proxies keep theirs, so that it is never us who close a connection that is about to be used.
KEEP_ALIVE_SECONDS = 75
BACKLOG = 2_048


def serve(settings: Settings, open_kit: Callable[[Settings], Kit]) -> None:
    """Serve the API until SIGTERM or SIGINT, then exit the process (SystemExit).

    ``open_kit`` is called in the worker process.
    """
    gc.collect()
    gc.freeze()  # else every collection touches, and so copies, what the two processes share
    try:
        _Server(settings, partial(open_kit, settings)).run()
    except HaltServer as halt:  # it was told to stop while its worker failed to start
        raise SystemExit(halt.exit_status) from None


class _Server(BaseApplication):  # type: ignore[misc]
    """gunicorn with our settings; the command line and the environment of gunicorn are not read."""

    def __init__(self, settings: Settings, open_kit: Callable[[], Kit]) -> None:
        self._settings = settings
        self._open_kit = open_kit
        super().__init__(prog="callboard-api")

    def load_config(self) -> None:
        limit = self._settings.drain_seconds or DRAIN_SECONDS
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        values = {
            "bind": f"{host}:{self._settings.port}",
            "worker_class": "asgi",
            "workers": 1,
            "asgi_lifespan": "on",
            "asgi_loop": "asyncio",
            "backlog": BACKLOG,
            "keepalive": KEEP_ALIVE_SECONDS,
            "graceful_timeout": int(limit) + 1 + LINGER_SECONDS + CLOSE_SECONDS,
            "control_socket_disable": True,
            "websocket_max_message_size": MOST_BYTES,
            "proc_name": "callboard-api",
            "logger_class": _Log,
            "when_ready": _say_where,
            "post_worker_init": partial(_make_ours, limit=limit),
        }
        for name, value in values.items():
            self.cfg.set(name, value)

    def load(self) -> Service:
        return Service(self._open_kit)


class _Log(Logger):  # type: ignore[misc]
    """gunicorn's log through ours: only its warnings, because it tells a lot about itself."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers[:] = []
        self.error_log.propagate = True
        self.error_log.setLevel(max(logging.WARNING, logging.getLogger().level))


def _say_where(arbiter: Any) -> None:
    for listener in arbiter.LISTENERS:
        sys.stdout.write(f"Callboard listens on {listener}\n")
    sys.stdout.flush()


def _make_ours(worker: Any, *, limit: float) -> None:
    """Replace what gunicorn's worker does when it is told to stop, and what it serves WebSockets with."""
    websockets.install()
    drain = _Drain(worker)
    worker.loop.add_signal_handler(signal.SIGTERM, drain.begin, limit)
    for quick in (signal.SIGINT, signal.SIGQUIT):
        worker.loop.add_signal_handler(quick, drain.begin, QUICK_SECONDS)


class _Drain:
    """Brings one worker to its end; signals that follow the first can only hurry it."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._task: asyncio.Task[None] | None = None
        self._deadline = float("inf")

    def begin(self, seconds: float) -> None:
        """Stop accepting, and end after so many seconds at the latest."""
        for server in self._worker.servers:
            server.close()
        self._worker.asgi.draining.begin()
        deadline = self._worker.loop.time() + seconds
        if deadline < self._deadline:
            self._deadline = deadline
            if self._task is not None:
                self._task.cancel()
            self._task = self._worker.loop.create_task(self._finish(seconds))

    async def _finish(self, seconds: float) -> None:
        finished = await self._worker.asgi.draining.finished(seconds)
        # From here gunicorn's own shutdown goes on; its wait for connections is now only a short one.
        self._worker.cfg.set("graceful_timeout", LINGER_SECONDS if finished else 0)
        self._worker.alive = False
