"""What happens to every request before a resource sees it."""

import random
import re

from falcon.asgi import Request, Response

from tasks.errors import NotFound

HEADER = "X-Request-ID"
SANE = re.compile(r"[A-Za-z0-9_.-]{1,100}")


class Entrance:
    """Gives every answer an id, the caller's own if it is sane: questions find their line in the log.

    And Postgres keeps no NUL character, so an address with one can name nothing.
    """

    async def process_request(self, req: Request, resp: Response) -> None:
        """Give the request its id, and answer 404 to such an address."""
        resp.set_header(HEADER, request_id(req))
        if "\0" in req.path:
            raise NotFound("There is nothing at an address with a NUL character: leave %00 out.")


def request_id(req: Request) -> str:
    """The id of a request."""
    known = getattr(req.context, "request_id", None)
    if known is None:
        given = req.get_header(HEADER) or ""
        known = given if SANE.fullmatch(given) else f"{random.getrandbits(128):032x}"
        req.context.request_id = known
    return str(known)
