"""Labelled sets: what is read, what is refused and where, and how known collections become such sets."""

from pathlib import Path

import pytest

from tests.benchmarks import labelled, sets
from tests.benchmarks.labelled import BadSet, Judged, Text

CORPUS = '{"_id": "a", "title": "Cats", "text": "They purr."}\n{"_id": "b", "text": "Dogs bark."}\n'
QUERIES = '{"_id": "q1", "text": "who purrs?"}\n{"_id": "q2", "text": "who sings?"}\n'
QRELS = "query-id\tcorpus-id\tscore\nq1\ta\t2\nq2\tb\t0\n"


def _set(folder: Path, corpus: str = CORPUS, queries: str = QUERIES, qrels: str = QRELS) -> Path:
    (folder / "corpus.jsonl").write_text(corpus, encoding="utf-8")
    (folder / "queries.jsonl").write_text(queries, encoding="utf-8")
    (folder / "qrels.tsv").write_text(qrels, encoding="utf-8")
    return folder


def test_a_set_is_its_documents_and_the_questions_that_have_an_answer(tmp_path: Path) -> None:
    folder = _set(tmp_path)

    assert list(labelled.corpus(folder)) == [Text("a", "Cats", "They purr."), Text("b", "", "Dogs bark.")]
    assert labelled.judged(folder) == [Judged("q1", "who purrs?", frozenset({"a"}))]


def test_a_title_becomes_the_heading_of_a_document() -> None:
    assert Text("a", "Cats\nand dogs", "They purr.").markdown() == "# Cats and dogs\n\nThey purr.\n"
    assert Text("a", "", " ").markdown() == ""


@pytest.mark.parametrize(
    ("part", "content", "where"),
    [
        ("corpus", '{"_id": "a", "text": "x"}\nnonsense\n', "corpus.jsonl:2: is not JSON"),
        ("corpus", "[1]\n", "corpus.jsonl:1: is not a JSON object"),
        ("corpus", '{"_id": 7, "text": "x"}\n', "corpus.jsonl:1: _id"),
        ("corpus", '{"_id": "a", "text": "x"}\n' * 2, "corpus.jsonl:2: _id"),
        ("corpus", '{"_id": "a"}\n', "corpus.jsonl:1: text"),
        ("corpus", '{"_id": "a", "title": 1, "text": "x"}\n', "corpus.jsonl:1: title"),
        ("queries", '{"_id": "q1", "text": " "}\n', "queries.jsonl:1: text"),
        ("queries", '{"_id": "q1", "text": "x"}\n' * 2, "queries.jsonl:2: _id"),
        ("qrels", "q1\ta\t1\n", "qrels.tsv:1: the head"),
        ("qrels", QRELS + "q1 a 1\n", "qrels.tsv:4: has 1 columns"),
        ("qrels", QRELS + "q9\ta\t1\n", "qrels.tsv:4: query-id"),
        ("qrels", QRELS + "q1\tz\t1\n", "qrels.tsv:4: corpus-id"),
        ("qrels", QRELS + "q1\ta\tyes\n", "qrels.tsv:4: score"),
        ("qrels", "query-id\tcorpus-id\tscore\n", "finds no document relevant"),
    ],
)
def test_a_set_that_is_wrong_is_refused_with_the_place(
    tmp_path: Path, part: str, content: str, where: str
) -> None:
    folder = _set(tmp_path, **{part: content})

    with pytest.raises(BadSet, match=where):
        labelled.judged(folder)


def test_a_set_without_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSet, match="cannot be read"):
        labelled.judged(tmp_path)


def test_cranfield_counts_its_queries_in_their_order_and_leaves_out_what_is_of_no_interest() -> None:
    corpus, queries, judged = sets.cranfield(
        ".I 1\n.T\nwings .\n.A\nlee\n.B\n1958\n.W\nwings .\nthey lift .\n.I 2\n.T\n.A\n.B\n.W\n",
        ".I 001\n.W\nwhat lifts ?\n.I 004\n.W\nwhat\ndrags ?\n",
        "1 1 -1\n2 1 3\n2 2 5\n1 0 2 1\n",
    )

    assert corpus == [
        {"_id": "1", "title": "wings .", "text": "they lift ."},
        {"_id": "2", "title": "", "text": ""},
    ]
    assert queries == [{"_id": "1", "text": "what lifts ?"}, {"_id": "2", "text": "what drags ?"}]
    assert judged == [("1", "1"), ("2", "1"), ("1", "2")]


def test_xquad_asks_in_one_language_for_paragraphs_in_another_and_is_read_as_written(tmp_path: Path) -> None:
    english = {"data": [{"paragraphs": [{"context": "Cats purr.", "qas": []}]}]}
    chinese = {"data": [{"paragraphs": [{"context": "猫", "qas": [{"id": "q", "question": "谁？"}]}]}]}

    sets.write(tmp_path / "set", *sets.xquad(english, chinese))

    assert labelled.judged(tmp_path / "set") == [Judged("q", "谁？", frozenset({"p0"}))]
    assert [one.text for one in labelled.corpus(tmp_path / "set")] == ["Cats purr."]
