"""Words for Postgres' text search, cut alike for documents and queries, whatever the server's locale.

Chinese, Japanese and Korean are written without spaces that would help: their runs become overlapping
pairs of characters (bigrams). All other words go to Postgres as they are, and are stemmed there.
"""

import re
import unicodedata
from collections.abc import Iterator

LONGEST_TEXT = 50_000  # characters; a tsvector must stay below 1 MB
LONGEST_WORD = 200  # characters; Postgres refuses words of more than 2,046 bytes in a query
MOST_QUERY_WORDS = 200  # ts_rank's time grows with them

_CJK = (
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"  # iteration marks, kana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"  # Han
    "\u1100-\u11ff\u3130-\u318f\ua960-\ua97f\uac00-\ud7ff"  # Hangul
)
_RUNS = re.compile(rf"([{_CJK}]+)|[^{_CJK} ]+")


class _Gaps(dict[int, int | None]):
    """A table for `str.translate` that learns: letters, digits and marks stay, all else is a space."""

    def __missing__(self, code: int) -> int:
        kept = code if unicodedata.category(chr(code))[0] in "LNM" else ord(" ")
        self[code] = kept
        return kept


_GAPS = _Gaps({0xAD: None})  # a soft hyphen is inside its word


def document_lexemes(text: str) -> str:
    """``text`` as words with spaces between, for ``to_tsvector``.

    A CJK run ends with its last character alone, so that any single character is the beginning of
    some lexeme and a query for it finds them all.
    """
    return " ".join(
        lexeme
        for word, is_cjk in _words(text)
        for lexeme in (_bigrams(word, tail=True) if is_cjk else (word,))
    )


def query_lexemes(text: str) -> str:
    """``text`` as an OR for ``to_tsquery``; empty when it has no words. Safe for any input."""
    distinct: dict[str, None] = {}
    for word, is_cjk in _words(text):
        if is_cjk and len(word) == 1:
            distinct[f"{word}:*"] = None
        else:
            distinct.update(dict.fromkeys(_bigrams(word) if is_cjk else (word,)))
        if len(distinct) >= MOST_QUERY_WORDS:
            break
    return " | ".join(list(distinct)[:MOST_QUERY_WORDS])


def _words(text: str) -> Iterator[tuple[str, bool]]:
    """The words of ``text`` in order, and whether each is a CJK run."""
    return ((run[0], is_cjk) for run, is_cjk in cut_words(plain(text[:LONGEST_TEXT])))


def plain(text: str) -> str:
    """``text`` in lower case and compatible forms, with a space for all that is in no word."""
    return unicodedata.normalize("NFKC", text).casefold().translate(_GAPS)


def cut_words(text: str) -> Iterator[tuple[re.Match[str], bool]]:
    """The words of a `plain` text in order, and whether each is a CJK run."""
    for run in _RUNS.finditer(text):
        is_cjk = run[1] is not None
        if is_cjk or len(run[0]) <= LONGEST_WORD:
            yield run, is_cjk


def _bigrams(run: str, *, tail: bool = False) -> Iterator[str]:
    yield from (run[i : i + 2] for i in range(len(run) - 1))
    if tail or len(run) == 1:
        yield run[-1]
