"""What users may say about a document."""

from typing import Any

import pytest

from pipelines.documents.metadata import checked_metadata, metadata_of_form
from tasks.errors import InvalidField


@pytest.mark.parametrize(
    "metadata",
    [None, {}, {"author": "Ann", "year": 2024, "draft": False, "tags": ["a", 1, 0.5, True]}],
    ids=["none", "empty", "all kinds"],
)
def test_texts_numbers_booleans_and_lists_of_them_are_kept(metadata: dict[str, Any] | None) -> None:
    assert checked_metadata(metadata) == metadata


@pytest.mark.parametrize(
    "metadata",
    [
        {str(n): n for n in range(33)},
        {"": "x"},
        {"k" * 101: "x"},
        {"k\0": "x"},
        {"k": None},
        {"k": {"a": 1}},
        {"k": [["a"]]},
        {"k": "\0"},
        {"k": "\ud800"},
        {"k": 10**400},
        {"k": float("inf")},
        {"k": "x" * 16_384},
    ],
    ids=[
        "too many keys", "no key", "long key", "NUL in a key", "null", "object", "list in a list",
        "NUL", "lone surrogate", "huge number", "infinity", "too large",
    ],
)  # fmt: skip
def test_all_else_is_refused_by_the_fields_name(metadata: dict[str, Any]) -> None:
    with pytest.raises(InvalidField) as refused:
        checked_metadata(metadata, "payload.metadata")

    assert refused.value.errors[0][0] == "payload.metadata"


@pytest.mark.parametrize("text", ["[1]", "{", '{"a": null}', "[" * 60_000, "NaN", "\ud800"], ids=range(6))
def test_a_form_that_holds_anything_but_an_object_is_refused(text: str) -> None:
    with pytest.raises(InvalidField, match="metadata"):
        metadata_of_form(text)
