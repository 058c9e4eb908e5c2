"""Uploads: a multipart form with one file, streamed to the disk."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from tempfile import NamedTemporaryFile
from typing import Any, Protocol

import msgspec
from falcon.asgi import Request
from falcon.media import MultipartFormHandler
from falcon.media.multipart import MultipartParseOptions

from actors.fields import spell
from api.errors import TooLarge, Unparsable
from tasks.errors import InvalidField

AT_ONCE = 1 << 18
#: What a form may have beside the file: its other fields, headers and boundaries.
REST_OF_FORM = 1 << 20
LONGEST_FIELD = 1 << 12
LONGEST_NAME = 255
MOST_PARTS = 16


class Upload(msgspec.Struct, frozen=True):
    """A file that arrived, what its sender calls it, and the other fields of the form."""

    path: Path
    filename: str
    fields: dict[str, str]


class Stream(Protocol):
    """Bytes that are still arriving."""

    async def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes; none at the end."""


@asynccontextmanager
async def received(req: Request, folder: Path, limit: int) -> AsyncIterator[Upload]:
    """The upload of a request in a file below ``folder``, which is gone afterwards unless it was moved.

    Raises:
      TooLarge: the file has more than ``limit`` bytes.
      InvalidField: the form has no file, or more than one.
    """
    if req.content_length is not None and req.content_length > limit + REST_OF_FORM:
        raise _too_large(limit)
    path = await asyncio.to_thread(_new_file, folder)
    try:
        yield await _receive(req, path, limit)
    finally:
        path.unlink(missing_ok=True)


async def _receive(req: Request, path: Path, limit: int) -> Upload:
    filename: str | None = None
    texts: dict[str, str] = {}
    async for part in await req.get_media():
        name, part_filename = _names(part)
        if part_filename is not None:
            if filename is not None:
                raise InvalidField.of(spell(name), "is a second file: send one request for each")
            filename = _last_part(part_filename)
            await _store(part.stream, path, limit)
        elif name in texts:
            raise InvalidField.of(spell(name), "is given more than once")
        else:
            texts[name] = _text(name, await part.get_data())
    if filename is None:
        raise InvalidField.of("file", "is required: send the document as a part with a filename")
    return Upload(path, filename, texts)


async def _store(stream: Stream, path: Path, limit: int) -> None:
    size = 0
    with path.open("wb") as file:
        while chunk := await stream.read(AT_ONCE):
            size += len(chunk)
            if size > limit:
                raise _too_large(limit)
            await asyncio.to_thread(file.write, chunk)


def _names(part: Any) -> tuple[str, str | None]:
    try:
        return part.name or "", part.filename
    except UnicodeDecodeError:
        raise Unparsable("The name of a part is not UTF-8: encode it, or rename the file.") from None


def _text(name: str, data: bytes) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise InvalidField.of(spell(name), "is not UTF-8") from None
    if "\0" in text:
        raise InvalidField.of(spell(name), "holds a NUL character, which cannot be kept")
    return text


def _last_part(filename: str) -> str:
    """The name without folders, as some browsers send them."""
    name = PureWindowsPath(PurePosixPath(filename).name).name
    if not name or not name.isprintable() or len(name) > LONGEST_NAME:
        raise InvalidField.of(
            "file", f"needs a filename of 1 to {LONGEST_NAME} printable characters: rename the file"
        )
    return name


def _new_file(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=folder, prefix="upload-", delete=False) as file:
        return Path(file.name)


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"The file may have {limit} bytes: send a smaller one, or raise CALLBOARD_UPLOAD_LIMIT.")


def form_handler() -> MultipartFormHandler:
    """The reader of forms, which holds little of them in memory."""
    options = MultipartParseOptions()
    options.max_body_part_count = MOST_PARTS
    options.max_body_part_buffer_size = LONGEST_FIELD
    return MultipartFormHandler(options)
