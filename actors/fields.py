"""Fields: from what a caller sent to a struct, with every wrong field named at once."""

from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

import msgspec

from tasks.errors import InvalidField

S = TypeVar("S", bound=msgspec.Struct)
NO_SYNONYMS: Mapping[str, str] = {}


def spell(text: str, longest: int = 100) -> str:
    """A caller's own word as it may appear in an answer: short, and without what cannot be encoded."""
    short = text if len(text) <= longest else text[:longest] + "…"
    return short.encode("utf-8", "backslashreplace").decode()


def read(
    schema: type[S],
    given: Mapping[str, Any],
    *,
    synonyms: Mapping[str, str] = NO_SYNONYMS,
    prefix: str = "",
    from_text: bool = False,
) -> S:
    """``given`` as a ``schema``; null is as good as leaving a field out.

    ``synonyms`` maps other spellings to fields, ``prefix`` goes before the names in errors, and with
    ``from_text`` all values are text (a query string).

    Raises:
      InvalidField: fields are unknown, missing, given twice or do not fit.
    """
    known = _fields(schema)
    errors: list[tuple[str, str]] = []
    values: dict[str, Any] = {}
    seen: dict[str, str] = {}
    for name, value in given.items():
        field = known.get(synonyms.get(name, name))
        if field is None:
            errors.append((prefix + spell(name), f"is not known here; known are {', '.join(known)}"))
        elif field.name in seen:
            errors.append((prefix + name, f"means the same as {seen[field.name]}: give one of them"))
        else:
            seen[field.name] = name
            if value is not None or field.type is Any:
                _convert(values, errors, field, value, prefix + name, from_text)
    missing = (name for name, field in known.items() if field.required and name not in values)
    errors += [
        (prefix + name, "is required") for name in missing if name not in seen or given[seen[name]] is None
    ]
    if errors:
        raise InvalidField(errors)
    return schema(**values)


def _convert(
    values: dict[str, Any],
    errors: list[tuple[str, str]],
    field: msgspec.structs.FieldInfo,
    value: Any,
    name: str,
    from_text: bool,
) -> None:
    try:
        values[field.name] = _converted(value, field.type, from_text)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        errors.append((name + path.rstrip("`"), spell(message, 300)))


def _converted(value: Any, kind: Any, from_text: bool) -> Any:
    if kind is not Any:
        is_object = isinstance(value, dict)
        value = {key: _whole(one) for key, one in value.items()} if is_object else _whole(value)
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError:
        if not from_text:
            raise
        # Numbers and truth can be told from text; "null" is nothing, and a number is no moment.
        found = msgspec.convert(value, kind, strict=False)
        if not isinstance(found, int | float):
            raise
        return found


def _whole(value: Any) -> Any:
    """JSON has one kind of numbers: 40.0 is 40."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


@cache
def _fields(schema: type[msgspec.Struct]) -> dict[str, msgspec.structs.FieldInfo]:
    return {field.name: field for field in msgspec.structs.fields(schema)}
