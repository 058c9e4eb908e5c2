"""Documents made in code: small, complete files of every type that Callboard converts, and hostile ones."""

import io
import struct
import zipfile
from collections.abc import Callable, Mapping, Sequence
from xml.sax.saxutils import escape, quoteattr

_XML = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
_OFFICE = "application/vnd.openxmlformats-officedocument"
_PACKAGE_RELATIONSHIPS = "http://schemas.openxmlformats.org/package/2006/relationships"
_OFFICE_RELATIONSHIPS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
_WORD_MAIN = f"{_OFFICE}.wordprocessingml.document.main+xml"
_PRESENTATION_XMLNS = (
    'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main" '
    f'xmlns:r="{_OFFICE_RELATIONSHIPS}" '
    'xmlns:p="http://schemas.openxmlformats.org/presentationml/2006/main"'
)

Rows = Sequence[Sequence[str | int | float]]


# PDF ---------------------------------------------------------------------------------------------


def pdf(text_lines: Sequence[str]) -> bytes:
    """Return a PDF of A4 pages, 40 lines each; a line that begins with ``# `` is set large."""
    pages = [text_lines[start : start + 40] for start in range(0, len(text_lines), 40)] or [[]]
    return _pdf_file([_page_content(lines) for lines in pages], "".join(text_lines))


def scanned_pdf() -> bytes:
    """Return a PDF whose page holds a picture of sorts (a grey box) and no text."""
    return _pdf_file([b"0.5 g 100 100 300 400 re f"], "")


def pdf_table(rows: Rows) -> bytes:
    """Return a PDF with one ruled table."""
    left, top, width, height = 72, 760, 120, 24
    columns = max(len(row) for row in rows)
    parts = ["0.5 w"]
    for index in range(len(rows) + 1):
        y = top - index * height
        parts.append(f"{left} {y} m {left + columns * width} {y} l S")
    for index in range(columns + 1):
        x = left + index * width
        parts.append(f"{x} {top} m {x} {top - len(rows) * height} l S")
    for row_index, row in enumerate(rows):
        for column, cell in enumerate(row):
            x, y = left + column * width + 4, top - (row_index + 1) * height + 8
            parts.append(f"BT /F1 11 Tf {x} {y} Td <{_codes(str(cell))}> Tj ET")
    return _pdf_file(["\n".join(parts).encode()], "".join(str(cell) for row in rows for cell in row))


def encrypted_pdf() -> bytes:
    """Return a PDF that opens with a password only."""
    plain = pdf(["secret text"])
    lock = (
        b"/Encrypt << /Filter /Standard /V 1 /R 2 /Length 40 /P -44 "
        b"/O <" + b"ab" * 32 + b"> /U <" + b"cd" * 32 + b"> >> /ID [<0123456789abcdef> <0123456789abcdef>] "
    )
    return plain.replace(b"trailer\n<< ", b"trailer\n<< " + lock)


def _page_content(lines: Sequence[str]) -> bytes:
    parts, y = [], 800
    for line in lines:
        size = 22 if line.startswith("# ") else 11
        y -= size + 7
        parts.append(f"BT /F1 {size} Tf 60 {y} Td <{_codes(line.removeprefix('# '))}> Tj ET")
    return "\n".join(parts).encode()


def _codes(text: str) -> str:
    return text.encode("utf-16-be").hex()


def _pdf_file(contents: Sequence[bytes], text: str) -> bytes:
    """Text is written as UTF-16 codes of a composite font whose ToUnicode map names every character."""
    first_page = 7
    kids = " ".join(f"{first_page + 2 * index} 0 R" for index in range(len(contents)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(contents)} >>".encode(),
        b"<< /Type /Font /Subtype /Type0 /BaseFont /Sans /Encoding /Identity-H"
        b" /DescendantFonts [4 0 R] /ToUnicode 6 0 R >>",
        b"<< /Type /Font /Subtype /CIDFontType2 /BaseFont /Sans /DW 500 /FontDescriptor 5 0 R"
        b" /CIDSystemInfo << /Registry (Adobe) /Ordering (Identity) /Supplement 0 >> >>",
        b"<< /Type /FontDescriptor /FontName /Sans /Flags 4 /FontBBox [0 -200 1000 800]"
        b" /ItalicAngle 0 /Ascent 800 /Descent -200 /CapHeight 700 /StemV 80 >>",
        _stream(_to_unicode(text)),
    ]
    for index, content in enumerate(contents):
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842]"
            b" /Resources << /Font << /F1 3 0 R >> >>"
            b" /Contents %d 0 R >>" % (first_page + 2 * index + 1)
        )
        objects.append(_stream(content))
    return pdf_file(objects)


