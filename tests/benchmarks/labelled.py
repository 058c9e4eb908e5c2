"""Labelled sets in the layout of BEIR: documents, questions, and which document answers which question.

``corpus.jsonl`` has a line ``{"_id", "title", "text"}`` for each document (the title may be left out),
``queries.jsonl`` a line ``{"_id", "text"}`` for each question, and ``qrels/test.tsv`` or ``qrels.tsv`` a head
and then a line ``query-id<TAB>corpus-id<TAB>score`` for each judgement. A score above 0 means relevant.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.errors import CallboardError

HEAD = ["query-id", "corpus-id", "score"]


class BadSet(CallboardError):
    """A labelled set cannot be used; the message names the file, the line and the field."""

    code = "bad_set"


@dataclass(frozen=True)
class Text:
    """A document of the corpus."""

    id: str
    title: str
    text: str

    def markdown(self) -> str:
        """The document as Markdown, with its title as the heading; empty if it says nothing."""
        title = " ".join(self.title.split())
        heading = f"# {title}\n\n" if title else ""
        return f"{heading}{self.text.strip()}\n" if title or self.text.strip() else ""


@dataclass(frozen=True)
class Judged:
    """A question, and the ids of the documents that answer it."""

    id: str
    text: str
    relevant: frozenset[str]


def corpus(folder: Path) -> Iterator[Text]:
    """The documents, one at a time. Raises `BadSet`, also where two have the same id."""
    path, seen = folder / "corpus.jsonl", set[str]()
    for number, row in _rows(path):
        one = Text(
            _word(row, "_id", path, number),
            _word(row, "title", path, number, needed=False),
            _word(row, "text", path, number, empty=True),
        )
        if one.id in seen:
            raise _bad(path, number, "_id", f"{one.id!r} is there twice")
        seen.add(one.id)
        yield one


def judged(folder: Path) -> list[Judged]:
    """The questions that have an answer, in their order.

    The corpus is read once for its ids. Raises `BadSet`, also for judgements of what is not there.
    """
    known = {one.id for one in corpus(folder)}
    path, texts = folder / "queries.jsonl", dict[str, str]()
    for number, row in _rows(path):
        name = _word(row, "_id", path, number)
        if name in texts:
            raise _bad(path, number, "_id", f"{name!r} is there twice")
        texts[name] = _word(row, "text", path, number)
    relevant: dict[str, set[str]] = {}
    path = _judgements(folder)
    for number, query, document, score in _scores(path):
        if query not in texts:
            raise _bad(path, number, "query-id", f"{query!r} is not in queries.jsonl")
        if document not in known:
            raise _bad(path, number, "corpus-id", f"{document!r} is not in corpus.jsonl")
        if score > 0:
            relevant.setdefault(query, set()).add(document)
    if not relevant:
        raise BadSet(f"{path} finds no document relevant: give it judgements with a score above 0")
    return [Judged(name, texts[name], frozenset(relevant[name])) for name in texts if name in relevant]


def _judgements(folder: Path) -> Path:
    nested = folder / "qrels" / "test.tsv"
    return nested if nested.is_file() else folder / "qrels.tsv"


def _scores(path: Path) -> Iterator[tuple[int, str, str, int]]:
    for number, line in _lines(path):
        cells = line.rstrip("\r\n").split("\t")
        if number == 1:
            if cells != HEAD:
                raise BadSet(f"{path}:1: the head must be {'<TAB>'.join(HEAD)}")
            continue
        if len(cells) != len(HEAD):
            raise BadSet(f"{path}:{number}: has {len(cells)} columns: give it {', '.join(HEAD)}, with tabs")
        try:
            yield number, cells[0], cells[1], int(cells[2])
        except ValueError:
            raise _bad(path, number, "score", f"{cells[2]!r} is not a whole number") from None


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BadSet(f"{path}:{number}: is not JSON ({error}): give it one object a line") from None
        if not isinstance(row, dict):
            raise BadSet(f"{path}:{number}: is not a JSON object: give it one object a line")
        yield number, row


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    number = 0
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                yield number, line
    except UnicodeDecodeError:
        raise BadSet(f"{path}:{number + 1}: is not UTF-8 from here on: convert the file") from None
    except OSError as error:
        raise BadSet(f"{path} cannot be read ({error.strerror}): a set is laid out as BEIR's are") from None


def _word(
    row: dict[str, Any], field: str, path: Path, number: int, *, needed: bool = True, empty: bool = False
) -> str:
    value = row.get(field) if needed else row.get(field) or ""
    if not isinstance(value, str):
        raise _bad(path, number, field, "must be a text")
    if needed and not empty and not value.strip():
        raise _bad(path, number, field, "must not be empty")
    return value


def _bad(path: Path, number: int, field: str, message: str) -> BadSet:
    return BadSet(f"{path}:{number}: {field}: {message}: mend this line")
