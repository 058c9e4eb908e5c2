"""Hostile documents made in code, each with what may become of it: typed failures, or its right text."""

import io
import random
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.support import documents

MEBIBYTE = 1 << 20
TOO_LARGE, UNREADABLE, UNSUPPORTED, EMPTY = (
    "document_too_large",
    "unreadable_document",
    "unsupported_type",
    "empty_document",
)
#: What files that try to read another file try to read: this one, by these very words.
SECRET = "the secret of the server"
_SECRET_FILE = Path(__file__).as_uri()
_CHINESE = "你好，世界。这是一份用旧编码保存的文件，内容必须正确。" * 3
_WORD = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
_SHEET = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'


@dataclass(frozen=True)
class Hostile:
    """A file: its name and bytes, the codes it may fail with, and a text that it must hold if it does not.

    ``slow`` says that it takes seconds to make, or to convert until a limit is reached.
    """

    name: str
    make: Callable[[], bytes]
    codes: frozenset[str]
    text: str | None = None
    slow: bool = False

    def is_right(self, outcome: str) -> bool:
        """Whether ``outcome``, the code of a failure or else the Markdown, is one that is allowed."""
        return outcome in self.codes or (
            self.text is not None and self.text in outcome and SECRET not in outcome
        )


def _file(
    name: str, make: Callable[[], bytes], *codes: str, text: str | None = None, slow: bool = False
) -> Hostile:
    return Hostile(name, make, frozenset(codes), text, slow)


def hostile_files() -> Mapping[str, Hostile]:
    """The files by what they are."""
    return {**_bombs(), **_xml(), **_large_and_deep(), **_broken(), **_encodings()}


def _bombs() -> dict[str, Hostile]:
    return {
        "a zip bomb of 600 MB": _file(
            "bomb.docx", lambda: documents.zip_bomb_docx(600 * MEBIBYTE), TOO_LARGE
        ),
        "a zip bomb whose headers lie": _file(
            "lying.docx", lambda: documents.lying_zip_bomb_docx(400_000_000), TOO_LARGE, slow=True
        ),
        "1 GB of XML in a Word document": _file(
            "gigabyte.docx",
            lambda: _word_of(b"<w:p><w:r><w:t>a</w:t></w:r></w:p>", 1 << 30),
            TOO_LARGE,
            slow=True,
        ),
        "49 MB of XML in a Word document": _file(
            "dense.docx",
            lambda: _word_of(b"<w:p/>", 49_000_000),
            UNREADABLE,
            TOO_LARGE,
            EMPTY,
            slow=True,
        ),
        "1 GB in the stream of a PDF": _file(
            "stream.pdf",
            lambda: _pdf_stream(b" " * MEBIBYTE, 1024),
            UNREADABLE,
            TOO_LARGE,
            EMPTY,
            slow=True,
        ),
        "300 MB in a PDF, packed twice": _file(
            "twice.pdf", lambda: _pdf_stream(b" " * MEBIBYTE, 300, twice=True), UNREADABLE, TOO_LARGE, EMPTY
        ),
        "a PDF of forms that draw each other": _file(
            "forms.pdf",
            _pdf_of_forms,
            UNREADABLE,
            TOO_LARGE,
            EMPTY,
            text="ha",
            slow=True,
        ),
        "a PDF whose pages contain themselves": _file(
            "circle.pdf",
            _circular_pdf,
            UNREADABLE,
            EMPTY,
            slow=True,
        ),
    }


def _xml() -> dict[str, Hostile]:
    failures = (UNREADABLE, TOO_LARGE, EMPTY, UNSUPPORTED)
    entity = f'<!DOCTYPE x [<!ENTITY e SYSTEM "{_SECRET_FILE}">]>'
    return {
        "a billion laughs in a Word document": _file("laughs.docx", documents.entity_bomb_docx, *failures),
        "a billion laughs in a page": _file(
            "laughs.html", lambda: _laughs("html", "html"), *failures, text="laughter"
        ),
        "a billion laughs in a picture": _file("laughs.svg", lambda: _laughs("svg", "svg"), *failures),
        "a Word document that names a file as an entity": _file(
            "entity.docx",
            lambda: _word(
                f"{entity}<w:document {_WORD}><w:body><w:p><w:r><w:t>Word &e;</w:t></w:r></w:p>"
                "</w:body></w:document>"
            ),
            *failures,
            text="Word",
        ),
        "a page that names a file as an entity": _file(
            "entity.html", lambda: f"{entity}<html><body><p>Page &e;</p></body></html>".encode(), text="Page"
        ),
        "a workbook that names a file as an entity": _file(
            "entity.xlsx",
            lambda: _workbook(
                f'{entity}<worksheet {_SHEET}><sheetData><row r="1"><c r="A1" t="inlineStr"><is>'
                "<t>Sheet &e;</t></is></c></row></sheetData></worksheet>"
            ),
            *failures,
            text="Sheet",
        ),
    }


