"""Which model a name means, and vectors for texts: only those are made that are new to a model."""

from collections.abc import Callable, Mapping
from uuid import UUID

from pipelines.documents.embedders import stored_name
from pipelines.documents.embedders.port import Embedder, Endpoint
from pipelines.documents.errors import EmbeddingRefused
from pipelines.documents.store.vectors import Vectors
from tasks.errors import InvalidField, SettingsError


class Models:
    """The models that a name may mean in this process; ``load`` gives an embedder by its model."""

    def __init__(self, load: Callable[[str], Embedder], endpoint: Endpoint | None) -> None:
        self._load = load
        self._endpoint = endpoint

    def named(self, embedder: str, field: str = "embedder") -> str:
        """The model behind a name (e5, fast, http); it may be given itself. Raises `InvalidField`."""
        if self._endpoint is not None and embedder == stored_name("http", self._endpoint):
            return embedder
        try:
            return stored_name(embedder, self._endpoint)
        except SettingsError as error:
            raise InvalidField.of(field, error.message) from error

    def dim(self, model: str) -> int:
        """How many dimensions the vectors of a model have; an endpoint may have to be asked.

        Raises `InvalidField` when the endpoint refuses the model, `EmbeddingUnavailable`.
        """
        try:
            return self._load(model).dim
        except EmbeddingRefused as error:
            raise InvalidField.of("embedder", error.message) from error


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
