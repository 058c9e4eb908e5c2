"""What one operation takes and gives, and how the structs of its bodies are made from others."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
from msgspec import structs

#: What any operation below the prefix may answer: Postgres is away.
ALWAYS = (503,)
OF_PATHS = (404,)
#: Two owners may have a knowledge base of one kb_id, so that a caller who sees both must say whose is meant.
OF_BASES = (409,)
OF_QUERIES = (422,)
OF_BODIES = (400, 413, 415, 422)
#: Another request with the same Idempotency-Key had another body, and a key may be malformed.
OF_KEYS = (409, 422)


TEXT: Mapping[str, Any] = {"type": "string"}
ETAG = (("If-None-Match", "The ETag of what the caller has already: if it is still the same, 304.", TEXT),)


class Operation(NamedTuple):
    """What one method of one address takes and gives.

    ``answers`` maps each status of success to a type, to None (no body), or to a content type (a body that
    is not JSON). ``query``, ``body`` and ``form`` are structs; ``body`` may be ``X | None``: it can be left
    out. ``once`` takes the header Idempotency-Key. ``refuses`` are statuses beside those that follow from
    the rest. ``headers`` are those it reads, with what they
    mean and their schema. ``has_location`` says that answers of
    201 and 202 have a Location.
    """

    address: str
    name: str
    answers: dict[int, Any]
    query: type[msgspec.Struct] | None = None
    body: Any = None
    form: type[msgspec.Struct] | None = None
    once: bool = False
    refuses: tuple[int, ...] = ()
    headers: tuple[tuple[str, str, Mapping[str, Any]], ...] = ()
    has_location: bool = False

    @property
    def method(self) -> str:
        """The HTTP method."""
        return self.address.partition(" ")[0]

    @property
    def path(self) -> str:
        """The path, without the prefix."""
        return self.address.partition(" ")[2]

    def refusals(self, *, below_prefix: bool) -> list[int]:
        """Every status of failure that this operation is known to answer, ascending."""
        found = set(self.refuses)
        for is_so, statuses in (
            (below_prefix, ALWAYS),
            ("{" in self.path, OF_PATHS),
            ("{kb_id}" in self.path, OF_BASES),
            (self.query is not None, OF_QUERIES),
            (self.body is not None or (self.method == "POST" and self.form is None), OF_BODIES),
            (self.once, OF_KEYS),
        ):
            if is_so:
                found.update(statuses)
        return sorted(found)


def listing(plural: str, item: Any) -> type[msgspec.Struct]:
    """The answer of a list: a page of items under their plural, and how to go on."""
    name = "".join(word.title() for word in plural.split("_")) + "Page"
    fields = [(plural, list[item]), ("total", int), ("total_is_exact", bool), ("next_cursor", str | None)]
    made = msgspec.defstruct(name, fields)
    made.__doc__ = "A part of a list, how many there are in all, and where the next part begins."
    return made


def holder(name: str, **fields: Any) -> type[msgspec.Struct]:
    """The answer that holds these fields and nothing else."""
    return msgspec.defstruct(name, list(fields.items()))


def optional(name: str, struct: type[msgspec.Struct], *, without: type[msgspec.Struct] | None = None) -> Any:
    """A struct with the fields of another, none of which has to be given; ``without`` leaves some out."""
    left_out = () if without is None else without.__struct_fields__
    fields = [(one.name, one.type | None, None) for one in structs.fields(struct) if one.name not in left_out]
    made = msgspec.defstruct(name, fields)
    made.__doc__ = struct.__doc__
    return made