def _large_and_deep() -> dict[str, Hostile]:
    failures = (UNREADABLE, TOO_LARGE, EMPTY)
    n = 200_000
    return {
        "a workbook of two cells, far apart": _file("sparse.xlsx", _sparse_workbook, *failures, text="last"),
        "a workbook of 20,000 cells, each far from the next": _file(
            "diagonal.xlsx",
            _diagonal_workbook,
            *failures,
            text="cell",
            slow=True,
        ),
        "200,000 elements in each other": _file(
            "deep.html", lambda: b"<div>" * n + b"in the depth" + b"</div>" * n, text="in the depth"
        ),
        "200,000 tables in each other": _file(
            "tables.html",
            lambda: b"<table><tr><td>" * n + b"deep",
            *failures,
            text="deep",
            slow=True,
        ),
        "200,000 elements in each other in a Word document": _file(
            "deep.docx", lambda: documents.nested_docx(n), *failures
        ),
        "200,000 quotations in each other": _file(
            "deep.md", lambda: b"> " * n + b"deep", text="deep", slow=True
        ),
        "a page of 15 MB": _file(
            "large.html",
            lambda: b"<p>Some words. " * 1_000_000,
            *failures,
            text="Some",
            slow=True,
        ),
        "a CSV of one line of 100 MB": _file("line.csv", lambda: b"a" * 100_000_000, TOO_LARGE, slow=True),
        "a CSV of 15 million cells in a line": _file(
            "cells.csv", lambda: b"a" + b"," * 15_000_000, TOO_LARGE
        ),
        "a CSV of 4 million rows": _file(
            "rows.csv",
            lambda: b"a,b\n" * 3_990_000,
            TOO_LARGE,
            slow=True,
        ),
        "a text of 16 MB, one letter wide": _file(
            "wide.txt",
            lambda: b"\n" * 15_900_000 + "😀".encode(),
            EMPTY,
            slow=True,
        ),
        "a text of 100 MB": _file(
            "large.txt",
            lambda: b"text\n" * 20_000_000,
            TOO_LARGE,
            slow=True,
        ),
    }


def _broken() -> dict[str, Hostile]:
    return {
        "half a PDF": _file("half.pdf", lambda: _report()[:9_000], UNREADABLE),
        "half a Word document": _file("half.docx", lambda: _book()[:900], UNREADABLE),
        "half a workbook": _file(
            "half.xlsx", lambda: documents.xlsx({"a": [["b"] * 9] * 99})[:700], UNREADABLE
        ),
        "a PDF under a password": _file("locked.pdf", documents.encrypted_pdf, UNREADABLE),
        "a Word document under a password": _file(
            "locked.docx", lambda: documents.ole_file("EncryptedPackage"), UNREADABLE
        ),
        "a zip under a password": _file("zip.docx", lambda: _locked(_book()), UNREADABLE),
        "a PDF that is called .docx": _file("report.docx", _report, text="whole"),
        "a Word document that is called .txt": _file("book.txt", _book, text="Whole."),
        "a program that is called .md": _file(
            "tool.md", lambda: b"\x7fELF" + bytes(range(256)) * 20, UNSUPPORTED
        ),
        "random bytes that are called .pdf": _file(
            "noise.pdf", lambda: random.Random(1).randbytes(100_000), UNSUPPORTED, UNREADABLE
        ),
        "random bytes after the mark of a PDF": _file(
            "marked.pdf",
            lambda: b"%PDF-1.7\n" + random.Random(2).randbytes(100_000) + b"startxref\n0\n%%EOF",
            UNREADABLE,
            EMPTY,
        ),
    }


def _encodings() -> dict[str, Hostile]:
    return {
        f"a text in {encoding}": _file(f"{encoding}.txt", partial(_in_chinese, encoding), text=_CHINESE)
        for encoding in ("gbk", "gb18030", "utf-16", "utf-16-le", "utf-16-be", "utf-8-sig")
    }


# How they are made ---------------------------------------------------------------------------------


def _in_chinese(encoding: str) -> bytes:
    return f"{encoding}\n\n{_CHINESE}".encode(encoding)


def _book() -> bytes:
    return documents.docx(["Whole."] * 50)


