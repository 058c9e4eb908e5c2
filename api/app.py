"""The application: Falcon with our routes around a kit, and the service that opens the kit itself."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from falcon import MEDIA_MULTIPART
from falcon.asgi import App, Request, Response

from api.bodies import Body, Message, Receive
from api.desk import Desk
from api.draining import Draining
from api.middleware import Entrance
from api.problems import answer_errors
from api.resources.dashboard import ADDRESSES, DramatiqDashboard
from api.routes import routes
from api.uploads import form_handler
from pipelines.bootstrap import Kit
from tasks.errors import CallboardError

log = logging.getLogger("callboard.api")

Send = Callable[[Message], Awaitable[None]]


def create_app(desk: Desk) -> App[Request, Response]:
    """The API on a desk; nothing is opened or closed."""
    app: App[Request, Response] = App(middleware=[desk.requests, Entrance()])
    app.req_options.strip_url_path_trailing_slash = True
    app.req_options.media_handlers[MEDIA_MULTIPART] = form_handler()
    answer_errors(app)
    for path, resource, suffix in routes(desk):
        app.add_route(path, resource, suffix=suffix)
    app.add_sink(DramatiqDashboard(desk).answer, ADDRESSES)
    return app


class Service:
    """The ASGI application of a process: opens its kit when it starts and closes it when it stops.

    The kit is opened here and not earlier because servers fork, and neither connections nor threads
    survive that.
    """

    def __init__(self, open_kit: Callable[[], Kit]) -> None:
        self._open_kit = open_kit
        self._app: App[Request, Response] | None = None
        self._desk: Desk | None = None
        self.draining = Draining()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        assert self._app is not None, "requests come after lifespan.startup"
        with self.draining:
            if scope["type"] == "http":
                body = Body(scope, receive)
                await self._app(dict(scope), body, self._last_words(send))
                await body.discard_rest()
            else:
                await self._app(dict(scope), receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            kit = await asyncio.to_thread(self._open_kit)
        except Exception as error:
            # Our own errors say what to do; a traceback would only hide it.
            log.error("%s", error, exc_info=None if isinstance(error, CallboardError) else error)
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        self._desk = Desk(kit, self.draining)
        kit.pulse.add(self._desk.vitals)
        self._app = create_app(self._desk)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await asyncio.to_thread(self._close, kit)
        await send({"type": "lifespan.shutdown.complete"})

    def _close(self, kit: Kit) -> None:
        if self._desk is not None:
            self._desk.close()
        kit.close()

    def _last_words(self, send: Send) -> Send:
        """While draining every answer says that its connection ends, so that clients use another one."""

        def send_and_close(message: Message) -> Awaitable[None]:
            if self.draining.has_begun and message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            return send(message)

        return send_and_close
