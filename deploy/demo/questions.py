"""The demo's questions, each with the document that answers it."""

import csv
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.text import Text

from api.cli.search import show_hits
from api.cli.text import clean
from api.client import Client, Hit

TABLE = Path(__file__).with_name("questions.csv")
_HITS = 3


class Question(NamedTuple):
    """A question, and the name of the document that holds the answer."""

    text: str
    document: str


def questions() -> list[Question]:
    """Return the table of questions."""
    with TABLE.open(encoding="utf-8", newline="") as lines:
        return [Question(row["question"], row["document"]) for row in csv.DictReader(lines)]


def ask_all(console: Console, client: Client, kb: str) -> bool:
    """Ask all questions and show the answers; return whether each has at least one hit."""
    asked = questions()
    first = answered = 0
    for question in asked:
        hits = client.search(kb, question.text, limit=_HITS)
        answered += bool(hits)
        first += bool(hits) and hits[0].name == question.document
        _show(console, question, hits)
    console.print(
        f"{answered} of {len(asked)} questions have an answer; "
        f"{first} found the expected document in the first place.",
        highlight=False,
    )
    return answered == len(asked)


def _show(console: Console, question: Question, hits: list[Hit]) -> None:
    console.print(Text(f"? {question.text}", "bold"), soft_wrap=True)
    if not hits:
        console.print(Text("   no hit", "red"))
    show_hits(console, question.text, hits[:1])
    for number, hit in enumerate(hits[1:], start=2):
        heading = f" › {clean(hit.heading_path[-1])}" if hit.heading_path else ""
        console.print(Text(f"{number}. {clean(hit.name)}{heading}  {hit.score:.3f}", "dim"))
    console.print()
