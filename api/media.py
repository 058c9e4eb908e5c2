"""Bodies: read within their limit, and as JSON that the record can keep.

Postgres's jsonb and our own encoder refuse some of what JSON parsers let through: NUL characters, lone
surrogates, numbers without bounds. It is refused here, where the caller can still be told about it.
"""

import json
import math
from collections.abc import Iterable
from typing import Any, NoReturn

import msgspec
from falcon.asgi import Request, Response

from actors.fields import spell
from api.desk import Desk
from api.errors import TooLarge, Unparsable, UnsupportedMedia
from tasks.errors import InvalidField

JSON = "application/json"
DEEPEST = 64
SMALLEST_INT, LARGEST_INT = -(2**63), 2**64 - 1
LONGEST_INT = len(str(SMALLEST_INT))
#: Larger bodies are parsed in a thread, so that other requests are answered meanwhile.
PARSED_AT_ONCE = 64 << 10

_encode = msgspec.json.Encoder().encode


def render(resp: Response, value: Any, status: int = 200) -> None:
    """Answer with ``value`` as JSON."""
    resp.status = status
    resp.content_type = JSON
    resp.data = _encode(value)


async def read_object(req: Request, desk: Desk, *, or_nothing: bool = False) -> dict[str, Any]:
    """The body as a JSON object; with ``or_nothing`` no body is as good as an empty object.

    Raises:
      UnsupportedMedia, TooLarge, Unparsable: the body cannot be read.
      InvalidField: it is no object, or holds something that cannot be kept.
    """
    if req.content_type is not None and not is_json(req.content_type):
        raise UnsupportedMedia(f"{req.content_type} is not read here: send Content-Type: {JSON}.")
    raw = await _read(req, desk.kit.settings.body_limit)
    if not raw:
        if or_nothing:
            return {}
        raise Unparsable("The body is empty: send a JSON object.")
    value = parse(raw) if len(raw) <= PARSED_AT_ONCE else await desk.ask(parse, raw)
    if not isinstance(value, dict):
        raise InvalidField.of("body", "must be a JSON object")
    return value


async def read_nothing(req: Request, desk: Desk) -> None:
    """Refuse a body that says anything: the request takes none, or an empty object.

    Raises:
      UnsupportedMedia, TooLarge, Unparsable: the body cannot be read.
      InvalidField: it has fields.
    """
    given = await read_object(req, desk, or_nothing=True)
    if given:
        raise InvalidField([(name, "is unknown: this takes no fields") for name in given])


def is_json(content_type: str) -> bool:
    """Whether a content type is JSON: ``application/json`` or ``application/…+json``."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind == JSON or (kind.startswith("application/") and kind.endswith("+json"))


async def _read(req: Request, limit: int) -> bytes:
    length = req.content_length
    raw = b"" if length is not None and length > limit else await req.stream.read(limit + 1)
    if len(raw) > limit or (length is not None and length > limit):
        raise TooLarge(f"The body may have {limit} bytes: send less, or raise CALLBOARD_BODY_LIMIT.")
    return raw


def parse(raw: bytes) -> Any:
    """JSON that can be kept.

    Raises:
      Unparsable: this is not JSON (RFC 8259, in UTF-8, every key once).
      InvalidField: a value cannot be kept; the field is named.
    """
    try:
        value = _DECODER.decode(raw.decode())
    except UnicodeDecodeError as error:
        raise Unparsable(f"The body is not UTF-8: see byte {error.start}.") from None
    except json.JSONDecodeError as error:
        raise Unparsable(f"The body is not JSON: {error}.") from None
    except RecursionError:
        raise _too_deep() from None
    # Only an escape brings in what UTF-8 and JSON refuse, and only brackets bring depth: most bodies
    # need no second look.
    if b"\\u" in raw or raw.count(b"[") + raw.count(b"{") > DEEPEST:
        _look_through(value, "", 0)
    return value


def _look_through(value: Any, path: str, depth: int) -> None:
    if isinstance(value, str):
        _check_text(value, path)
    if not isinstance(value, dict | list):
        return
    if depth >= DEEPEST:
        raise _too_deep()
    inner: Iterable[tuple[str, Any]]
    if isinstance(value, dict):
        for key in value:
            _check_text(key, f"{path}.{spell(key)}".lstrip("."))
        inner = ((f"{path}.{key}" if path else key, item) for key, item in value.items())
    else:
        inner = ((f"{path}[{at}]", item) for at, item in enumerate(value))
    for name, item in inner:
        _look_through(item, name, depth + 1)


def _check_text(text: str, path: str) -> None:
    if "\0" in text:
        field = path.replace("\0", "\\u0000") or "body"
        raise InvalidField.of(spell(field), "holds a NUL character (\\u0000), which cannot be kept")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InvalidField.of(
                spell(path) or "body", "holds half of a surrogate pair, which is no character"
            ) from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise Unparsable(f"The body is ambiguous: the key {spell(twice)!r} appears twice in one object.")
    return found


def _integer(digits: str) -> int:
    number = int(digits) if len(digits) <= LONGEST_INT else LARGEST_INT + 1
    if not SMALLEST_INT <= number <= LARGEST_INT:
        raise Unparsable(f"The number {spell(digits, 24)} has more than 64 bits: send it as a string.")
    return number


def _decimal(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise Unparsable(f"The number {spell(digits, 24)} is too large: send it as a string.")
    return number


def _no_number(word: str) -> NoReturn:
    raise Unparsable(f"{word} is not JSON: send null or a string.")


def _too_deep() -> Unparsable:
    return Unparsable(f"The body is nested more than {DEEPEST} levels deep: flatten it.")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_decimal, parse_constant=_no_number
)
