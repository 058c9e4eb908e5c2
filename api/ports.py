"""What the API needs of the composed rest of Callboard: the kit, and the library of documents in it.

The library's methods block. ``owner`` is the user whose things may be touched; None is everybody's. What
they return is rendered as it is.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

from pipelines.catalogue import Catalogue
from pipelines.submission import Submission
from tasks.ledger import Ledger
from tasks.queries import Queries
from tasks.settings import Settings

Record = Any


class Library(Protocol):
    """Knowledge bases and their documents."""

    def create_knowledge_base(self, *, owner: str, kb_id: str | None, name: str) -> Record:
        """Create a knowledge base; raises Conflict if its owner has one of that id."""

    def knowledge_bases(self, *, owner: str | None, limit: int, offset: int) -> tuple[Sequence[Record], int]:
        """A part of the list, and how many there are."""

    def knowledge_base(self, kb_id: str, *, owner: str | None) -> Record:
        """One knowledge base; raises NotFound."""

    def delete_knowledge_base(self, kb_id: str, *, owner: str | None) -> None:
        """Remove a knowledge base and all that is in it."""

    def add_text(
        self, kb_id: str, *, owner: str | None, name: str, text: str, options: Any, created_by: str
    ) -> Record:
        """Submit the task that takes a text in."""

    def add_file(
        self,
        kb_id: str,
        *,
        owner: str | None,
        file_path: str,
        name: str | None,
        options: Any,
        created_by: str,
    ) -> Record:
        """Submit the task that takes a file below an allowed root in."""

    def add_upload(
        self, kb_id: str, *, owner: str | None, name: str, path: Path, options: Any, created_by: str
    ) -> Record:
        """Submit the task that takes a file in; ``path`` is moved away."""

    def documents(
        self, kb_id: str, *, owner: str | None, limit: int, offset: int
    ) -> tuple[Sequence[Record], int]:
        """A part of the list, and how many there are."""

    def document(self, kb_id: str, document_id: UUID, *, owner: str | None) -> Record:
        """One document; raises NotFound."""

    def delete_document(self, kb_id: str, document_id: UUID, *, owner: str | None) -> None:
        """Remove a document and its chunks."""

    def search(
        self, kb_id: str, *, owner: str | None, q: str, limit: int, mode: str, explain: bool
    ) -> Sequence[Record]:
        """The chunks that fit a question best."""


class Kit(Protocol):
    """The composed parts of a process."""

    settings: Settings
    ledger: Ledger
    queries: Queries
    catalogue: Catalogue
    submission: Submission

    @property
    def library(self) -> Library:
        """Knowledge bases and their documents."""

    def close(self) -> None:
        """Commit what waits and close the connections."""
