"""What documents say, read from their own formats and without any converter: text, and headings."""

import csv
import importlib
import io
import re
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as Xml

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_A = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
_S = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_R = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}"
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
_BODY_TEXT = "9"  # the outline level of what is no heading
_UNSEEN = frozenset(
    (
        "script",
        "style",
        "noscript",
        "template",
        "nav",
        "footer",
        "button",
        "select",
        "head",
        "aside",
        "textarea",
    )
)
_HEADING_TAG = re.compile(r"h[1-6]")
_FENCE = re.compile(r"^ {0,3}(```|~~~).*?^ {0,3}\1[^\n]*$", re.M | re.S)
_MARKDOWN_HEADING = re.compile(r"^ {0,3}#{1,6}[ \t]+(.+?)[ \t#]*$", re.M)


@dataclass
class Said:
    """The text of a document, and its headings; None where the format does not tell them."""

    text: str
    headings: list[str] | None = None


class NoReference(Exception):
    """The reference reader cannot read the document either."""


def reference(path: Path, kind: str, pypdf: Path) -> Said:
    """What the document says; ``pypdf`` is the folder that the package is imported from.

    Raises NoReference.
    """
    readers = {"docx": word, "html": page, "pptx": slides, "xlsx": workbook, "md": markdown, "csv": cells}
    try:
        return pdf(path, pypdf) if kind == "pdf" else readers[kind](path)
    except Exception as error:  # whatever these readers raise, there is nothing to compare with
        raise NoReference(f"{type(error).__name__}: {error}") from error


def word(path: Path) -> Said:
    """The paragraphs of the main part, and those with an outline level, by themselves or by their style."""
    with zipfile.ZipFile(path) as package:
        body = Xml.fromstring(package.read("word/document.xml"))
        named = "word/styles.xml" in package.namelist()
        levels = _outline_levels(Xml.fromstring(package.read("word/styles.xml"))) if named else {}
    said = Said("", [])
    texts = []
    for paragraph in _paragraphs(body):
        text = "".join(_runs(paragraph)).strip()
        texts.append(text)
        properties = paragraph.find(f"{_W}pPr")
        if text and said.headings is not None and _is_heading(properties, levels):
            said.headings.append(text)
    said.text = "\n".join(texts)
    return said


def _paragraphs(element: Xml.Element) -> Iterator[Xml.Element]:
    for child in element:
        if child.tag == _FALLBACK:
            continue
        if child.tag == f"{_W}p":
            yield child
        yield from _paragraphs(child)


def _runs(element: Xml.Element) -> Iterator[str]:
    """The text of a paragraph without that of paragraphs within it, such as those of text boxes."""
    for child in element:
        if child.tag in (f"{_W}p", _FALLBACK):
            continue
        if child.tag == f"{_W}t":
            yield child.text or ""
        elif child.tag in (f"{_W}tab", f"{_W}br", f"{_W}cr"):
            yield " "
        else:
            yield from _runs(child)


def _outline_levels(styles: Xml.Element) -> dict[str, str]:
    """The outline level of each paragraph style, its own or that of the style it is based on."""
    own: dict[str, str | None] = {}
    bases: dict[str, str] = {}
    for style in styles.iter(f"{_W}style"):
        name = style.get(f"{_W}styleId", "")
        level, base = style.find(f"{_W}pPr/{_W}outlineLvl"), style.find(f"{_W}basedOn")
        own[name] = None if level is None else level.get(f"{_W}val")
        if base is not None:
            bases[name] = base.get(f"{_W}val", "")

    def found(name: str, depth: int = 0) -> str | None:
        level = own.get(name)
        return level if level or depth > 20 or name not in bases else found(bases[name], depth + 1)

    return {name: level for name in own if (level := found(name))}


def _is_heading(properties: Xml.Element | None, levels: dict[str, str]) -> bool:
    if properties is None:
        return False
    level, style = properties.find(f"{_W}outlineLvl"), properties.find(f"{_W}pStyle")
    if level is not None:
        return level.get(f"{_W}val", _BODY_TEXT) < _BODY_TEXT
    return style is not None and levels.get(style.get(f"{_W}val", ""), _BODY_TEXT) < _BODY_TEXT


