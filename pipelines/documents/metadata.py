"""What users say about a document: a small JSON object by which searches can be narrowed."""

import json
from typing import Any

import msgspec

from pipelines.documents.store.checks import storable
from tasks.errors import InvalidField

Metadata = dict[str, Any]

MOST_KEYS = 32
LONGEST_KEY = 100  # characters
MOST_BYTES = 16 * 1024  # as JSON
# Whole numbers of this size are the same in every language that reads JSON.
LARGEST_NUMBER = 2**53 - 1


def checked_metadata(metadata: Metadata | None, field: str = "metadata") -> Metadata | None:
    """``metadata`` itself, or `InvalidField` that names ``field`` and what is wrong with which key."""
    if metadata is None:
        return None
    if len(metadata) > MOST_KEYS:
        raise InvalidField.of(field, f"must have at most {MOST_KEYS} keys")
    for key, value in metadata.items():
        if not 1 <= len(key) <= LONGEST_KEY or storable(key) != key:
            raise InvalidField.of(field, f"keys must be 1 to {LONGEST_KEY} characters without NUL")
        if not all(map(_is_plain, value if isinstance(value, list) else [value])):
            raise InvalidField.of(
                field,
                f"{key!r} must be a text without NUL, a number within ±{LARGEST_NUMBER}, true, false, "
                "or a list of those",
            )
    if len(json.dumps(metadata, ensure_ascii=False).encode()) > MOST_BYTES:
        raise InvalidField.of(field, f"must be at most {MOST_BYTES:,} bytes as JSON")
    return metadata


def metadata_of_form(text: str | None) -> Metadata | None:
    """The metadata in a field of a form: JSON. Raises `InvalidField`."""
    if text is None:
        return None
    try:
        return checked_metadata(msgspec.json.decode(text, type=Metadata))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise InvalidField.of("metadata", 'must be a JSON object, such as {"author": "Ann"}') from None


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return storable(value) == value
    return isinstance(value, bool | int | float) and abs(value) <= LARGEST_NUMBER
