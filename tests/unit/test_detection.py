"""What a file is, is told by its content."""

from pathlib import Path

import pytest

from pipelines.documents.detection import MediaType, detect
from pipelines.documents.errors import DocumentMissing, EmptyDocument, UnreadableDocument, UnsupportedType
from tests.support import documents

PNG = bytes.fromhex("89504e470d0a1a0a0000000d49484452") + bytes(50)
GARBAGE = bytes((index * 7919 + index // 3) % 256 for index in range(5000))


def detected(folder: Path, content: bytes, name: str) -> MediaType:
    # The stored file has a name of its own: only the sender's name may count.
    path = folder / "stored"
    path.write_bytes(content)
    return detect(path, name)


@pytest.mark.parametrize(
    ("content", "name", "expected"),
    [
        (documents.pdf(["hello"]), "a.pdf", MediaType.PDF),
        (documents.docx(["hello"]), "a.docx", MediaType.DOCX),
        (documents.pptx([("hello", [])]), "a.pptx", MediaType.PPTX),
        (documents.xlsx({"Sheet": [["hello"]]}), "a.xlsx", MediaType.XLSX),
        (b"<!DOCTYPE html><p>hello", "a.html", MediaType.HTML),
        (b"# Hello", "a.md", MediaType.MARKDOWN),
        (b"a,b\n1,2\n", "a.csv", MediaType.CSV),
        (b"a\tb\n1\t2\n", "a.tsv", MediaType.CSV),
        ("世界".encode(), "a.txt", MediaType.TEXT),
        ("公司的收入增长了百分之十。".encode("gb18030"), "a.txt", MediaType.TEXT),
        ("hello world".encode("utf-16-le"), "a.txt", MediaType.TEXT),
    ],
)
def test_every_convertible_type_is_known(
    tmp_path: Path, content: bytes, name: str, expected: MediaType
) -> None:
    assert detected(tmp_path, content, name) is expected


@pytest.mark.parametrize("name", ["a.docx", "a.txt", "a", "a.PDF.exe"])
def test_a_pdf_under_another_name_is_a_pdf(tmp_path: Path, name: str) -> None:
    assert detected(tmp_path, documents.pdf(["hello"]), name) is MediaType.PDF


def test_a_pdf_may_begin_with_a_few_foreign_bytes(tmp_path: Path) -> None:
    assert detected(tmp_path, b"\0\x01\x02junk\n" + documents.pdf(["hello"]), "a") is MediaType.PDF
    assert detected(tmp_path, b"A PDF begins with\n%PDF-1.4\n", "on-pdf.md") is MediaType.MARKDOWN


def test_the_extension_counts_in_any_case(tmp_path: Path) -> None:
    assert detected(tmp_path, b"# Hello", "README.MD") is MediaType.MARKDOWN


def test_text_of_an_unknown_name_is_html_if_it_begins_like_a_page_and_plain_text_if_not(
    tmp_path: Path,
) -> None:
    assert detected(tmp_path, b"\n<!doctype HTML><title>x</title>", "page") is MediaType.HTML
    assert detected(tmp_path, b"<!-- note --><html><p>x", "page.pdf") is MediaType.HTML
    assert detected(tmp_path, b"print('hello')", "hello.py") is MediaType.TEXT
    assert detected(tmp_path, b"BMW is a car, BM is a picture's mark", "cars") is MediaType.TEXT


def test_a_text_cut_inside_a_character_at_the_end_of_the_sample_is_text(tmp_path: Path) -> None:
    for shift in range(3):
        assert detected(tmp_path, b"x" * shift + "世".encode() * 50_000, "a.txt") is MediaType.TEXT


@pytest.mark.parametrize(
    ("content", "name", "seems"),
    [
        (PNG, "a.txt", "image/png"),
        (GARBAGE, "a.txt", "unknown binary data"),
        (b"{\\rtf1 hello}", "a.txt", "RTF"),
        (b'<?xml version="1.0"?><a/>', "a.xml", "XML"),
        (documents.plain_zip(), "a.docx", "zip archive"),
        (documents.opendocument_text(), "a.odt", "OpenDocument"),
        (documents.ole_file("WordDocument"), "a.doc", "save it as .docx"),
        (documents.ole_file("Workbook"), "a.xls", "save it as .xlsx"),
        (documents.ole_file("PowerPoint Document"), "a.ppt", "save it as .pptx"),
    ],
)
def test_anything_else_is_refused_by_what_it_seems_to_be(
    tmp_path: Path, content: bytes, name: str, seems: str
) -> None:
    with pytest.raises(UnsupportedType, match=seems):
        detected(tmp_path, content, name)


def test_an_empty_file_is_an_empty_document(tmp_path: Path) -> None:
    with pytest.raises(EmptyDocument):
        detected(tmp_path, b"", "a.txt")


def test_an_office_file_under_a_password_says_so(tmp_path: Path) -> None:
    with pytest.raises(UnreadableDocument, match="password"):
        detected(tmp_path, documents.ole_file("EncryptedPackage"), "a.docx")


@pytest.mark.parametrize("kept", [10, 300, -5])
def test_a_truncated_zip_is_unreadable(tmp_path: Path, kept: int) -> None:
    with pytest.raises(UnreadableDocument, match="damaged"):
        detected(tmp_path, documents.docx(["hello"])[:kept], "a.docx")


def test_a_file_that_is_gone_is_missing_and_its_path_stays_secret(tmp_path: Path) -> None:
    with pytest.raises(DocumentMissing) as raised:
        detect(tmp_path / "gone", "a.txt")
    assert str(tmp_path) not in raised.value.message
