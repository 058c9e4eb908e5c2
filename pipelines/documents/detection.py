"""What a file is: by its content; its name only tells text formats apart."""

import re
import zipfile
from enum import StrEnum
from pathlib import Path, PurePath

import filetype

from pipelines.documents import archive
from pipelines.documents.decoding import looks_like_text
from pipelines.documents.errors import DocumentMissing, EmptyDocument, UnreadableDocument, UnsupportedType

_OFFICE = "application/vnd.openxmlformats-officedocument"
_HEAD = 64 * 1024
_CONTENT_TYPES_AT_MOST = 4_000_000
_OLE_MARK = bytes.fromhex("d0cf11e0a1b11ae1")
_READABLE = "PDF, DOCX, PPTX, XLSX, HTML, Markdown, CSV and plain text"


class MediaType(StrEnum):
    """The types that can be converted; the values are their media types."""

    PDF = "application/pdf"
    DOCX = f"{_OFFICE}.wordprocessingml.document"
    PPTX = f"{_OFFICE}.presentationml.presentation"
    XLSX = f"{_OFFICE}.spreadsheetml.sheet"
    HTML = "text/html"
    MARKDOWN = "text/markdown"
    CSV = "text/csv"
    TEXT = "text/plain"


# The main part decides: documents, templates, slide shows and those with macros (which never run).
_MAIN_PARTS = (
    (re.compile(rb"wordprocessingml\.(document|template)\.main|ms-word\.\w+\.macroEnabled"), MediaType.DOCX),
    (
        re.compile(
            rb"presentationml\.(presentation|template|slideshow)\.main|ms-powerpoint\.\w+\.macroEnabled\.main"
        ),
        MediaType.PPTX,
    ),
    (
        re.compile(rb"spreadsheetml\.(sheet|template)\.main|ms-excel\.(sheet|template)\.macroEnabled"),
        MediaType.XLSX,
    ),
)
_BY_EXTENSION = {
    ".md": MediaType.MARKDOWN,
    ".markdown": MediaType.MARKDOWN,
    ".csv": MediaType.CSV,
    ".tsv": MediaType.CSV,
    ".html": MediaType.HTML,
    ".htm": MediaType.HTML,
    ".xhtml": MediaType.HTML,
    ".txt": MediaType.TEXT,
    ".text": MediaType.TEXT,
    ".log": MediaType.TEXT,
}
# What servers say, where no suffix tells more: "text/plain" is said of everything and tells nothing.
_BY_DECLARED_TYPE = {
    "text/html": MediaType.HTML,
    "application/xhtml+xml": MediaType.HTML,
    "text/markdown": MediaType.MARKDOWN,
    "text/csv": MediaType.CSV,
}
_HTML_BEGINNING = re.compile(rb"<(!doctype\s+html|html|head|body)\b", re.I)
# Formats written in characters that nobody wants to read as they are.
_MARKED_TEXT = (
    (b"{\\rtf", "Rich Text Format (RTF)"),
    (b"%!PS", "PostScript"),
    (b"<?xml", "XML data"),
    (b"<svg", "an SVG picture"),
    (b"<!DOCTYPE svg", "an SVG picture"),
)
_OLE_STREAMS = (
    ("WordDocument", "an old Word document (.doc); save it as .docx"),
    ("Workbook", "an old Excel workbook (.xls); save it as .xlsx"),
    ("Book", "an old Excel workbook (.xls); save it as .xlsx"),
    ("PowerPoint Document", "an old PowerPoint presentation (.ppt); save it as .pptx"),
    ("__properties_version1.0", "an Outlook message (.msg)"),
)


def detect(path: Path, name: str, declared: str | None = None) -> MediaType:
    """Return the type of the file at ``path``, which its sender calls ``name`` and says is ``declared``.

    Raises UnsupportedType (it says what the file seems to be), EmptyDocument for a file without a byte,
    UnreadableDocument for a damaged container or one under a password, DocumentMissing.
    """
    head = _head(path)
    if not head:
        raise EmptyDocument("The file is empty. Send one with text in it.")
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _zip_type(path)
    if head.startswith(_OLE_MARK):
        raise _ole_error(path)
    if _is_pdf(head, name):
        return MediaType.PDF
    if looks_like_text(head):
        return _text_type(head, name, declared)
    raise _unsupported(_guess(head))


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise DocumentMissing("The file is not there any more. Send the document again.") from error


def _is_pdf(head: bytes, name: str) -> bool:
    """Readers forgive some bytes before the mark; a text that mentions the mark is a text."""
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"%PDF-"):
        return True
    return b"%PDF-" in head[:1024] and PurePath(name).suffix.lower() not in _BY_EXTENSION


def _zip_type(path: Path) -> MediaType:
    with archive.opened(path) as container:
        content_types = archive.read_entry(container, "[Content_Types].xml", max_bytes=_CONTENT_TYPES_AT_MOST)
        for pattern, media_type in _MAIN_PARTS:
            if pattern.search(content_types):
                return media_type
        raise _unsupported(_zip_description(container))


def _zip_description(container: zipfile.ZipFile) -> str:
    declared = archive.read_entry(container, "mimetype", max_bytes=100).decode("ascii", "replace").strip()
    if "opendocument" in declared:
        return "an OpenDocument file; save it as DOCX, PPTX or XLSX"
    if "epub" in declared:
        return "an EPUB book"
    if "xl/workbook.bin" in container.namelist():
        return "a binary Excel workbook (.xlsb); save it as .xlsx"
    return "a zip archive; send the documents inside it one by one"


def _ole_error(path: Path) -> UnsupportedType | UnreadableDocument:
    """OLE names its streams in UTF-16 in a directory that may lie anywhere, so the whole file is searched."""
    if _contains(path, "EncryptedPackage"):
        return UnreadableDocument(
            "The document is protected by a password. Remove the password and send it again."
        )
    for stream, description in _OLE_STREAMS:
        if _contains(path, stream):
            return _unsupported(description)
    return _unsupported("a file of an old Office or Windows program")


def _contains(path: Path, stream: str) -> bool:
    # The two zero bytes end the name: "Book" must not be found in "Workbook", "Bookmarks" ...
    wanted = stream.encode("utf-16-le") + b"\0\0"
    with path.open("rb") as file:
        kept = b""
        while piece := file.read(1 << 20):
            if wanted in kept + piece:
                return True
            kept = piece[-len(wanted) :]
    return False


def _text_type(head: bytes, name: str, declared: str | None) -> MediaType:
    extension = PurePath(name).suffix.lower()
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if extension in _BY_EXTENSION and not start.startswith((b"{\\rtf", b"%!PS")):
        return _BY_EXTENSION[extension]
    if start.startswith(b"<") and _HTML_BEGINNING.search(start[:1024]):
        return MediaType.HTML
    hinted = _BY_DECLARED_TYPE.get(declared or "")
    if hinted is MediaType.HTML and start.startswith(b"<?xml"):
        return hinted
    for mark, description in _MARKED_TEXT:
        if start.startswith(mark):
            raise _unsupported(description)
    return hinted or MediaType.TEXT


def _guess(head: bytes) -> str:
    kind = filetype.guess(head)
    return f"{kind.mime} (.{kind.extension})" if kind is not None else "unknown binary data"


def _unsupported(description: str) -> UnsupportedType:
    return UnsupportedType(f"This seems to be {description}. What can be read: {_READABLE}.")
