"""Labelled sets in the layout of BEIR: what is read, what is refused, and what is made of other layouts."""

from pathlib import Path

import pytest

from tests.benchmarks import sets
from tests.benchmarks.labelled import BadSet, Judged, corpus, judged

CRANFIELD = """.I 1
.T
wings in
slipstreams
.A
ann
.W
wings in
slipstreams were studied .
.I 3
.T
shells
.W
shells buckle .
"""
QUERIES = ".I 001\n.W\nwhat do wings do ?\n.I 004\n.W\nwhat do shells do ?\n"


def write_set(folder: Path, **files: str) -> Path:
    given = {
        "corpus": '{"_id": "d1", "title": "Wings", "text": "They fly."}\n{"_id": "d2", "text": ""}\n',
        "queries": '{"_id": "q1", "text": "what flies?"}\n{"_id": "q2", "text": "nobody judged this"}\n',
        "qrels": "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\n",
    } | files
    for name, text in given.items():
        (folder / f"{name}.{'tsv' if name == 'qrels' else 'jsonl'}").write_text(text, encoding="utf-8")
    return folder


def test_a_set_has_documents_and_the_questions_that_were_judged(tmp_path: Path) -> None:
    folder = write_set(tmp_path)

    assert [one.markdown() for one in corpus(folder)] == ["# Wings\n\nThey fly.\n", ""]
    assert judged(folder) == [Judged("q1", "what flies?", frozenset({"d1"}))]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("corpus", '{"_id": "d1"}\n', r"corpus\.jsonl:1: text: must be a text"),
        ("corpus", "{\n", r"corpus\.jsonl:1: is not JSON"),
        ("queries", '{"_id": "q1", "text": " "}\n', r"queries\.jsonl:1: text: must not be empty"),
        ("qrels", "q1\td1\t1\n", r"qrels\.tsv:1: the head must be query-id<TAB>corpus-id<TAB>score"),
        ("qrels", "query-id\tcorpus-id\tscore\nq9\td1\t1\n", r"qrels\.tsv:2: query-id: 'q9' is not in"),
        ("qrels", "query-id\tcorpus-id\tscore\nq1\td1\tyes\n", r"qrels\.tsv:2: score: 'yes' is not a whole"),
    ],
)
def test_what_is_wrong_in_a_set_is_named_by_file_line_and_field(
    tmp_path: Path, file: str, text: str, message: str
) -> None:
    with pytest.raises(BadSet, match=message):
        judged(write_set(tmp_path, **{file: text}))


def test_cranfield_counts_its_queries_and_repeats_its_titles(tmp_path: Path) -> None:
    # Given judgements that count the queries in their order, whatever their own numbers are
    corpus_rows, queries, judgements = sets.cranfield(CRANFIELD, QUERIES, "1 1 2\n1 3 5\n2 3 -1\n")

    assert [row["text"] for row in corpus_rows] == ["were studied .", "buckle ."]
    assert [row["_id"] for row in queries] == ["1", "2"]
    assert judgements == [("1", "1"), ("2", "3")]
    sets.write(tmp_path, corpus_rows, queries, judgements)
    assert [one.relevant for one in judged(tmp_path)] == [{"1"}, {"3"}]


def test_xquad_asks_in_one_language_about_paragraphs_in_another() -> None:
    def file(context: str, question: str) -> object:
        questions = [{"id": "q", "question": question}]
        return {"data": [{"paragraphs": [{"context": context, "qas": questions}]}]}

    rows, asked, judgements = sets.xquad(file("English.", "What?"), file("中文。", "什么？"))

    assert (rows[0]["text"], asked[0]["text"], judgements) == ("English.", "什么？", [("q", "p0")])
