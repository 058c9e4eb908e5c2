"""Documents converted to Markdown with headings and tables."""

import re
import signal
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pipelines.documents import archive
from pipelines.documents.conversion_process import ChildDied, ConversionChildren, OutOfTime, Reply
from pipelines.documents.csv_table import markdown_table
from pipelines.documents.decoding import decode_text, is_blank, strange_share, tidy_markdown
from pipelines.documents.detection import MediaType
from pipelines.documents.errors import (
    DocumentError,
    DocumentMissing,
    DocumentTooLarge,
    EmptyDocument,
    UnreadableDocument,
)
from pipelines.documents.html_repair import repaired

_MEGABYTE = 1_000_000
_MOST_GARBAGE = 0.1
_PDF_TAIL = 64 * 1024
_COPIES = 5
_SHARE_OF_COPIES = 0.25
_NAMES = {
    MediaType.PDF: "PDF document",
    MediaType.DOCX: "Word document",
    MediaType.PPTX: "presentation",
    MediaType.XLSX: "workbook",
    MediaType.HTML: "HTML page",
}
_ZIPPED = frozenset({MediaType.DOCX, MediaType.PPTX, MediaType.XLSX})
_PASSWORD = re.compile(r"encrypt|password", re.I)
_MEMORY = re.compile(r"out of memory|cannot allocate", re.I)
_LIMIT = re.compile(r"security limit|zip bomb|too large|exceeds", re.I)
# Characters of private use are what fonts without a mapping to Unicode leave behind.
_PRIVATE = re.compile("[\ue000-\uf8ff]")

_children = ConversionChildren()


@dataclass(frozen=True)
class Limits:
    """What one conversion may cost: bytes of memory and seconds of its child, and sizes in bytes.

    ``seconds`` go by on the wall, where others may be at work too; ``processor_seconds`` are the child's own.
    The memory is for files of up to 12 MB; larger ones, which pictures fill, get more (`_memory_for`).
    """

    memory_bytes: int = 256 << 20
    seconds: float = 60.0
    processor_seconds: float = 25.0
    unpacked_bytes: int = 300 * _MEGABYTE
    archive_entries: int = 10_000
    text_bytes: int = 16 * _MEGABYTE
    markdown_bytes: int = 16 * _MEGABYTE


def convert(path: Path, media_type: MediaType, *, limits: Limits = Limits()) -> str:
    """Return the document as Markdown, clean of control characters and never without a letter or digit.

    Raises UnreadableDocument (damaged, under a password, out of time or memory, garbage), DocumentTooLarge,
    EmptyDocument and DocumentMissing.
    """
    if not path.is_file():
        raise _missing()
    markdown = tidy_markdown(_converted(path, media_type, limits))
    if is_blank(markdown):
        raise EmptyDocument(_no_text(media_type))
    _refuse_garbage(markdown)
    return markdown


def end_idle_children() -> None:
    """End the converters that wait for work, as a worker does when it stops. Else they end by themselves."""
    _children.end_idle()


def _converted(path: Path, media_type: MediaType, limits: Limits) -> str:
    if media_type in _ZIPPED:
        archive.check_unpacked_size(path, max_bytes=limits.unpacked_bytes, max_entries=limits.archive_entries)
        return _converted_by_child(path, media_type, limits)
    if media_type is MediaType.PDF:
        _refuse_truncated_pdf(path)
        return _converted_by_child(path, media_type, limits)
    if media_type is MediaType.HTML:
        return _converted_html(_text(path, limits, html=True), limits)
    text = _text(path, limits)
    if media_type is MediaType.CSV:
        return markdown_table(text, max_characters=limits.markdown_bytes)
    return text


