"""Vectors for texts: only those are made that are new to a model."""

from collections.abc import Mapping
from uuid import UUID

from pipelines.documents.embedders.port import Embedder
from pipelines.documents.errors import EmbeddingRefused
from pipelines.documents.store.vectors import Vectors


def embed_missing(
    vectors: Vectors, embedder: Embedder, texts: Mapping[bytes, str], *, dim: int, run: UUID | None
) -> int:
    """Keep vectors for all ``texts``, by their hashes, as made by a ``run``; how many had to be made.

    Raises:
      EmbeddingRefused: the embedder's vectors have not ``dim`` dimensions, or it refuses a text.
      EmbeddingUnavailable: it cannot be used now.
    """
    missing = sorted(vectors.missing(embedder.name, list(texts)))
    if missing:
        made = embedder.passages([texts[one] for one in missing])
        check_dimension(embedder.name, made.shape[1], dim)
        vectors.save(embedder.name, missing, made, run)
    return len(missing)


def check_dimension(model: str, given: int, wanted: int) -> None:
    """Refuse vectors that do not compare with those that are there. Raises `EmbeddingRefused`."""
    if given != wanted:
        raise EmbeddingRefused(
            f"The vectors of {model} have {given} dimensions now, those of the knowledge base {wanted}: "
            "use the model it was made with, or make a new knowledge base."
        )
