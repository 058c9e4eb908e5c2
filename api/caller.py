"""Who is asking. Every resource asks here; nothing else knows how callers are recognised."""

import msgspec
from falcon.asgi import Request

from api.errors import Forbidden


class Caller(msgspec.Struct, frozen=True):
    """Somebody who makes a request. An admin sees and changes everybody's tasks."""

    user_id: str = ""
    is_admin: bool = False

    @property
    def owner(self) -> str | None:
        """Whose tasks this caller may see; None is everybody's."""
        return None if self.is_admin else self.user_id

    @property
    def created_by(self) -> str:
        """How the caller is named on what it creates."""
        return f"user:{self.user_id or 'anonymous'}"

    def tenant(self, asked: str | None) -> str:
        """The user that new work belongs to; only an admin may ask for another one."""
        return (asked or self.user_id) if self.is_admin else self.user_id


#: Without authentication everybody may do everything.
ANYBODY = Caller(is_admin=True)


def caller_of(req: Request) -> Caller:
    """The caller of a request."""
    return ANYBODY


def admin_of(req: Request) -> Caller:
    """The caller of a request that only an administrator may make.

    Raises:
      Forbidden: the caller is none.
    """
    caller = caller_of(req)
    if not caller.is_admin:
        raise Forbidden("This is for administrators: ask one, or take a token with the scope admin.")
    return caller
