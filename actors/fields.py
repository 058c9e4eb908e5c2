"""Fields: from what a caller sent to a struct, with every wrong field named at once."""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Literal, TypeVar, get_args, get_origin

import msgspec

from tasks.errors import InvalidField

S = TypeVar("S", bound=msgspec.Struct)
NO_SYNONYMS: Mapping[str, str] = {}
LONGEST_MESSAGE = 300

#: What msgspec says of an object, and what is said of the field of that object instead.
_OF_A_FIELD = {
    re.compile("Object missing required field `(.*)`", re.DOTALL): "is required",
    re.compile("Object contains unknown field `(.*)`", re.DOTALL): "is not known here",
}
_NOT_FROM_TEXT = re.compile(r"Expected `(int|bool)(?: \| null)?`, got `str`")
_FROM_TEXT = {"int": "must be a whole number", "bool": "must be true or false"}


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
    if not from_text and (whole := _at_once(schema, known, given)) is not None:
        return whole
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
    missing = (name for name, field in known.items() if field.required and field.name not in values)
    errors += [
        (prefix + name, "is required")
        for name in missing
        if known[name].name not in seen or given[seen[known[name].name]] is None
    ]
    if errors:
        raise InvalidField(errors)
    return schema(**values)


def _at_once(
    schema: type[S], known: Mapping[str, msgspec.structs.FieldInfo], given: Mapping[str, Any]
) -> S | None:
    """What is right as it stands, in one step; None: every field is to be looked at."""
    if not known.keys() >= given.keys() or None in given.values():
        return None
    try:
        return msgspec.convert(given, schema)
    except msgspec.ValidationError:
        return None


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
        place, message = refused(error, name, field.type)
        found = _NOT_FROM_TEXT.fullmatch(message) if from_text else None
        errors.append((place, message if found is None else _FROM_TEXT[found[1]]))


def refused(error: msgspec.ValidationError, field: str, kind: Any) -> tuple[str, str]:
    """What does not fit below ``field``, a ``kind``: its place, and why, in words of callers."""
    message, _, path = str(error).partition(" - at `$")
    place = field + path.rstrip("`")
    for pattern, words in _OF_A_FIELD.items():
        if (found := pattern.fullmatch(message)) is not None:
            return f"{place}.{spell(found[1])}", words
    parts = [] if path else list(_parts(kind))
    if "matching regex" in message:
        message = next((f"must {part['must']}" for part in parts if isinstance(part, dict)), message)
    choices = [part for part in parts if isinstance(part, str)]
    if message.startswith("Invalid enum value") and choices:
        number = ", or a whole number" if int in parts else ""
        message = f"must be one of {', '.join(choices)}{number}"
    return place, spell(message, LONGEST_MESSAGE)


def _parts(kind: Any) -> Iterator[Any]:
    """What a type is made of: plain types, the words it allows, and what its Meta says in ``extra``."""
    if isinstance(kind, msgspec.Meta):
        yield kind.extra or {"must": f"match {kind.pattern}"}
    elif get_origin(kind) is Literal:
        yield from map(str, get_args(kind))
    elif inner := get_args(kind):
        for one in inner:
            yield from _parts(one)
    else:
        yield kind


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
    return {field.encode_name: field for field in msgspec.structs.fields(schema)}
