"""What callers send about knowledge bases and documents, and ask of them."""

from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from actors.requests import Id
from pipelines.documents.metadata import LARGEST_NUMBER, LONGEST_KEY, MOST_KEYS
from pipelines.documents.values import ChunkUnit, EmbedderName

# What is only white space names nothing.
_SOMETHING = r"^[^\x00]*[^\x00\s][^\x00]*$"
_NOT_BLANK = {"must": "hold more than white space, and no NUL"}
Title = Annotated[str, Meta(min_length=1, max_length=255, pattern=_SOMETHING, extra=_NOT_BLANK)]
BaseTitle = Annotated[str, Meta(min_length=1, max_length=200, pattern=_SOMETHING, extra=_NOT_BLANK)]
# "$" also matches before a last line break, hence the look-ahead.
BaseId = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=100,
        pattern=r"^[A-Za-z0-9._-]+$(?!\n)",
        extra={"must": "consist of letters, digits and . _ - (A-Z, a-z, 0-9)"},
    ),
]
_ID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
Ids = Annotated[
    str,
    Meta(
        description="Ids, by commas or repeated.",
        max_length=4_000,
        extra_json_schema={"pattern": f"^{_ID}(,{_ID})*$"},
    ),
]


class SearchRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The query string of a search.

    Beside these, ``metadata.KEY=value`` narrows it to documents with that value; repeat it for other
    keys (all must fit) or other values of one key (any may).
    """

    q: Annotated[str, Meta(min_length=1, max_length=2_000)]
    limit: Annotated[int, Meta(ge=1, le=100)] = 10
    mode: Literal["hybrid", "text", "vector"] = "hybrid"
    explain: bool = False
    highlight: bool = False
    weight: Annotated[float, Meta(ge=0, le=1)] = 0.5
    document_id: Ids | None = None


class KnowledgeBaseRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The body of ``POST /knowledge-bases``: an id, a name, or both; and what embeds its documents."""

    kb_id: BaseId | None = None
    name: BaseTitle | None = None
    embedder: EmbedderName | None = None
    user_id: Id | None = None


class ReembedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The body of ``POST …/reembed``: what is to embed the knowledge base from now on."""

    embedder: EmbedderName


class Reembedding(msgspec.Struct, frozen=True):
    """The task that embeds a knowledge base anew."""

    task_id: UUID


_Number = Annotated[float, Meta(ge=-LARGEST_NUMBER, le=LARGEST_NUMBER)]
_Whole = Annotated[int, Meta(ge=-LARGEST_NUMBER, le=LARGEST_NUMBER)]
_Value = str | bool | _Whole | _Number
_Key = Annotated[str, Meta(min_length=1, max_length=LONGEST_KEY)]
#: What users say about a document (see `pipelines.documents.metadata`).
DocumentMetadata = Annotated[dict[_Key, _Value | list[_Value]], Meta(max_length=MOST_KEYS)]


class DocumentRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The body of ``POST …/documents``: a text with its name, a URL, or a file that the server can read."""

    name: Title | None = None
    text: Annotated[str, Meta(min_length=1)] | None = None
    url: Annotated[str, Meta(min_length=1, max_length=4_096)] | None = None
    file_path: Annotated[str, Meta(min_length=1, max_length=4_096)] | None = None
    chunk_size: Annotated[int, Meta(ge=1, le=100_000)] = 1_000
    chunk_overlap: Annotated[int, Meta(ge=0, le=100_000)] = 200
    chunk_unit: ChunkUnit = "characters"
    metadata: DocumentMetadata | None = None


class UploadFields(msgspec.Struct, frozen=True, kw_only=True):
    """The fields beside the file in a multipart ``POST …/documents``."""

    name: Title | None = None
    chunk_size: Annotated[int, Meta(ge=1, le=100_000)] = 1_000
    chunk_overlap: Annotated[int, Meta(ge=0, le=100_000)] = 200
    chunk_unit: ChunkUnit = "characters"
    metadata: Annotated[str, Meta(max_length=65_536, description="A JSON object.")] | None = None