def page(path: Path) -> Said:
    """What a reader sees of a page but for navigation, forms' controls and footers, and its h1 to h6."""
    reader = _Page()
    reader.feed(path.read_text(encoding="utf-8", errors="replace"))
    reader.close()
    return Said("".join(reader.texts), [" ".join(one.split()) for one in reader.headings if one.strip()])


@dataclass
class _Page(HTMLParser):
    texts: list[str] = field(default_factory=list)
    headings: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    heading: str = ""

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _UNSEEN or ("class", "headerlink") in attrs:
            self.unseen.append(tag)
        elif _HEADING_TAG.fullmatch(tag) and not self.unseen:
            self.heading = tag
            self.headings.append("")
        self.texts.append(" " if tag in ("br", "td", "th", "li", "p", "div", "tr", "dt", "dd", "pre") else "")

    def handle_endtag(self, tag: str) -> None:
        if self.unseen and tag == self.unseen[-1]:
            self.unseen.pop()
        if tag == self.heading:
            self.heading = ""

    def handle_data(self, data: str) -> None:
        if not self.unseen:
            self.texts.append(data)
            if self.heading:
                self.headings[-1] += data


def slides(path: Path) -> Said:
    """The text of all slides."""
    with zipfile.ZipFile(path) as package:
        names = [one for one in package.namelist() if re.fullmatch(r"ppt/slides/slide\d+\.xml", one)]
        parts = [Xml.fromstring(package.read(name)) for name in names]
    return Said(
        "\n".join(
            "".join(run.text or "" for run in paragraph.iter(f"{_A}t"))
            for part in parts
            for paragraph in part.iter(f"{_A}p")
        )
    )


def workbook(path: Path) -> Said:
    """The sheets' names and all cells; a date is the number that it is kept as."""
    with zipfile.ZipFile(path) as package:
        names = package.namelist()
        shared = (
            Xml.fromstring(package.read("xl/sharedStrings.xml")) if "xl/sharedStrings.xml" in names else []
        )
        strings = ["".join(text.text or "" for text in item.iter(f"{_S}t")) for item in shared]
        sheets = [one for one in names if re.fullmatch(r"xl/worksheets/sheet\d+\.xml", one)]
        texts = _sheet_names(package)
        for name in sheets:
            for cell in Xml.fromstring(package.read(name)).iter(f"{_S}c"):
                texts.append(_cell(cell, strings))
    return Said("\n".join(texts))


def _sheet_names(package: zipfile.ZipFile) -> list[str]:
    """The names of the sheets that hold something."""
    links = Xml.fromstring(package.read("xl/_rels/workbook.xml.rels"))
    targets = {link.get("Id"): link.get("Target", "").removeprefix("/xl/") for link in links}
    book = Xml.fromstring(package.read("xl/workbook.xml"))
    return [
        sheet.get("name", "")
        for sheet in book.iter(f"{_S}sheet")
        if _holds_something(package, f"xl/{targets.get(sheet.get(f'{_R}id'))}")
    ]


def _holds_something(package: zipfile.ZipFile, part: str) -> bool:
    cells = Xml.fromstring(package.read(part)).iter(f"{_S}c")
    return any(text for cell in cells for text in cell.itertext())


def _cell(cell: Xml.Element, strings: list[str]) -> str:
    value = cell.findtext(f"{_S}v", "")
    if cell.get("t") == "s":
        return strings[int(value)]
    if cell.get("t") == "inlineStr":
        return "".join(text.text or "" for text in cell.iter(f"{_S}t"))
    return value


def pdf(path: Path, pypdf: Path) -> Said:
    """The text that pypdf extracts."""
    if str(pypdf) not in sys.path:
        sys.path.insert(0, str(pypdf))
    reader = importlib.import_module("pypdf").PdfReader(path)
    return Said("\n".join(one.extract_text() for one in reader.pages))


def markdown(path: Path) -> Said:
    """The text as it is, and the lines that begin with number signs."""
    text = path.read_text(encoding="utf-8", errors="replace")
    return Said(text, markdown_headings(text))


def markdown_headings(text: str) -> list[str]:
    """The headings of Markdown, outside of fenced code."""
    return _MARKDOWN_HEADING.findall(_FENCE.sub("", text))


def cells(path: Path) -> Said:
    """The cells of a CSV."""
    rows = csv.reader(io.StringIO(path.read_text(encoding="utf-8", errors="replace"), newline=""))
    return Said("\n".join(cell for row in rows for cell in row))
