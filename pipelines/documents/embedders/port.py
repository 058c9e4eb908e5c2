"""The port that every embedder implements."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Embedder(Protocol):
    """Turns texts into vectors of length 1, so that a dot product of two is their cosine.

    Every method may be called from several threads at once.
    """

    @property
    def name(self) -> str:
        """The name under which the vectors are stored; vectors of different names do not compare."""

    @property
    def dim(self) -> int:
        """How many numbers a vector has; an endpoint may have to be asked."""

    def passages(self, texts: Sequence[str]) -> "NDArray[np.float32]":
        """Embed texts to be found: float32 of shape (len(texts), dim), each row of L2 norm 1."""

    def query(self, text: str) -> "NDArray[np.float32]":
        """Embed a question: float32 of shape (dim,), of L2 norm 1."""

    def count_tokens(self, text: str) -> int:
        """Count the tokens of the text itself, without prefix and special tokens."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an OpenAI-compatible server embeds. ``rate`` is in requests per second; None does not limit."""

    url: str
    model: str
    key: str | None = field(default=None, repr=False)
    rate: float | None = None

    def for_model(self, model: str) -> "Endpoint":
        """The same server with another model."""
        return replace(self, model=model)
