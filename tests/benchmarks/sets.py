"""Turns the files of Cranfield and of XQuAD into labelled sets in the layout of BEIR (see `labelled`).

``python -m tests.benchmarks.sets cranfield cran.all.1400 cran.qry cranqrel TARGET``
``python -m tests.benchmarks.sets xquad PARAGRAPHS.json QUESTIONS.json TARGET``, with the same file twice, or
with two languages for questions in the one and paragraphs in the other.
"""

import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.labelled import HEAD

_RECORD = re.compile(r"^\.I[ \t]+(\d+)[ \t]*\r?$", re.M)
_FIELD = re.compile(r"^\.([TABW])[ \t]*\r?$", re.M)
_RELEVANT = {-1, 1, 2, 3, 4}  # the codes; 5 says that a document is of no interest

Row = dict[str, str]
Judgement = tuple[str, str]


def cranfield(documents: str, queries: str, judgements: str) -> tuple[list[Row], list[Row], list[Judgement]]:
    """Documents, queries and judgements out of the texts of Cranfield's three files.

    The judgements count the queries in their order, and do not use the numbers that ``.I`` gives them. The
    abstract repeats the title, which is cut off. All degrees of relevance count alike, since their codes
    are no gains: 1 is the best and 4 the least. A line of judgements ends with the document and the code,
    whether it is written in Cranfield's three columns or in TREC's four.
    """
    corpus = []
    for number, fields in _records(documents):
        title, text = fields.get("T", ""), fields.get("W", "")
        corpus.append({"_id": number, "title": title, "text": text.removeprefix(title).strip()})
    asked = [
        {"_id": str(place), "text": fields.get("W", "")}
        for place, (_, fields) in enumerate(_records(queries), 1)
    ]
    rows = (line.split() for line in judgements.splitlines() if line.strip())
    return corpus, asked, [(row[0], row[-2]) for row in rows if int(row[-1]) in _RELEVANT]


def xquad(paragraphs: Any, questions: Any) -> tuple[list[Row], list[Row], list[Judgement]]:
    """Documents, queries and judgements out of two files of XQuAD, parsed: each paragraph is a document.

    The files have the same articles, paragraphs and questions in the same order, whatever their languages.
    """
    corpus: list[Row] = []
    asked: list[Row] = []
    judgements: list[Judgement] = []
    pairs = zip(_paragraphs(paragraphs), _paragraphs(questions), strict=True)
    for number, (paragraph, other) in enumerate(pairs):
        corpus.append({"_id": f"p{number}", "title": "", "text": paragraph["context"]})
        for question in other["qas"]:
            asked.append({"_id": question["id"], "text": question["question"]})
            judgements.append((question["id"], f"p{number}"))
    return corpus, asked, judgements


def write(target: Path, corpus: Iterable[Row], queries: Iterable[Row], judged: Iterable[Judgement]) -> None:
    """Write a labelled set into the folder ``target``, which is made."""
    (target / "qrels").mkdir(parents=True, exist_ok=True)
    for name, rows in (("corpus", corpus), ("queries", queries)):
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (target / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    lines = ["\t".join(HEAD) + "\n", *(f"{query}\t{document}\t1\n" for query, document in judged)]
    (target / "qrels" / "test.tsv").write_text("".join(lines), encoding="utf-8")


def main(words: Sequence[str]) -> None:
    """Convert the files that ``words`` name."""
    match words:
        case ["cranfield", _, _, _, target]:
            write(Path(target), *cranfield(*(Path(one).read_text("utf-8") for one in words[1:4])))
        case ["xquad", _, _, target]:
            write(Path(target), *xquad(*(json.loads(Path(one).read_text("utf-8")) for one in words[1:3])))
        case _:
            sys.exit(__doc__)


def _records(text: str) -> list[tuple[str, dict[str, str]]]:
    parts = _RECORD.split(text)
    return [(number, _fields(body)) for number, body in zip(parts[1::2], parts[2::2], strict=True)]


def _fields(body: str) -> dict[str, str]:
    parts = _FIELD.split(body)
    return {name: " ".join(text.split()) for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def _paragraphs(file: Any) -> list[Any]:
    return [paragraph for article in file["data"] for paragraph in article["paragraphs"]]


if __name__ == "__main__":
    main(sys.argv[1:])
