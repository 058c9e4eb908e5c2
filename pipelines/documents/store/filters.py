"""Which documents a search looks at."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Filter:
    """Documents by id (any of them), and by metadata: all keys, each with any of its values.

    Values are texts, as people write them: "5" means the number as well as the text, "true" the
    boolean too. A list matches when it holds the value. An empty filter is all documents.
    """

    documents: Sequence[UUID] = ()
    metadata: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.documents or self.metadata)

    def condition(self) -> tuple[str, dict[str, Any]]:
        """What documents ``d`` have to fulfil, as SQL that begins with AND, and its values."""
        conditions, values = [], dict[str, Any]()
        if self.documents:
            conditions.append("AND d.id = ANY(%(documents)s::uuid[])")
            values["documents"] = list(self.documents)
        for n, (key, wanted) in enumerate(self.metadata.items()):
            conditions.append(f"AND d.metadata @> ANY(%(metadata_{n})s::jsonb[])")
            values[f"metadata_{n}"] = [json.dumps({key: one}) for text in wanted for one in _meanings(text)]
        return " ".join(conditions), values


def _meanings(text: str) -> list[Any]:
    meanings: list[Any] = [text]
    try:
        value = json.loads(text) if len(text) <= 30 else None
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, bool | int | float) and abs(value) < 1e300:  # neither infinite nor NaN
        meanings.append(value)
    return [one for value in meanings for one in (value, [value])]
