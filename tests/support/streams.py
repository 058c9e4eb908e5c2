"""Reading server-sent events by hand, to see what is really on the wire."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx


class Told(NamedTuple):
    """One event of a stream."""

    id: int
    event: str
    data: dict[str, Any]


def told_by(answer: httpx.Response) -> Iterator[Told]:
    """The events of a stream that is open; comments are left out."""
    fields: dict[str, str] = {}
    for line in answer.iter_lines():
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        elif "data" in fields:
            yield Told(int(fields["id"]), fields["event"], json.loads(fields["data"]))
            fields = {}