def _to_unicode(text: str) -> bytes:
    units = sorted({_codes(character) for character in text if ord(character) < 0x10000})
    entries = [f"<{unit}> <{unit}>" for unit in units]
    blocks = [entries[start : start + 100] for start in range(0, len(entries), 100)]
    body = "".join(f"{len(block)} beginbfchar\n" + "\n".join(block) + "\nendbfchar\n" for block in blocks)
    return (
        "/CIDInit /ProcSet findresource begin 12 dict begin begincmap /CMapName /U def /CMapType 2 def\n"
        f"1 begincodespacerange <0000> <FFFF> endcodespacerange\n{body}"
        "endcmap CMapName currentdict /CMap defineresource pop end end"
    ).encode()


def _stream(data: bytes) -> bytes:
    return b"<< /Length %d >>\nstream\n%s\nendstream" % (len(data), data)


def pdf_file(objects: Sequence[bytes]) -> bytes:
    """A PDF of these objects, numbered from 1 on; the first is its root."""
    file = bytearray(b"%PDF-1.4\n")
    offsets = []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(file))
        file += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = len(file)
    file += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    for offset in offsets:
        file += b"%010d 00000 n \n" % offset
    file += b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, table)
    return bytes(file)


# Office ------------------------------------------------------------------------------------------


def docx(paragraphs: Sequence[str], table: Rows = ()) -> bytes:
    """Return a Word document; ``# `` and ``## `` before a paragraph make it a heading. The table is last."""
    body = "".join(_word_paragraph(paragraph) for paragraph in paragraphs) + _word_table(table)
    return _docx_package(f"<w:document {_W}><w:body>{body}</w:body></w:document>")


def _word_paragraph(text: str) -> str:
    level = len(text) - len(text.lstrip("#")) if text.startswith(("# ", "## ", "### ")) else 0
    style = f'<w:pPr><w:pStyle w:val="Heading{level}"/></w:pPr>' if level else ""
    shown = escape(text[level:].lstrip() if level else text)
    return f'<w:p>{style}<w:r><w:t xml:space="preserve">{shown}</w:t></w:r></w:p>'


def _word_table(rows: Rows) -> str:
    if not rows:
        return ""
    cells = ["".join(f"<w:tc><w:tcPr/>{_word_paragraph(str(cell))}</w:tc>" for cell in row) for row in rows]
    grid = "<w:gridCol/>" * max(len(row) for row in rows)
    lines = "".join(f"<w:tr>{row}</w:tr>" for row in cells)
    return f"<w:tbl><w:tblPr/><w:tblGrid>{grid}</w:tblGrid>{lines}</w:tbl>"


def _docx_package(document_xml: str, *, main_type: str = _WORD_MAIN) -> bytes:
    styles = "".join(
        f'<w:style w:type="paragraph" w:styleId="Heading{level}"><w:name w:val="heading {level}"/>'
        f'<w:pPr><w:outlineLvl w:val="{level - 1}"/></w:pPr></w:style>'
        for level in (1, 2, 3)
    )
    return _package(
        {
            "word/document.xml": (main_type, document_xml),
            "word/styles.xml": (
                f"{_OFFICE}.wordprocessingml.styles+xml",
                f"<w:styles {_W}>{styles}</w:styles>",
            ),
        },
        relationships={
            "_rels/.rels": [("rId1", "officeDocument", "word/document.xml")],
            "word/_rels/document.xml.rels": [("rId1", "styles", "styles.xml")],
        },
    )


