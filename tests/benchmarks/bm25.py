"""Okapi BM25 (Robertson and Zaragoza 2009), written apart from our search, to compare it with."""

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class BM25(Generic[Key]):
    """Ranks documents, given as how often each term occurs in them, by the terms of a query."""

    def __init__(
        self, documents: Mapping[Key, Mapping[str, int]], *, k1: float = 1.2, b: float = 0.75
    ) -> None:
        self._k1, self._b = k1, b
        self._lengths = {key: sum(terms.values()) for key, terms in documents.items()}
        self._mean_length = sum(self._lengths.values()) / max(1, len(documents))
        self._postings: dict[str, dict[Key, int]] = {}
        for key, terms in documents.items():
            for term, count in terms.items():
                self._postings.setdefault(term, {})[key] = count

    def rank(self, query: Iterable[str], limit: int = 10) -> list[Key]:
        """The best ``limit`` documents that hold any of the terms, best first; equals in the order given."""
        scores = self.scores(query)
        places = {key: place for place, key in enumerate(self._lengths)}
        return sorted(scores, key=lambda key: (-scores[key], places[key]))[:limit]

    def scores(self, query: Iterable[str]) -> dict[Key, float]:
        """The score of each document that holds any of the terms; a term said twice counts twice."""
        scores: dict[Key, float] = {}
        for term, times in Counter(query).items():
            postings = self._postings.get(term, {})
            for key, count in postings.items():
                gain = times * self._idf(len(postings)) * self._saturated(count, self._lengths[key])
                scores[key] = scores.get(key, 0.0) + gain
        return scores

    def _idf(self, holders: int) -> float:
        """How telling a term is that ``holders`` documents hold; with Lucene's 1 +, it is never negative."""
        return math.log(1 + (len(self._lengths) - holders + 0.5) / (holders + 0.5))

    def _saturated(self, count: int, length: int) -> float:
        """What ``count`` occurrences in a document of ``length`` terms are worth, at most k1 + 1."""
        norm = 1 - self._b + self._b * length / self._mean_length
        return count * (self._k1 + 1) / (count + self._k1 * norm)
