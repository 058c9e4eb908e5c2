"""Where the bytes of documents are kept: a folder, or any store that fsspec knows, by URL."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec

from pipelines.documents.errors import DocumentMissing


class Blobs:
    """Named bytes below ``url``. Keys are relative paths that we make ourselves, never users."""

    def __init__(self, url: str) -> None:
        fs, root = fsspec.core.url_to_fs(url)
        self._fs: Any = fs
        self._root = str(root).rstrip("/")

    def put(self, key: str, data: bytes) -> None:
        """Keep bytes; a reader sees all of them or none."""
        with self._replacing(key) as path:
            self._fs.pipe_file(path, data)

    def put_file(self, key: str, source: Path) -> None:
        """Keep a copy of a local file."""
        with self._replacing(key) as path:
            self._fs.put_file(str(source), path)

    def get(self, key: str) -> bytes:
        """The bytes.

        Raises:
          DocumentMissing: there are none under the key.
        """
        try:
            data: bytes = self._fs.cat_file(self._path(key))
            return data
        except FileNotFoundError:
            raise _missing() from None

    def exists(self, key: str) -> bool:
        """Whether there are bytes under a key."""
        return bool(self._fs.exists(self._path(key)))

    def modified(self, key: str) -> datetime | None:
        """When bytes were put under a key; None if there are none."""
        try:
            at: datetime = self._fs.modified(self._path(key))
        except FileNotFoundError:
            return None
        return at if at.tzinfo is not None else at.replace(tzinfo=UTC)

    def names(self, folder: str) -> list[str]:
        """What lies in a folder."""
        try:
            paths: list[str] = self._fs.ls(self._path(folder), detail=False)
        except FileNotFoundError:
            return []
        return [path.rstrip("/").rpartition("/")[2] for path in paths]

    @contextmanager
    def as_file(self, key: str, suffix: str = "") -> Iterator[Path]:
        """The bytes as a local file for as long as the context lasts.

        Raises:
          DocumentMissing: there are none under the key.
        """
        with tempfile.TemporaryDirectory(prefix="callboard-") as folder:
            path = Path(folder) / f"document{suffix}"
            try:
                with self._fs.open(self._path(key), "rb") as source, path.open("wb") as copy:
                    shutil.copyfileobj(source, copy, 1 << 20)
            except FileNotFoundError:
                raise _missing() from None
            yield path

    def delete(self, key: str) -> None:
        """Remove bytes, or all bytes below a folder; what is not there is removed already."""
        if self._fs.exists(self._path(key)):
            self._fs.rm(self._path(key), recursive=True)

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    @contextmanager
    def _replacing(self, key: str) -> Iterator[str]:
        path = self._path(key)
        draft = f"{path}.{uuid4().hex}.part"
        self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        yield draft
        self._fs.mv(draft, path)


def _missing() -> DocumentMissing:
    return DocumentMissing(
        "The document's bytes are not in the blob store any more: send the document again."
    )
