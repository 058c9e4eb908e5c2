"""What the stages of the document pipeline hand to each other, and what users get."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec

ChunkSize = Annotated[int, msgspec.Meta(ge=1, le=100_000)]
ChunkOverlap = Annotated[int, msgspec.Meta(ge=0, le=99_999)]
ChunkUnit = Literal["characters", "tokens"]
#: What a knowledge base can be embedded by; by http it is the model of the settings.
EmbedderName = Literal["e5", "fast", "http"]


class Source(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The payload of ``document_processing``: a ``file_path``, a ``url``, or the ``blob`` of an upload.

    The name may be left out where the file or the URL has one; tokens are those of the knowledge base's
    embedder. ``metadata`` is what the user says about the document; left out, what is there stays.
    """

    file_path: str | None = None
    url: str | None = None
    blob: str | None = None
    name: str | None = None
    chunk_size: ChunkSize = 1_000
    chunk_overlap: ChunkOverlap = 200
    chunk_unit: ChunkUnit = "characters"
    metadata: dict[str, Any] | None = None


class Validated(msgspec.Struct, frozen=True, kw_only=True):
    """A document that is worth converting, and the version that it will be."""

    document_id: UUID
    name: str
    version: int
    blob: str
    media_type: str
    size_bytes: int
    sha256: str
    chunk_size: int
    chunk_overlap: int
    chunk_unit: ChunkUnit = "characters"
    metadata: dict[str, Any] | None = None


class Converted(msgspec.Struct, frozen=True, kw_only=True):
    """The document's text as Markdown, kept under ``text``."""

    source: Validated
    text: str
    characters: int


class ChunkRef(msgspec.Struct, frozen=True):
    """A chunk by its place in the list that is kept under ``chunks``."""

    chunks: str
    ordinal: int


class KeptChunk(msgspec.Struct, frozen=True, kw_only=True):
    """A chunk as it is kept between the stages; ``start`` and ``end`` count characters of the text."""

    ordinal: int
    text: str
    heading_path: tuple[str, ...]
    start: int
    end: int


class KeptChunks(msgspec.Struct, frozen=True, kw_only=True):
    """All chunks of a version."""

    source: Validated
    chunks: list[KeptChunk]


class Embedded(msgspec.Struct, frozen=True, kw_only=True):
    """A batch of chunks whose vectors are there: how many were made, and how many were there already.

    ``tokens`` counts those of each chunk, beginning with the chunk ``first``.
    """

    chunks: str
    embedded: int
    reused: int
    first: int = 0
    tokens: tuple[int, ...] = ()


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The result of ``document_processing``. ``removed`` counts chunks of older versions.

    ``metadata_updated`` says that the bytes are those of the searchable version, but not the metadata.
    """

    document_id: UUID
    name: str
    version: int
    chunks: int = 0
    embedded: int = 0
    reused: int = 0
    removed: int = 0
    unchanged: bool = False
    metadata_updated: bool = False
    duplicate_of: UUID | None = None


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """A version that is searchable, or the report of a document that turned out to be a ``duplicate``."""

    source: Validated
    chunks: int
    embedded: int
    reused: int
    duplicate: Report | None = None


class KnowledgeBase(msgspec.Struct, frozen=True, kw_only=True):
    """A knowledge base as users see it."""

    kb_id: str
    name: str
    embedder: str
    dim: int
    documents: int
    chunks: int
    created_at: datetime


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """A document as users see it; ``version`` 0 is not searchable (yet), or by its ``duplicate_of`` alone.

    It is cut by ``chunk_size``, ``chunk_overlap`` and ``chunk_unit``; they are null before it has a version.
    """

    document_id: UUID
    name: str
    media_type: str
    size_bytes: int
    sha256: str
    version: int
    chunks: int
    chunk_size: int | None
    chunk_overlap: int | None
    chunk_unit: ChunkUnit | None
    task_id: UUID | None
    duplicate_of: UUID | None
    metadata: dict[str, Any]
    created_at: datetime
    updated_at: datetime


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """How a hit earned its score, which is the sum of both contributions.

    Ranks begin with 1; ``text_score`` is Postgres' ts_rank, ``vector_score`` the cosine (-1 to 1), and
    ``text_coverage``, in hybrid searches alone, the share of the question's words that the hit holds; null
    where a half did not find the hit. A contribution is weight · 61 / (60 + rank), times the coverage if any.
    """

    text_rank: int | None
    text_score: float | None
    text_coverage: float | None
    text_weight: float
    text_contribution: float
    vector_rank: int | None
    vector_score: float | None
    vector_weight: float
    vector_contribution: float


class Hit(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A chunk that answers a question.

    ``highlights`` are the ranges [start, end) of ``text`` that matched words of the question.
    """

    text: str
    score: float
    document_id: UUID
    name: str
    heading_path: list[str]
    start: int
    end: int
    tokens: int | None = None
    highlights: list[tuple[int, int]] | None = None
    explanation: Explanation | None = None


class AddedDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A document that is being processed, and the task that does it."""

    document_id: UUID
    task_id: UUID
