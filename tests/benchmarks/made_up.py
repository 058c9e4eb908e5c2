"""Made-up chunks in any number: texts of a Zipf vocabulary, and unit vectors that lie in clusters.

A cluster is a topic: its chunks are near each other, and a part of their words are the topic's own.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

DIM = 384
LATENT = 32  # as many directions matter as in embeddings of real texts; in 384, all neighbours were as far
TOPICS = 2_000
WORDS = 60_000
TOPIC_WORDS = 40
LENGTH = 120  # words of a chunk
OWN_SHARE = 0.2  # of a chunk's words that are its topic's
SPREAD, BLUR = 0.6, 0.1  # of the chunks of a topic, in the latent directions and in all

Vectors = npt.NDArray[np.float16]
_CONSONANTS, _VOWELS = "bdfgklmnprtvz", "aeiou"
_HEAD = b"PGCOPY\n\xff\r\n\x00" + struct.pack(">ii", 0, 0)
_TAIL = struct.pack(">h", -1)


@dataclass(frozen=True)
class Chunks:
    """Chunks numbered from ``first``: their texts, and their vectors, one row each."""

    first: int
    texts: list[str]
    vectors: Vectors

    def binary(self) -> bytes:
        """Rows ``(n int, text, halfvec)`` as Postgres' binary COPY reads them."""
        size = DIM * 2 + 4
        head = struct.pack(">ihh", size, DIM, 0)
        rows = [
            struct.pack(">hiii", 3, 4, self.first + n, len(text)) + text.encode() + head + vector.tobytes()
            for n, (text, vector) in enumerate(zip(self.texts, self.vectors.astype(">f2"), strict=True))
        ]
        return b"".join([_HEAD, *rows, _TAIL])


class MadeUp:
    """Makes chunks and questions up; the same ``seed`` makes the same ones."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._words = [_word(n) for n in self._random.permutation(WORDS)]
        weights = 1 / (np.arange(WORDS) + 2.7)  # Zipf's law, with Mandelbrot's shift
        self._cumulated = np.cumsum(weights) / weights.sum()
        self._own = self._random.integers(WORDS // 100, WORDS, (TOPICS, TOPIC_WORDS))
        self._centres = self._random.standard_normal((TOPICS, LATENT))
        self._directions = np.linalg.qr(self._random.standard_normal((DIM, LATENT)))[0].T

    def chunks(self, count: int, batch: int) -> Iterator[Chunks]:
        """``count`` chunks of random topics, ``batch`` at a time."""
        for first in range(0, count, batch):
            topics = self._random.integers(0, TOPICS, min(batch, count - first))
            yield Chunks(first, self._texts(topics), self._vectors(topics))

    def question(self, text: str, vector: Vectors) -> tuple[str, npt.NDArray[np.float32]]:
        """Six words of a chunk's ``text``, and a vector near its ``vector``."""
        words = self._random.choice(text.split(), 6, replace=False)
        noise = self._random.standard_normal(DIM) * 0.3 / np.sqrt(DIM)
        return " ".join(words), _units(vector + noise).astype(np.float32)

    def _texts(self, topics: npt.NDArray[np.int64]) -> list[str]:
        size = (len(topics), LENGTH)
        picked = np.searchsorted(self._cumulated, self._random.random(size))
        own = np.take_along_axis(self._own[topics], self._random.integers(0, TOPIC_WORDS, size), axis=1)
        picked = np.where(self._random.random(size) < OWN_SHARE, own, picked)
        return [" ".join(map(self._words.__getitem__, row)) for row in picked.tolist()]

    def _vectors(self, topics: npt.NDArray[np.int64]) -> Vectors:
        latent = self._centres[topics] + SPREAD * self._random.standard_normal((len(topics), LATENT))
        blur = BLUR * self._random.standard_normal((len(topics), DIM))
        return _units(latent @ self._directions + blur).astype(np.float16)


def _units(vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    units: npt.NDArray[np.float64] = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return units


def _word(number: int) -> str:
    """A word of its own for each number; the last letter keeps stemmers away."""
    syllables = ""
    while number or not syllables:
        number, place = divmod(number, len(_CONSONANTS) * len(_VOWELS))
        syllables += _CONSONANTS[place // len(_VOWELS)] + _VOWELS[place % len(_VOWELS)]
    return syllables + "x"
