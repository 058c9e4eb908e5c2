"""Where documents may come from: files below the allowed roots, the web, and the blobs of uploads."""

import hashlib
import re
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from actors.definitions import convert
from actors.submission import Order
from actors.web.addresses import name_of
from pipelines.documents.blobs import Blobs
from pipelines.documents.fetching import Fetcher
from pipelines.documents.metadata import checked_metadata
from pipelines.documents.store.facade import DocumentStore
from pipelines.documents.values import Source
from tasks.errors import InvalidField, NotFound

BLOB = re.compile(r"sources/[0-9a-f]{64}")
#: Sources that were put so lately are not removed, whether or not a task has them yet.
FRESH = timedelta(minutes=30)


class Kept(msgspec.Struct, frozen=True):
    """A source that lies under the blob ``key``; ``media_type`` is what its server said it is, if one did."""

    key: str
    sha256: str
    size: int
    media_type: str | None = None


class Sources:
    """Checks what an order names, before anything is recorded and again when it is read."""

    def __init__(self, store: DocumentStore, blobs: Blobs, roots: Sequence[Path], fetcher: Fetcher) -> None:
        self._store = store
        self._blobs = blobs
        self._roots = [root.resolve() for root in roots]
        self._fetcher = fetcher

    def check(self, order: Order) -> dict[str, Any]:
        """The payload of an order of ``document_processing``, with a name.

        Raises:
          InvalidField: the knowledge base or the file is not there, or not allowed; the URL is not.
        """
        self._check_knowledge_base(order)
        source: Source = convert(order.payload, Source, "payload")
        if source.chunk_overlap >= source.chunk_size:
            raise InvalidField.of("payload.chunk_overlap", "must be smaller than chunk_size")
        checked_metadata(source.metadata, "payload.metadata")
        _check_one_given(source)
        if source.url is not None:
            source = msgspec.structs.replace(source, name=source.name or self._name_at(source.url))
        elif source.blob is not None:
            if not BLOB.fullmatch(source.blob) or not source.name:
                raise InvalidField.of("payload.blob", "is not the blob of an upload; send file_path instead")
        else:
            path = self.resolve(source.file_path or "")
            source = msgspec.structs.replace(source, name=source.name or self._name(path))
        payload: dict[str, Any] = msgspec.to_builtins(source)
        return payload

    def resolve(self, file_path: str) -> Path:
        """The real path of a file below an allowed root.

        Raises:
          InvalidField: it is outside of all roots, or there is no such file.
        """
        field = "payload.file_path"
        if not self._roots:
            raise InvalidField.of(field, "files of this machine are not allowed: set CALLBOARD_FILE_ROOTS")
        if "\0" in file_path:
            raise InvalidField.of(field, "holds a NUL character")
        path = Path(file_path)
        candidates = [path] if path.is_absolute() else [root / path for root in self._roots]
        for candidate in candidates:
            real = candidate.resolve()
            if any(real.is_relative_to(root) for root in self._roots) and real.is_file():
                return real
        raise InvalidField.of(field, "is not a file below one of CALLBOARD_FILE_ROOTS")

    def fetch(self, url: str) -> Kept:
        """Fetch a document and keep it. Raises as `Fetcher.fetch`."""
        with tempfile.TemporaryDirectory(prefix="callboard-") as folder:
            path = Path(folder) / "document"
            fetched = self._fetcher.fetch(url, path)
            return msgspec.structs.replace(self.keep(path), media_type=fetched.media_type)

    def keep(self, path: Path) -> Kept:
        """Keep a local file under its content's hash."""
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
        key = f"sources/{sha256}"
        modified = self._blobs.modified(key)
        # What is older may be about to be removed, since nobody needed it until now.
        if modified is None or modified < datetime.now(UTC) - FRESH:
            self._blobs.put_file(key, path)
        return Kept(key, sha256, size)

    def forget_texts(self, document_id: UUID) -> None:
        """Remove what a document was converted to."""
        self._blobs.delete(f"texts/{document_id}")

    def _name(self, path: Path) -> str:
        root = next(root for root in self._roots if path.is_relative_to(root))
        return path.relative_to(root).as_posix()

    def _name_at(self, url: str) -> str:
        try:
            self._fetcher.check(url)
            return name_of(url)
        except ValueError as error:
            raise InvalidField.of("payload.url", str(error)) from None

    def _check_knowledge_base(self, order: Order) -> None:
        if order.kb_id is None:
            raise InvalidField.of("kb_id", "is required: the knowledge base that the document goes into")
        try:
            self._store.knowledge_bases.get(order.kb_id, order.user_id)
        except NotFound:
            raise InvalidField.of(
                "kb_id",
                f"there is no knowledge base {order.kb_id!r}: create it with POST /api/v1/knowledge-bases",
                code="unknown_knowledge_base",
            ) from None


def _check_one_given(source: Source) -> None:
    given = [one for one in ("file_path", "url", "blob") if getattr(source, one) is not None]
    if len(given) > 1:
        raise InvalidField.of(f"payload.{given[1]}", f"cannot be used together with {given[0]}: give one")
    if not given:
        raise InvalidField.of(
            "payload.file_path", "is required: the path of a file below an allowed root, or a url"
        )
