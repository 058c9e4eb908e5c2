"""An embedder for what is not about meaning: the words of a text, each at one of e5's places.

It costs hundreds of times less than e5, whose name and dimension it keeps.
"""

from collections.abc import Callable, Sequence
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from pipelines.documents.embedders.e5 import E5Embedder

Replace = Callable[[Any, str, Any], None]


def take_the_place_of_e5(replace: Replace) -> None:
    """Let e5 embed like this from now on; ``replace`` is ``setattr``, or a monkeypatch's."""
    replace(E5Embedder, "passages", passages)
    replace(E5Embedder, "query", query)
    replace(E5Embedder, "count_tokens", count_tokens)


def passages(self: E5Embedder, texts: Sequence[str]) -> NDArray[np.float32]:
    vectors = np.zeros((len(texts), self.dim), dtype=np.float32)
    for row, text in zip(vectors, texts, strict=True):
        for word in text.lower().split():
            row[crc32(word.encode()) % self.dim] += 1
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def query(self: E5Embedder, text: str) -> NDArray[np.float32]:
    vector: NDArray[np.float32] = self.passages([text])[0]
    return vector


def count_tokens(self: E5Embedder, text: str) -> int:
    return len(text.split())
