"""Cuts text into the SentencePiece unigram pieces of XLM-RoBERTa.

The text is normalised character by character, runs of spaces become one, and each space becomes the
mark ``▁`` before the word that follows. Of all ways to cut it, the one with the highest sum of log
probabilities is taken (Viterbi; Kudo 2018, https://arxiv.org/abs/1804.10959). No piece holds the mark
anywhere but at its start, so each word can be cut, and remembered, by itself.
"""

import re
from functools import lru_cache

import numpy as np

from pipelines.documents.embedders.e5_weights import Vocabulary

_MARK = "▁"
_SPACES = re.compile(" {2,}")
_UNKNOWN_PENALTY = 10.0
_REMEMBERED_WORDS = 32_768
_LONGEST_REMEMBERED = 24


class E5Tokenizer:
    """A tokenizer over one vocabulary; safe to share between threads."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.bos, self.eos, self._unknown = vocabulary.bos, vocabulary.eos, vocabulary.unknown
        self._normalisation = {0: "", **vocabulary.normalisation}
        self._scores: list[float] = vocabulary.scores.tolist()
        self._unknown_score = min(self._scores) - _UNKNOWN_PENALTY
        self._ids = dict(zip(vocabulary.pieces, range(len(vocabulary.pieces)), strict=True))
        # Control pieces alone have no probability. A text that spells one, such as "<s>", is just text.
        for control in np.flatnonzero(vocabulary.scores == 0.0).tolist():
            self._ids.pop(vocabulary.pieces[control], None)
        self._longest = _longest_by_first_character(list(self._ids))
        self._cut_remembered = lru_cache(_REMEMBERED_WORDS)(self._cut)

    def ids(self, text: str) -> list[int]:
        """The ids of the pieces of the text, without special tokens. Never empty: "" is a lone mark."""
        ids: list[int] = []
        for word in self._words(text):
            ids += self._cut_remembered(word) if len(word) <= _LONGEST_REMEMBERED else self._cut(word)
        return ids

    def _words(self, text: str) -> list[str]:
        spaced = _SPACES.sub(" ", text.translate(self._normalisation))
        if not spaced.startswith(" "):
            spaced = " " + spaced
        return [_MARK + word for word in spaced.replace(" ", _MARK).split(_MARK)[1:]]

    def _cut(self, word: str) -> tuple[int, ...]:
        length = len(word)
        best = [-float("inf")] * (length + 1)
        best[0] = 0.0
        came_from = [0] * (length + 1)
        piece = [self._unknown] * (length + 1)
        find, scores, longest = self._ids.get, self._scores, self._longest.get
        for start in range(length):
            so_far = best[start]
            for end in range(start + 1, min(length, start + longest(word[start], 0)) + 1):
                found = find(word[start:end])
                if found is not None and so_far + scores[found] > best[end]:
                    best[end], came_from[end], piece[end] = so_far + scores[found], start, found
            if so_far + self._unknown_score > best[start + 1]:
                best[start + 1], came_from[start + 1] = so_far + self._unknown_score, start
                piece[start + 1] = self._unknown
        return _walk_back(came_from, piece)


def _walk_back(came_from: list[int], piece: list[int]) -> tuple[int, ...]:
    path = []
    at = len(piece) - 1
    while at > 0:
        path.append(piece[at])
        at = came_from[at]
    return tuple(reversed(path))


def _longest_by_first_character(pieces: list[str]) -> dict[str, int]:
    longest: dict[str, int] = {}
    for piece in pieces:
        if piece and longest.get(piece[0], 0) < len(piece):
            longest[piece[0]] = len(piece)
    return longest
