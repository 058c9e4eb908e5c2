"""Text is read in whatever encoding it comes, and garbage is not taken for text."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.documents.decoding import clean_text, decode_text, looks_like_text, tidy_markdown
from pipelines.documents.errors import UnreadableDocument

SIMPLIFIED = (
    "公司在二〇二四年的收入增长了百分之十，主要来自海外市场。我们将继续投资研发。\n第二段：你好，世界！"
)
TRADITIONAL = (
    "公司在二零二四年的收入增長了百分之十，主要來自海外市場。我們將繼續投資研發。\n第二段：你好，世界！"
)
FRENCH = "L'été dernier, à Genève, l'élève a mangé des pâtes « al dente » — déjà vu ?\nÇa va."
GERMAN = "Äpfel, Öl und Übermut: größer als früher. Straße 5, 3 €."

everyday = st.text(
    st.characters(
        codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"], exclude_characters="\ufeff\ufffd"
    )
)
simplified = st.text(st.sampled_from(SIMPLIFIED.replace("\n", "").replace("〇", "")), min_size=1)


@given(everyday)
def test_utf8_round_trips_with_and_without_a_mark(text: str) -> None:
    assert decode_text(text.encode("utf-8")) == clean_text(text)
    assert decode_text(text.encode("utf-8-sig")) == clean_text(text)


@given(everyday, st.sampled_from([("utf-16-le", b"\xff\xfe"), ("utf-16-be", b"\xfe\xff")]))
def test_utf16_with_a_mark_round_trips(text: str, form: tuple[str, bytes]) -> None:
    encoding, mark = form
    if not text.startswith("\0"):
        assert decode_text(mark + text.encode(encoding)) == clean_text(text)


@given(simplified)
def test_chinese_in_gb18030_round_trips(text: str) -> None:
    # A lone 之 happens to be valid UTF-8; 的 never is.
    assert decode_text(f"的{text}".encode("gb18030")) == f"的{text}"


@given(st.binary(max_size=300))
def test_whatever_comes_is_refused_or_made_clean(data: bytes) -> None:
    try:
        text = decode_text(data)
    except UnreadableDocument:
        return
    assert "\0" not in text
    assert "\r" not in text
    text.encode("utf-8")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("text", [SIMPLIFIED, FRENCH, "Hello world", "多行\n文本 1"])
def test_utf16_without_a_mark_is_recognised(text: str, encoding: str) -> None:
    assert decode_text(text.encode(encoding)) == text


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (SIMPLIFIED, "gb18030"),
        (SIMPLIFIED.replace("〇", "零"), "gbk"),
        (TRADITIONAL, "big5"),
        (FRENCH, "cp1252"),
        (GERMAN, "cp1252"),
        ("Señor Núñez llegó mañana", "latin-1"),
    ],
)
def test_legacy_encodings_are_guessed(text: str, encoding: str) -> None:
    assert decode_text(text.encode(encoding)) == text


@pytest.mark.parametrize(
    ("text", "charset"),
    [
        (SIMPLIFIED, "gb2312"),
        (TRADITIONAL, "big5"),
        ("Привет, мир", "windows-1251"),
        ("日本語のページ", "shift_jis"),
        ("日本語のページ", "iso-2022-jp"),
    ],
)
def test_the_charset_that_html_declares_is_respected(text: str, charset: str) -> None:
    page = f'<html><head><meta http-equiv=Content-Type content="text/html; charset={charset}">{text}'
    codec = {"gb2312": "gb18030"}.get(charset, charset)
    assert text in decode_text(page.encode(codec), html=True)


def test_a_page_that_declares_another_charset_than_its_utf8_is_read_as_utf8() -> None:
    page = '<meta charset="windows-1252"><p>世界'
    assert decode_text(page.encode(), html=True) == page


def test_an_unknown_declared_charset_is_passed_over() -> None:
    page = '<meta charset="klingon"><p>hello'
    assert decode_text(page.encode(), html=True) == page


def test_a_few_broken_bytes_do_not_make_utf8_something_else() -> None:
    text = decode_text("你好世界".encode() * 50 + b"\xff" + "再见".encode())
    assert text.startswith("你好世界")
    assert text.endswith("再见")


def test_control_characters_go_and_newlines_become_one_kind() -> None:
    assert decode_text(b"a\0b\x01\r\nc\rd\x7f\te\xe2\x80\xa8f" + b" and much more text" * 30).startswith(
        "ab\ncd".replace("cd", "c\nd") + "\te\nf and"
    )


def test_binary_garbage_is_refused() -> None:
    chance = random.Random(7)
    for size in (200, 5000):
        garbage = chance.randbytes(size)
        assert not looks_like_text(garbage)
        with pytest.raises(UnreadableDocument, match="Save it as UTF-8"):
            decode_text(garbage)


def test_an_encoding_that_cannot_be_told_is_refused_and_not_turned_into_nonsense() -> None:
    with pytest.raises(UnreadableDocument):
        decode_text("Съешь же ещё этих мягких французских булок".encode("cp1251"))


def test_nothing_is_empty_text() -> None:
    assert decode_text(b"") == ""
    assert decode_text(b"\xef\xbb\xbf") == ""


def test_tidy_markdown_has_no_trailing_spaces_and_at_most_two_blank_lines_in_a_row() -> None:
    assert tidy_markdown("\n\na  \n\n\n\n\nb \t\n") == "a\n\n\nb\n"
    assert tidy_markdown(" \n\n ") == ""


def test_a_million_spaces_are_tidied_at_once() -> None:
    assert len(tidy_markdown("a" + " " * 1_000_000 + "b")) == 1_000_003
