"""What the document store takes and gives: frozen values, no rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, NamedTuple, TypeVar
from uuid import UUID

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A slice of a list, and how long the whole list is."""

    items: list[T]
    total: int


@dataclass(frozen=True, slots=True)
class KnowledgeBase:
    """A named set of documents that are embedded by one model of ``dim`` dimensions.

    ``key`` is the store's own number for it; ``kb_id`` is what its owner calls it. ``documents`` and
    ``chunks`` count what it held when it was read.
    """

    key: int
    owner: str
    kb_id: str
    name: str
    embedder: str
    dim: int
    documents: int
    chunks: int
    created_at: datetime
    generation: int = 0  # of its vectors, which are all of one model


@dataclass(frozen=True, slots=True)
class Document:
    """A document by name; ``version`` is the one that searches see (0: none yet).

    ``media_type``, ``size_bytes``, ``sha256``, ``chunks`` and ``cut`` (the options it was cut by)
    describe that version, ``metadata`` is what users say about the document. One that has no version since
    another document has the same bytes is ``duplicate_of`` that one, for as long as it is there.
    """

    id: UUID
    kb: int
    name: str
    media_type: str
    size_bytes: int
    sha256: str
    version: int
    last_version: int
    chunks: int
    task_id: UUID | None
    metadata: Mapping[str, Any]
    cut: Mapping[str, Any]
    created_at: datetime
    updated_at: datetime
    duplicate_of: UUID | None = None


@dataclass(frozen=True, slots=True)
class Content:
    """The facts about the bytes that a version was made from.

    ``cut`` holds the options it was cut by, ``metadata`` is the users' own; None leaves it as it is.
    """

    media_type: str
    size_bytes: int
    sha256: str
    cut: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] | None = None


class NewChunk(NamedTuple):
    """A chunk to be stored: its place, its text, and the characters ``[start, end)`` it came from.

    ``text_hash`` names the text in the cache of embeddings; ``tokens`` is None where nobody counted.
    """

    ordinal: int
    text: str
    heading_path: Sequence[str]
    start: int
    end: int
    text_hash: bytes
    tokens: int | None = None


class Span(NamedTuple):
    """Chunks of one version of a document: those with the ordinals ``[first, end)``."""

    document_id: UUID
    version: int
    first: int
    end: int


@dataclass(frozen=True, slots=True)
class Reembedding:
    """A knowledge base that the run ``run_id`` embeds anew, into the generation ``generation``.

    ``former`` is the embedder that it had before.
    """

    run_id: UUID
    embedder: str
    dim: int
    generation: int
    former: str
    is_done: bool


@dataclass(frozen=True, slots=True)
class Explanation:
    """How a hit earned its score: its rank (from 1) and raw score in each half that found it.

    The score is the sum of both contributions; a half's is its weight times 61 / (60 + rank). In a hybrid
    search that of the words is multiplied by ``text_coverage``, the share of the question's words that the
    hit holds; it is None elsewhere.
    """

    text_rank: int | None
    text_score: float | None  # ts_rank
    text_coverage: float | None  # above 0, at most 1
    vector_rank: int | None
    vector_score: float | None  # cosine similarity, -1 to 1
    text_weight: float
    vector_weight: float
    text_contribution: float
    vector_contribution: float


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that a search found; ``score`` is at most 1: first place in both halves, with all words."""

    text: str
    score: float
    document_id: UUID
    name: str
    heading_path: tuple[str, ...]
    start: int
    end: int
    explanation: Explanation | None = None
    tokens: int | None = None
    highlights: Sequence[tuple[int, int]] | None = None
