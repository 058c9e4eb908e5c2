"""How text becomes words, before Postgres sees it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.documents.store.lexemes import MOST_QUERY_WORDS, document_lexemes, query_lexemes


@pytest.mark.parametrize(
    ("text", "lexemes"),
    [
        ("Hello, World!", "hello world"),
        ("state-of-the-art snake_case C++", "state of the art snake case c"),
        ("knowl\u00adedge", "knowledge"),
        ("ＦＵＬＬ　ｗｉｄｔｈ", "full width"),
        ("Straße", "strasse"),
        ("हिन्दी", "हिन्दी"),
        ("a\x00b \ud800 🎉", "a b"),
        ("", ""),
    ],
)
def test_a_document_gives_its_words_without_case_and_punctuation(text: str, lexemes: str) -> None:
    assert document_lexemes(text) == lexemes


@pytest.mark.parametrize(
    ("text", "lexemes"),
    [
        ("知识库管理", "知识 识库 库管 管理 理"),
        ("カタカナ", "カタ タカ カナ ナ"),
        ("ｶﾞｷﾞ", "ガギ ギ"),
        ("한국어 문서", "한국 국어 어 문서 서"),
        ("用Python写的。", "用 python 写的 的"),
        ("中", "中"),
    ],
)
def test_a_document_gives_cjk_runs_as_bigrams_and_the_last_character(text: str, lexemes: str) -> None:
    assert document_lexemes(text) == lexemes


def test_a_query_is_an_or_of_distinct_words() -> None:
    assert query_lexemes("What is a vector? A VECTOR!") == "what | is | a | vector"


def test_a_query_for_cjk_is_an_or_of_bigrams() -> None:
    assert query_lexemes("什么是知识库?") == "什么 | 么是 | 是知 | 知识 | 识库"


def test_a_single_cjk_character_asks_for_every_lexeme_it_begins() -> None:
    assert query_lexemes("猫") == "猫:*"


def test_a_query_without_words_is_empty() -> None:
    assert query_lexemes("?! ' \" & | \x00 🎉") == ""


def test_words_too_long_for_postgres_are_left_out() -> None:
    assert document_lexemes("short " + "x" * 5000) == "short"
    assert query_lexemes("x" * 5000) == ""


def test_a_very_long_query_is_cut() -> None:
    words = query_lexemes(" ".join(f"word{n}" for n in range(5000))).split(" | ")

    assert len(words) == MOST_QUERY_WORDS


@given(st.text(max_size=60))
def test_a_document_is_found_by_its_own_text(text: str) -> None:
    document = document_lexemes(text).split()

    for word in filter(None, query_lexemes(text).split(" | ")):
        assert any(lexeme.startswith(word.removesuffix(":*")) for lexeme in document)


@given(st.text())
def test_lexemes_never_hold_what_postgres_would_read_as_an_operator(text: str) -> None:
    for word in query_lexemes(text).replace(" | ", " ").split():
        assert not set(word.removesuffix(":*")) & set("&|!()<>:*'\"\\\0")