def pptx(slides: Sequence[tuple[str, Sequence[str]]]) -> bytes:
    """Return a presentation; each slide is its title and its lines."""
    numbers = range(1, len(slides) + 1)
    listed = "".join(f'<p:sldId id="{255 + number}" r:id="rId{number}"/>' for number in numbers)
    parts = {
        "ppt/presentation.xml": (
            f"{_OFFICE}.presentationml.presentation.main+xml",
            f"<p:presentation {_PRESENTATION_XMLNS}><p:sldIdLst>{listed}</p:sldIdLst></p:presentation>",
        )
    }
    for number, (title, lines) in zip(numbers, slides, strict=True):
        parts[f"ppt/slides/slide{number}.xml"] = (
            f"{_OFFICE}.presentationml.slide+xml",
            f"<p:sld {_PRESENTATION_XMLNS}><p:cSld><p:spTree><p:nvGrpSpPr/><p:grpSpPr/>"
            f"{_shape(2, 'title', [title])}{_shape(3, 'body', lines)}</p:spTree></p:cSld></p:sld>",
        )
    return _package(
        parts,
        relationships={
            "_rels/.rels": [("rId1", "officeDocument", "ppt/presentation.xml")],
            "ppt/_rels/presentation.xml.rels": [
                (f"rId{number}", "slide", f"slides/slide{number}.xml") for number in numbers
            ],
        },
    )


def _shape(number: int, kind: str, lines: Sequence[str]) -> str:
    text = "".join(f"<a:p><a:r><a:t>{escape(line)}</a:t></a:r></a:p>" for line in lines)
    return (
        f'<p:sp><p:nvSpPr><p:cNvPr id="{number}" name="{kind}"/><p:cNvSpPr/>'
        f'<p:nvPr><p:ph type="{kind}"/></p:nvPr></p:nvSpPr><p:spPr/>'
        f"<p:txBody><a:bodyPr/>{text}</p:txBody></p:sp>"
    )


def xlsx(sheets: Mapping[str, Rows]) -> bytes:
    """Return a workbook of the named sheets."""
    named = list(enumerate(sheets.items(), start=1))
    listed = "".join(
        f'<sheet name={quoteattr(name)} sheetId="{number}" r:id="rId{number}"/>'
        for number, (name, _) in named
    )
    main = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    parts = {
        "xl/workbook.xml": (
            f"{_OFFICE}.spreadsheetml.sheet.main+xml",
            f'<workbook {main} xmlns:r="{_OFFICE_RELATIONSHIPS}"><sheets>{listed}</sheets></workbook>',
        )
    }
    for number, (_, rows) in named:
        body = "".join(_sheet_row(index, row) for index, row in enumerate(rows, start=1))
        parts[f"xl/worksheets/sheet{number}.xml"] = (
            f"{_OFFICE}.spreadsheetml.worksheet+xml",
            f"<worksheet {main}><sheetData>{body}</sheetData></worksheet>",
        )
    return _package(
        parts,
        relationships={
            "_rels/.rels": [("rId1", "officeDocument", "xl/workbook.xml")],
            "xl/_rels/workbook.xml.rels": [
                (f"rId{number}", "worksheet", f"worksheets/sheet{number}.xml") for number, _ in named
            ],
        },
    )


def _sheet_row(index: int, row: Sequence[str | int | float]) -> str:
    cells = []
    for column, value in zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", row, strict=False):
        place = f"{column}{index}"
        if isinstance(value, str):
            cells.append(f'<c r="{place}" t="inlineStr"><is><t>{escape(value)}</t></is></c>')
        else:
            cells.append(f'<c r="{place}"><v>{value}</v></c>')
    return f'<row r="{index}">{"".join(cells)}</row>'


def _package(
    parts: Mapping[str, tuple[str, str]], *, relationships: Mapping[str, Sequence[tuple[str, str, str]]]
) -> bytes:
    overrides = "".join(
        f'<Override PartName="/{name}" ContentType="{content_type}"/>'
        for name, (content_type, _) in parts.items()
    )
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            "[Content_Types].xml",
            f'{_XML}<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
            '<Default Extension="rels" '
            'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
            f'<Default Extension="xml" ContentType="application/xml"/>{overrides}</Types>',
        )
        for name, links in relationships.items():
            listed = "".join(
                f'<Relationship Id="{key}" Type="{_OFFICE_RELATIONSHIPS}/{kind}" Target="{place}"/>'
                for key, kind, place in links
            )
            archive.writestr(
                name, f'{_XML}<Relationships xmlns="{_PACKAGE_RELATIONSHIPS}">{listed}</Relationships>'
            )
        for name, (_, content) in parts.items():
            archive.writestr(name, _XML + content)
    return target.getvalue()


