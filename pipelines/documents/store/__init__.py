"""The document store: knowledge bases, documents, chunks and the search over them, all in Postgres.

All SQL about documents lives here and nothing else does. `DocumentStore` is the way in.
"""

from pipelines.documents.store.errors import VectorsMissing
from pipelines.documents.store.facade import MIGRATIONS, DocumentStore
from pipelines.documents.store.records import (
    Content,
    Document,
    Explanation,
    Hit,
    KnowledgeBase,
    NewChunk,
    Page,
)

__all__ = [
    "MIGRATIONS",
    "Content",
    "Document",
    "DocumentStore",
    "Explanation",
    "Hit",
    "KnowledgeBase",
    "NewChunk",
    "Page",
    "VectorsMissing",
]