def _report() -> bytes:
    return documents.pdf(["whole"] * 400)


def _word(document_xml: str) -> bytes:
    return _replaced(documents.docx(["x"]), "word/document.xml", [document_xml.encode()])


def _word_of(paragraph: bytes, size: int) -> bytes:
    block = paragraph * (MEBIBYTE // len(paragraph))
    head = f"<w:document {_WORD}><w:body>".encode()
    parts = [head, *[block] * (size // len(block)), b"</w:body></w:document>"]
    return _replaced(documents.docx(["x"]), "word/document.xml", parts)


def _workbook(sheet_xml: str) -> bytes:
    return _replaced(documents.xlsx({"a": [["x"]]}), "xl/worksheets/sheet1.xml", [sheet_xml.encode()])


def _replaced(package: bytes, part: str, pieces: list[bytes]) -> bytes:
    target = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(package)) as source,
        zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    ):
        for name in source.namelist():
            if name != part:
                archive.writestr(name, source.read(name))
        with archive.open(part, "w") as entry:
            for piece in pieces:
                entry.write(piece)
    return target.getvalue()


def _laughs(root: str, doctype: str) -> bytes:
    entities = '<!ENTITY a0 "ha">' + "".join(
        f'<!ENTITY a{level} "{f"&a{level - 1};" * 10}">' for level in range(1, 12)
    )
    return f"<!DOCTYPE {doctype} [{entities}]><{root}><text>laughter &a11;</text></{root}>".encode()


def _cell(place: str, text: str) -> str:
    return f'<c r="{place}" t="inlineStr"><is><t>{text}</t></is></c>'


def _sparse_workbook() -> bytes:
    return _workbook(
        f'<worksheet {_SHEET}><dimension ref="A1:XFD1048576"/><sheetData><row r="1">{_cell("A1", "first")}'
        f'</row><row r="1048576">{_cell("XFD1048576", "last")}</row></sheetData></worksheet>'
    )


def _diagonal_workbook() -> bytes:
    rows = "".join(
        f'<row r="{row}">{_cell(f"{_column(row % 16_384)}{row}", "cell")}</row>'
        for row in range(1, 1_000_000, 50)
    )
    return _workbook(f"<worksheet {_SHEET}><sheetData>{rows}</sheetData></worksheet>")


def _column(number: int) -> str:
    letters = ""
    number += 1
    while number:
        number, letter = divmod(number - 1, 26)
        letters = chr(ord("A") + letter) + letters
    return letters


def _locked(package: bytes) -> bytes:
    """The same zip, all of whose entries claim to be encrypted."""
    changed = bytearray(package)
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = changed.find(mark)
        while place >= 0:
            changed[place + offset] |= 1
            place = changed.find(mark, place + 4)
    return bytes(changed)


def _pdf_page(contents: bytes, resources: bytes = b"") -> list[bytes]:
    return [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R /Resources << %s >> >>"
        % resources,
        contents,
    ]


def _pdf_stream(block: bytes, count: int, *, twice: bool = False) -> bytes:
    packer = zlib.compressobj(1)
    packed = b"".join(packer.compress(block) for _ in range(count)) + packer.flush()
    filters = b"/FlateDecode"
    if twice:
        packed, filters = zlib.compress(packed, 9), b"[/FlateDecode /FlateDecode]"
    return documents.pdf_file(_pdf_page(_stream(packed, b"/Filter " + filters)))


def _stream(content: bytes, entries: bytes = b"") -> bytes:
    return b"<< /Length %d %s >>\nstream\n%s\nendstream" % (len(content), entries, content)


def _pdf_of_forms() -> bytes:
    """A billion laughs: each form draws the next one ten times, the last one writes."""
    font = b"/Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >>"

    def form(content: bytes, resources: bytes) -> bytes:
        head = b"/Type /XObject /Subtype /Form /BBox [0 0 595 842] /Resources << %s >>" % resources
        return _stream(content, head)

    draw = b"/X Do " * 10
    pages = _pdf_page(_stream(draw), b"/XObject << /X 5 0 R >>")
    levels = [form(draw, b"/XObject << /X %d 0 R >>" % (6 + level)) for level in range(9)]
    return documents.pdf_file([*pages, *levels, form(b"BT /F1 12 Tf 60 700 Td (ha) Tj ET", font)])


def _circular_pdf() -> bytes:
    pages = _pdf_page(_stream(b""))
    pages[1] = b"<< /Type /Pages /Kids [2 0 R 2 0 R] /Count 1000000 >>"
    return documents.pdf_file(pages)
