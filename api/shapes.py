"""Schemas of msgspec, made as strict as the server is."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

#: Postgres keeps no NUL character, so no text may have one.
TEXT = "^[^\\u0000]*$"
NULL = {"type": "null"}
FILE = {"type": "string", "format": "binary", "description": "The document itself, with a filename."}


def as_input(
    schema: dict[str, Any],
    *,
    spellings: Mapping[str, str] | None = None,
    exclusive: Sequence[tuple[str, str]] = (),
    is_whole: bool = True,
    with_file: bool = False,
) -> dict[str, Any]:
    """A schema of something that is taken.

    A whole body refuses unknown fields and takes null for an optional one; ``spellings`` maps other names to
    fields, ``exclusive`` are pairs that cannot both be given.
    """
    made: dict[str, Any] = _strict(schema)
    if not is_whole or made.get("type") != "object":
        return made
    required = set(made.get("required", ()))
    fields = made["properties"]
    for name in fields.keys() - required:
        # A form has only texts.
        fields[name] = fields[name] if with_file else _or_null(fields[name])
    rules = [_not_both(first, second, fields) for first, second in exclusive]
    for other, name in (spellings or {}).items():
        fields[other] = {**fields[name], "description": f"Another name of `{name}`."}
        if name in required:
            required.discard(name)
            rules.append({"oneOf": [{"required": [name]}, {"required": [other]}]})
        else:
            rules.append({"not": {"required": [name, other]}})
    if with_file:
        fields["file"] = FILE
        required.add("file")
    made["required"] = sorted(required)
    made["additionalProperties"] = False
    return made | ({"allOf": rules} if rules else {})


def as_output(schema: Any) -> Any:
    """A schema of something that is given; what it says of defaults is of no use to its reader."""
    if isinstance(schema, list):
        return [as_output(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: as_output(value) for key, value in schema.items() if key != "default"}
    if isinstance(made.get("description"), str):
        made["description"] = simple(made["description"])
    return made


def as_parameters(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The parameters of a query string that is read as this schema; it knows no null."""
    required = schema.get("required", ())
    made = []
    for name, field in _strict(schema)["properties"].items():
        one: dict[str, Any] = {"name": name, "in": "query", "schema": _without_null(field)}
        # An empty value is as good as none.
        made.append(one | ({"required": True} if name in required else {"allowEmptyValue": True}))
    return made


def simple(words: str) -> str:
    """The words of a docstring as Markdown in one paragraph."""
    return re.sub(r"\s+", " ", words.replace("``", "`")).strip()


def _strict(schema: Any) -> Any:
    """The schema with what is true of every input: no NUL, patterns that all dialects know."""
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return {"$ref": schema["$ref"]}
    made = {key: _strict(value) for key, value in schema.items()}
    if isinstance(made.get("description"), str):
        made["description"] = simple(made["description"])
    if isinstance(made.get("pattern"), str):
        made["pattern"] = made["pattern"].replace("$(?!\\n)", "$")
    elif made.get("type") == "string" and not {"format", "enum"} & made.keys():
        made["pattern"] = TEXT
    return made


def _or_null(field: dict[str, Any]) -> dict[str, Any]:
    if field.keys() <= {"default", "description"} or NULL in field.get("anyOf", ()):
        return {key: value for key, value in field.items() if key != "default" or value is not None}
    outside: dict[str, Any] = {key: field[key] for key in ("default", "description") if key in field}
    inner = {key: value for key, value in field.items() if key not in outside}
    return {"anyOf": [*inner.pop("anyOf", [inner]), NULL], **outside}


def _without_null(field: dict[str, Any]) -> dict[str, Any]:
    made = {key: value for key, value in field.items() if key != "default" or value is not None}
    kept = [one for one in made.pop("anyOf", ()) if one != NULL]
    if len(kept) == 1:
        return {**kept[0], **made}
    return made | ({"anyOf": kept} if kept else {})


def _not_both(first: str, second: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Refuse the two together, unless one of them is null."""
    some = {name: {"not": NULL} for name in (first, second)}
    return {"not": {"required": [first, second], "properties": some}}
