"""CSV made into a Markdown table."""

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence

from pipelines.documents.errors import DocumentTooLarge, UnreadableDocument

_DELIMITERS = ",;\t|"
_SAMPLE_LINES = 30
_LONGEST_LINE = 1_000_000


def markdown_table(text: str, *, max_characters: int) -> str:
    """Return ``text``, CSV with any of the usual delimiters, as a Markdown table; its first row is the head.

    Raises DocumentTooLarge if the table would be longer than ``max_characters``, and UnreadableDocument.
    """
    try:
        return "".join(_table(text, _delimiter(text), max_characters))
    except csv.Error as error:
        raise UnreadableDocument(
            f"The CSV cannot be read: {error}. Check its quotes and send it again."
        ) from error


def _table(text: str, delimiter: str, max_characters: int) -> Iterator[str]:
    """Yield the lines. The text is read twice, which takes far less memory than to keep its cells."""
    raw = csv.reader(_lines(text), delimiter=delimiter)
    width = max((len(row) for row in raw if any(map(str.strip, row))), default=0)
    length = 0
    for number, row in enumerate(_rows(text, delimiter)):
        line = _line(row, width)
        length += len(line)
        if length > max_characters:
            raise DocumentTooLarge("The table is too large. Split the CSV file into several.")
        yield line
        if number == 0:
            yield _line(["---"] * width, width)


def _rows(text: str, delimiter: str) -> Iterator[list[str]]:
    for row in csv.reader(_lines(text), delimiter=delimiter):
        cells = [" ".join(cell.split()) for cell in row]
        if any(cells):
            yield cells


def _lines(text: str) -> Iterator[str]:
    """Yield the lines: a row of very many cells takes a multiple of its text's memory."""
    start = 0
    while start < len(text):
        end = text.find("\n", start) + 1 or len(text)
        if end - start > _LONGEST_LINE:
            raise DocumentTooLarge(
                f"The CSV has a line of more than {_LONGEST_LINE:,} characters. Check its line ends."
            )
        yield text[start:end]
        start = end


def _delimiter(text: str) -> str:
    """Return the delimiter that splits the first lines most evenly into most columns.

    The standard library's own sniffer takes letters for delimiters where a file has one column.
    """
    sample = "\n".join(text[:20_000].split("\n", _SAMPLE_LINES)[:_SAMPLE_LINES])
    return max(_DELIMITERS, key=lambda delimiter: _evenness(sample, delimiter))


def _evenness(sample: str, delimiter: str) -> tuple[float, int]:
    widths = Counter(
        len(row) for row in csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter) if row
    )
    width, count = max(widths.items(), key=lambda item: (item[0] > 1) * item[1], default=(1, 0))
    return (count / widths.total(), width) if width > 1 else (0.0, 1)


def _line(row: Sequence[str], width: int) -> str:
    cells = [cell.replace("|", "\\|") for cell in row] + [""] * (width - len(row))
    return "| " + " | ".join(cells) + " |\n"
