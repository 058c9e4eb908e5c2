"""The header Idempotency-Key: a request repeated with it is answered with the tasks of the first one."""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import msgspec
from falcon.asgi import Request

from api.caller import Caller
from tasks.errors import InvalidField
from tasks.values import Once

HEADER = "Idempotency-Key"
#: Set on an answer that an earlier request has already got.
REPLAYED_HEADER = "Idempotency-Replayed"
KEY = re.compile(r"[\x21-\x7e]{1,255}")


def read(req: Request, caller: Caller, body: Mapping[str, Any]) -> Once | None:
    """What makes this request one that is done once; None without the header.

    Raises:
      InvalidField: the key cannot be used.
    """
    key = req.get_header(HEADER)
    if key is None:
        return None
    if not KEY.fullmatch(key):
        raise InvalidField.of(HEADER, "must be 1 to 255 visible ASCII characters")
    contents = msgspec.json.encode(body, order="sorted")
    return Once(caller.user_id, f"{req.method} {req.path}", key, hashlib.sha256(contents).hexdigest())
