"""Where the words of a question are in the text of a hit, by the rules of the text half of a search."""

import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from playhouse.pool import PooledPostgresqlDatabase

from pipelines.documents.store.lexemes import LONGEST_TEXT, cut_words, plain, query_lexemes

MOST_HIGHLIGHTS = 200  # of one hit

# Postgres stems both sides itself, so that what is marked is what was matched.
_MATCHING = """
SELECT word FROM unnest(%s::text[]) AS word
WHERE to_tsvector('english', word) @@ to_tsquery('english', %s)"""


class _Word(NamedTuple):
    text: str
    is_cjk: bool
    spans: Sequence[tuple[int, int]]  # of each character of `text` in the source


def highlights(
    database: PooledPostgresqlDatabase, question: str, texts: Sequence[str]
) -> list[list[tuple[int, int]]]:
    """For each text the ranges ``[start, end)`` that matched the question, in order, at most 200 each."""
    wanted = query_lexemes(question)
    words = [list(_words(text)) for text in texts]
    plain_words = sorted({word.text for one in words for word in one if not word.is_cjk})
    if not wanted or not texts:
        return [[] for _ in texts]
    rows = database.execute_sql(_MATCHING, (plain_words, wanted)).fetchall() if plain_words else []
    matching, asked = {word for (word,) in rows}, set(wanted.split(" | "))
    return [_merged(_matches(one, matching, asked))[:MOST_HIGHLIGHTS] for one in words]


def _matches(words: Sequence[_Word], matching: set[str], asked: set[str]) -> Iterator[tuple[int, int]]:
    for word in words:
        if not word.is_cjk:
            if word.text in matching:
                yield word.spans[0][0], word.spans[-1][1]
            continue
        for at, (start, end) in enumerate(word.spans):
            if word.text[at : at + 2] in asked and at + 1 < len(word.text):
                yield start, word.spans[at + 1][1]
            elif f"{word.text[at]}:*" in asked:
                yield start, end


def _merged(ranges: Iterator[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges that overlap, as those of a run's bigrams do, as one."""
    merged: list[tuple[int, int]] = []
    for start, end in ranges:
        if merged and start < merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def _words(text: str) -> Iterator[_Word]:
    """The words of ``text`` as they are stored, each character with the place that it came from."""
    characters: list[str] = []
    spans: list[tuple[int, int]] = []
    for start, end in _clusters(text[:LONGEST_TEXT]):
        normal = plain(text[start:end])
        characters.append(normal)
        spans.extend([(start, end)] * len(normal))
    for run, is_cjk in cut_words("".join(characters)):
        yield _Word(run[0], is_cjk, spans[run.start() : run.end()])


def _clusters(text: str) -> Iterator[tuple[int, int]]:
    """Characters with the marks that follow them, which may become one character."""
    start = 0
    for at in range(1, len(text) + 1):
        if at == len(text) or not unicodedata.combining(text[at]):
            yield start, at
            start = at
