"""The measures of the search benchmark, on examples computed by hand."""

from math import log, log2

import pytest

from tests.benchmarks.bm25 import BM25
from tests.benchmarks.measures import ndcg, recall, reciprocal_rank


@pytest.mark.parametrize(
    ("ranking", "relevant", "value"),
    [
        ("abc", "a", 1.0),
        ("abc", "b", 1 / log2(3)),
        ("abc", "c", 0.5),  # 1 / log2(4)
        ("abc", "x", 0.0),
        ("abc", "ab", 1.0),
        ("abc", "ba", 1.0),
        ("abc", "ac", 1.5 / (1 + 1 / log2(3))),
        ("abc", "ax", 1 / (1 + 1 / log2(3))),  # what was not found counts too
        ("", "a", 0.0),
        ("abc", "", 0.0),
    ],
)
def test_ndcg_discounts_by_the_logarithm_of_the_place(ranking: str, relevant: str, value: float) -> None:
    assert ndcg(ranking, relevant) == pytest.approx(value)


def test_ndcg_looks_no_deeper_than_it_should() -> None:
    assert ndcg("bca", "a", depth=2) == 0
    assert ndcg("abc", "abc", depth=2) == 1  # no ranking of two places could do better


@pytest.mark.parametrize(
    ("ranking", "relevant", "of_recall", "of_reciprocal_rank"),
    [
        ("abcd", "a", 1, 1),
        ("abcd", "c", 1, 1 / 3),
        ("abcd", "bd", 1, 1 / 2),
        ("abcd", "bx", 1 / 2, 1 / 2),
        ("abcd", "x", 0, 0),
        ("", "x", 0, 0),
    ],
)
def test_recall_and_reciprocal_rank(
    ranking: str, relevant: str, of_recall: float, of_reciprocal_rank: float
) -> None:
    assert recall(ranking, relevant) == pytest.approx(of_recall)
    assert reciprocal_rank(ranking, relevant) == pytest.approx(of_reciprocal_rank)


def test_what_lies_deeper_counts_neither_for_recall_nor_for_the_reciprocal_rank() -> None:
    assert recall("abcd", "bd", depth=3) == 0.5
    assert reciprocal_rank("abcd", "d", depth=3) == 0


# Three documents of 2, 2 and 5 terms, 3 on average.
_DOCUMENTS = {"one": {"cat": 1, "dog": 1}, "two": {"cat": 2}, "three": {"dog": 1, "cow": 4}}
_RARE, _COMMON = log(1 + 2.5 / 1.5), log(1 + 1.5 / 2.5)  # in one of the documents, in two


def test_bm25_weighs_rarity_frequency_and_length() -> None:
    scores = BM25(_DOCUMENTS).scores(["cat", "cow"])

    # 1.2 * (0.25 + 0.75 * 2 / 3) is 0.9, 1.2 * (0.25 + 0.75 * 5 / 3) is 1.8
    assert scores == pytest.approx(
        {"one": _COMMON * 2.2 / 1.9, "two": _COMMON * 4.4 / 2.9, "three": _RARE * 8.8 / 5.8}
    )


def test_bm25_ranks_by_score_and_leaves_out_what_holds_no_term() -> None:
    bm25 = BM25(_DOCUMENTS)

    assert bm25.rank(["cat", "cow"]) == ["three", "two", "one"]
    assert bm25.rank(["cat"], limit=1) == ["two"]
    assert bm25.rank(["mouse"]) == []


def test_bm25_leaves_equals_in_their_order_and_counts_repeated_terms() -> None:
    bm25 = BM25({"b": {"cat": 1}, "a": {"cat": 1}})

    assert bm25.rank(["cat"]) == ["b", "a"]
    assert bm25.scores(["cat", "cat"])["a"] == pytest.approx(2 * bm25.scores(["cat"])["a"])