# Other containers --------------------------------------------------------------------------------


def opendocument_text() -> bytes:
    """Return the beginnings of an OpenDocument text, a zip with a ``mimetype`` entry."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.text")
        archive.writestr("content.xml", "<office:document-content/>")
    return target.getvalue()


def plain_zip() -> bytes:
    """Return a zip archive that is no document."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("notes.txt", "hello")
    return target.getvalue()


def ole_file(stream: str) -> bytes:
    """Return an OLE container with one named stream.

    ``WordDocument`` makes it an old .doc, ``EncryptedPackage`` an Office file under a password.
    """
    header = struct.pack(
        "<8s16sHHHHH6sIIIIIIIII",
        bytes.fromhex("d0cf11e0a1b11ae1"), b"", 0x3E, 3, 0xFFFE, 9, 6, b"",
        0, 1, 1, 0, 4096, 0xFFFFFFFE, 0, 0xFFFFFFFE, 0,
    )  # fmt: skip
    header += struct.pack("<I", 0) + b"\xff" * (4 * 108)
    table = struct.pack("<II", 0xFFFFFFFD, 0xFFFFFFFE) + b"\xff" * (4 * 126)
    directory = _ole_entry("Root Entry", 5, child=1) + _ole_entry(stream, 2, child=0xFFFFFFFF)
    return header + table + directory.ljust(512, b"\0")


def _ole_entry(name: str, kind: int, *, child: int) -> bytes:
    encoded = name.encode("utf-16-le")
    none = 0xFFFFFFFF
    head = encoded.ljust(64, b"\0") + struct.pack("<HBBIII", len(encoded) + 2, kind, 1, none, none, child)
    return head + b"\0" * 36 + struct.pack("<IQ", 0xFFFFFFFE, 0)


# Hostile files -----------------------------------------------------------------------------------


def zip_bomb_docx(unpacked_bytes: int) -> bytes:
    """Return a small Word document whose main part unpacks to ``unpacked_bytes`` zeros."""
    return _docx_with(lambda archive: _write_zeros(archive, "word/media/zeros.bin", unpacked_bytes))


def lying_zip_bomb_docx(unpacked_bytes: int) -> bytes:
    """Return the same bomb, but both its headers claim that the part unpacks to 1,000 bytes."""
    bomb = zip_bomb_docx(unpacked_bytes)
    return bomb.replace(struct.pack("<I", unpacked_bytes), struct.pack("<I", 1000))


def crowded_docx(entries: int) -> bytes:
    """Return a Word document with that many needless empty parts."""

    def add(archive: zipfile.ZipFile) -> None:
        for number in range(entries):
            archive.writestr(f"word/media/{number}", b"")

    return _docx_with(add)


def entity_bomb_docx(levels: int = 12) -> bytes:
    """Return a Word document with "a billion laughs": entities that name each other ten times a level."""
    entities = ['<!ENTITY a0 "ha">']
    entities += [f'<!ENTITY a{level} "{f"&a{level - 1};" * 10}">' for level in range(1, levels)]
    text = f"<w:p><w:r><w:t>&a{levels - 1};</w:t></w:r></w:p>"
    return _docx_package(
        f"<!DOCTYPE w:document [{''.join(entities)}]><w:document {_W}><w:body>{text}</w:body></w:document>"
    )


def nested_docx(depth: int) -> bytes:
    """Return a Word document whose text lies ``depth`` elements deep."""
    inner = "<w:sdt><w:sdtContent>" * depth + _word_paragraph("deep") + "</w:sdtContent></w:sdt>" * depth
    return _docx_package(f"<w:document {_W}><w:body>{inner}</w:body></w:document>")


def _docx_with(add: Callable[[zipfile.ZipFile], None]) -> bytes:
    target = io.BytesIO(docx(["A harmless paragraph."]))
    with zipfile.ZipFile(target, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        add(archive)
    return target.getvalue()


def _write_zeros(archive: zipfile.ZipFile, name: str, size: int) -> None:
    block = bytes(1 << 20)
    with archive.open(name, "w") as part:
        for start in range(0, size, len(block)):
            part.write(block[: size - start])
