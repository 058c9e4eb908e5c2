"""What a knowledge base has already: files that need not be sent again, which costs one hash each."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from api.client import Client, Document
from pipelines.documents.values import Source

#: Documents in one answer of a list.
_A_PAGE = 1_000
#: How a document is cut unless it is said otherwise.
_CUT = {
    field.name: field.default
    for field in msgspec.structs.fields(Source)
    if field.name in ("chunk_size", "chunk_overlap", "chunk_unit")
}


class Known:
    """The documents of a knowledge base by name, as they were when it was asked."""

    def __init__(self, documents: Mapping[str, Document], cut: Mapping[str, Any]) -> None:
        self._documents = documents
        self._cut = cut

    @classmethod
    def ask(cls, client: Client, kb: str, options: Mapping[str, Any], sources: int) -> "Known":
        """Read what there is, unless that takes longer than to send so many ``sources``.

        ``options`` are those with which documents are sent: with others than how they are cut all are sent.
        """
        cut = {**_CUT, **options}
        if set(options) - set(_CUT) or client.knowledge_base(kb).documents > sources * _A_PAGE:
            return cls({}, cut)
        return cls({one.name: one for one in client.documents(kb)}, cut)

    def same(self, name: str, path: Path) -> Document | None:
        """The document of this name, if it has the bytes of a file, and is cut as is asked for.

        Raises:
          OSError: the file cannot be read.
        """
        found = self._documents.get(name)
        if found is None or not found.version:
            return None
        if any(getattr(found, name) != value for name, value in self._cut.items()):
            return None
        return found if path.stat().st_size == found.size_bytes and _sha256(path) == found.sha256 else None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