def _refuse_truncated_pdf(path: Path) -> None:
    """Refuse a PDF without its end: the converter would pass off the pages it finds as the whole document."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _PDF_TAIL))
        if b"startxref" not in file.read():
            raise _unreadable(MediaType.PDF, "its end is missing")


def _text(path: Path, limits: Limits, *, html: bool = False) -> str:
    if path.stat().st_size > limits.text_bytes:
        raise DocumentTooLarge(
            f"The text is larger than {limits.text_bytes / _MEGABYTE:g} MB. Split it into several documents."
        )
    return decode_text(path.read_bytes(), html=html)


def _converted_html(text: str, limits: Limits) -> str:
    with tempfile.NamedTemporaryFile(suffix=".html") as page:
        for piece in repaired(text):
            page.write(piece.encode())
        page.flush()
        return _converted_by_child(Path(page.name), MediaType.HTML, limits)


def _converted_by_child(path: Path, media_type: MediaType, limits: Limits) -> str:
    # A child that has served others may die of them; only a fresh one's death proves the document bad.
    try:
        return _asked(path, media_type, limits, fresh=False)
    except ChildDied as death:
        if death.was_fresh:
            raise _unreadable(media_type, _cause(death, limits)) from death
    try:
        return _asked(path, media_type, limits, fresh=True)
    except ChildDied as death:
        raise _unreadable(media_type, _cause(death, limits)) from death


def _asked(path: Path, media_type: MediaType, limits: Limits, *, fresh: bool) -> str:
    with _children.lend(_memory_for(path, media_type, limits), fresh=fresh) as child:
        try:
            reply = child.ask(
                path,
                media_type,
                seconds=limits.seconds,
                processor_seconds=limits.processor_seconds,
                max_bytes=limits.markdown_bytes,
            )
        except OutOfTime as error:
            reason = f"its conversion took longer than {limits.seconds:g} seconds"
            raise _unreadable(media_type, reason) from error
        if reply.outcome == "converted":
            return reply.text
        if reply.outcome == "out_of_memory" or _MEMORY.search(reply.text):
            raise ChildDied(exit_code=0, out_of_memory=True, was_fresh=child.served == 1)
        raise _verdict(reply, media_type, limits)


def _memory_for(path: Path, media_type: MediaType, limits: Limits) -> int:
    """The limit, doubled until the converter's copies of a large file, which are up to five, fit in.

    Few steps, so that a child that waits mostly is of the right one.
    """
    memory = limits.memory_bytes
    if media_type is not MediaType.HTML:
        needed = _COPIES * path.stat().st_size
        while memory * _SHARE_OF_COPIES < needed:
            memory *= 2
    return memory


def _cause(death: ChildDied, limits: Limits) -> str:
    if death.out_of_memory:
        return "its conversion needs too much memory"
    if death.exit_code == -signal.SIGPROF:
        return f"its conversion took more than {limits.processor_seconds:g} seconds of processor time"
    return f"it crashed the converter (exit code {death.exit_code})"


def _verdict(reply: Reply, media_type: MediaType, limits: Limits) -> DocumentError:
    if reply.outcome == "too_large":
        size = f"{limits.markdown_bytes / _MEGABYTE:g} MB"
        return DocumentTooLarge(f"The document holds more than {size} of text. Split it into several.")
    if reply.outcome == "missing":
        return _missing()
    if _PASSWORD.search(reply.text):
        return UnreadableDocument(
            "The document is protected by a password. Remove the password and send it again."
        )
    reason = " ".join(reply.text.split())[:200]
    if _LIMIT.search(reply.text):
        return DocumentTooLarge(f"The {_NAMES[media_type]} is too large or too deeply nested ({reason}).")
    return _unreadable(media_type, f"it is damaged ({reason})")


def _unreadable(media_type: MediaType, reason: str) -> UnreadableDocument:
    return UnreadableDocument(
        f"The {_NAMES[media_type]} cannot be read: {reason}. "
        "Open it in the program it came from, save it anew and send that copy."
    )


def _missing() -> DocumentMissing:
    return DocumentMissing("The file is not there any more. Send the document again.")


def _no_text(media_type: MediaType) -> str:
    if media_type is MediaType.PDF:
        return "There is no text in the PDF, it is probably scanned. Run text recognition (OCR) on it first."
    return "There is no text in the document. Send one with text in it."


def _refuse_garbage(markdown: str) -> None:
    private = sum(1 for _ in _PRIVATE.finditer(markdown))
    garbage = strange_share(markdown) + private / len(markdown)
    if garbage > _MOST_GARBAGE:
        raise UnreadableDocument(
            "The text of the document cannot be told: its fonts or its encoding do not say which characters "
            "they mean. Export it again, with Unicode text, or run text recognition (OCR) on it."
        )
