"""Documents become Markdown, and none of them can harm the worker."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from actors.errors import RetryAfter
from pipelines.documents.conversion import Limits, convert, end_idle_children
from pipelines.documents.conversion_process import ChildDied, ConversionChild, ConversionChildren
from pipelines.documents.detection import MediaType
from pipelines.documents.errors import (
    DocumentError,
    DocumentMissing,
    DocumentTooLarge,
    EmptyDocument,
    UnreadableDocument,
)
from tests.support import documents

CITIES: documents.Rows = [["City", "People"], ["Zürich", 430000], ["北京", 21890000]]
CITIES_TABLE = "| City | People |\n| --- | --- |\n| Zürich | 430000 |\n| 北京 | 21890000 |\n"
MEMORY = 256 << 20
DEFAULT = Limits()


@pytest.fixture(scope="module", autouse=True)
def _no_child_outlives_the_tests() -> Iterator[None]:
    yield
    end_idle_children()
    assert conversion_children() == []


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A document whose conversion takes many seconds."""
    path = tmp_path_factory.mktemp("slow") / "slow.pdf"
    path.write_bytes(documents.pdf([f"Line {number} of a long, long document." for number in range(25_000)]))
    return path


def conversion_children(of: int | None = None) -> list[psutil.Process]:
    children = psutil.Process(of).children()
    return [child for child in children if "conversion_child" in " ".join(child.cmdline())]


def converted(folder: Path, content: bytes, media_type: MediaType, limits: Limits = DEFAULT) -> str:
    path = folder / "document"
    path.write_bytes(content)
    return convert(path, media_type, limits=limits)


# Every format


def test_a_pdf_becomes_paragraphs_under_headings_chinese_too(tmp_path: Path) -> None:
    lines = [
        "# Annual report",
        "Income grew by ten percent",
        "costs by five.",
        "# 第二章",
        "收入增长了百分之十。",
    ]
    markdown = converted(tmp_path, documents.pdf(lines), MediaType.PDF)
    assert markdown == (
        "# Annual report\n\nIncome grew by ten percent costs by five.\n\n# 第二章\n\n收入增长了百分之十。\n"
    )


def test_a_table_in_a_pdf_becomes_a_table(tmp_path: Path) -> None:
    assert converted(tmp_path, documents.pdf_table(CITIES), MediaType.PDF) == CITIES_TABLE


def test_a_word_document_becomes_headings_paragraphs_and_tables(tmp_path: Path) -> None:
    content = documents.docx(["# Title", "Hello 世界.", "## Part", "More."], CITIES)
    assert converted(tmp_path, content, MediaType.DOCX) == (
        f"# Title\n\nHello 世界.\n\n## Part\n\nMore.\n\n{CITIES_TABLE}"
    )


def test_a_presentation_becomes_a_heading_for_each_slide(tmp_path: Path) -> None:
    content = documents.pptx([("First 标题", ["one", "二"]), ("Second", ["three"])])
    assert converted(tmp_path, content, MediaType.PPTX) == (
        "## First 标题\n\none\n\n二\n\n## Second\n\nthree\n"
    )


def test_a_workbook_becomes_a_table_for_each_sheet(tmp_path: Path) -> None:
    content = documents.xlsx({"Cities": CITIES, "空": [["a|b", "c"], [1, 2.5]]})
    assert converted(tmp_path, content, MediaType.XLSX) == (
        f"## Cities\n\n{CITIES_TABLE}\n## 空\n\n| a\\|b | c |\n| --- | --- |\n| 1 | 2.5 |\n"
    )


def test_a_page_keeps_its_text_and_loses_scripts_styles_and_navigation(tmp_path: Path) -> None:
    page = """<!doctype html><html><head><title>T</title><style>p { color: red }</style></head><body>
        <nav><a href="/">NAVIGATION</a></nav><h1>标题</h1><script>document.write("<p>SCRIPT</p>")</script>
        <form><p>In a <b>form</b>.</p><button>BUTTON</button></form>
        <table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td>2</td></tr></table>
        <img src="data:image/png;base64,AAAA" alt="IMAGE"><footer>FOOTER</footer></body></html>"""
    markdown = converted(tmp_path, page.encode(), MediaType.HTML)
    assert markdown == "# 标题\n\nIn a **form**.\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n"


def test_table_cells_without_end_tags_lose_nothing(tmp_path: Path) -> None:
    page = b"<table><tr><td>one<td>two</table><p>after"
    markdown = converted(tmp_path, page, MediaType.HTML)
    assert markdown == "| one | two |\n| --- | --- |\n\nafter\n"


def test_very_many_paragraphs_without_end_tags_lose_nothing(tmp_path: Path) -> None:
    page = "".join(f"<p>word{number} <ul><li>one<li>two</ul>" for number in range(200))
    markdown = converted(tmp_path, page.encode(), MediaType.HTML)
    assert [markdown.count(word) for word in ("word", "- one", "- two")] == [200, 200, 200]


@pytest.mark.parametrize("tag", ["div", "b", "table><tr><td", "ul><li"])
def test_elements_without_end_lose_their_tags_and_not_their_text(tmp_path: Path, tag: str) -> None:
    page = f"<p>before<{tag}>" + f"<{tag}>" * 5_000 + "in the depth"
    markdown = converted(tmp_path, page.encode(), MediaType.HTML)
    assert "before" in markdown
    assert "in the depth" in markdown


def test_a_page_that_begins_with_linked_pictures_is_read(tmp_path: Path) -> None:
    badge = '<a href="https://example.org"><img src="badge.svg" alt="badge"></a>'
    page = f"<h1>Title</h1><p>{badge} {badge}</p><p><img src=a> <img src=b></p><p>text</p>"
    assert converted(tmp_path, page.encode(), MediaType.HTML) == "# Title\n\ntext\n"


def test_a_page_in_gb2312_is_read_as_it_declares(tmp_path: Path) -> None:
    page = '<html><head><meta charset="gb2312"></head><body><p>你好，世界。</p></body></html>'
    assert converted(tmp_path, page.encode("gb2312"), MediaType.HTML) == "你好，世界。\n"


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_becomes_a_table(tmp_path: Path, delimiter: str) -> None:
    content = delimiter.join(["name", "note"]) + "\r\n" + delimiter.join(["甲", '"a|b\nc"']) + "\r\n\r\n"
    markdown = converted(tmp_path, content.encode("gb18030"), MediaType.CSV)
    assert markdown == "| name | note |\n| --- | --- |\n| 甲 | a\\|b c |\n"


def test_markdown_and_text_stay_as_they_are_but_for_noise(tmp_path: Path) -> None:
    content = "# 标题 \r\n\r\n\r\n\r\n\r\ntext\0".encode("utf-16")
    assert converted(tmp_path, content, MediaType.MARKDOWN) == "# 标题\n\n\ntext\n"
    assert converted(tmp_path, content, MediaType.TEXT) == "# 标题\n\n\ntext\n"


# What cannot be converted


@pytest.mark.parametrize(
    ("content", "media_type"),
    [
        (documents.scanned_pdf(), MediaType.PDF),
        (documents.docx([""]), MediaType.DOCX),
        (documents.pptx([("", [])]), MediaType.PPTX),
        (documents.xlsx({"Sheet1": []}), MediaType.XLSX),
        (b"<html><body><script>x()</script></body></html>", MediaType.HTML),
        (b" \n\t\n", MediaType.TEXT),
        (b",,\n,,\n", MediaType.CSV),
    ],
)
def test_a_document_without_text_is_empty(tmp_path: Path, content: bytes, media_type: MediaType) -> None:
    with pytest.raises(EmptyDocument):
        converted(tmp_path, content, media_type)


@pytest.mark.parametrize(
    ("content", "media_type"),
    [
        (documents.pdf(["text"] * 500)[:4000], MediaType.PDF),
        (b"%PDF-1.7\nnothing of the kind", MediaType.PDF),
        (documents.docx(["text"])[:900], MediaType.DOCX),
        (documents.plain_zip(), MediaType.XLSX),
    ],
)
def test_a_damaged_document_is_unreadable(tmp_path: Path, content: bytes, media_type: MediaType) -> None:
    with pytest.raises(UnreadableDocument) as raised:
        converted(tmp_path, content, media_type)
    assert str(tmp_path) not in raised.value.message


def test_a_pdf_under_a_password_says_so(tmp_path: Path) -> None:
    with pytest.raises(UnreadableDocument, match="password"):
        converted(tmp_path, documents.encrypted_pdf(), MediaType.PDF)


def test_text_of_characters_without_meaning_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableDocument, match="cannot be told"):
        converted(tmp_path, documents.docx(["ab" + "\ue123\ufffd" * 50]), MediaType.DOCX)


def test_a_file_that_is_gone_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DocumentMissing):
        convert(tmp_path / "gone.pdf", MediaType.PDF)


# Bombs


def test_a_zip_bomb_is_refused_within_seconds(tmp_path: Path) -> None:
    bomb = documents.zip_bomb_docx(600_000_000)
    started = time.monotonic()
    with pytest.raises(DocumentTooLarge, match="300 MB"):
        converted(tmp_path, bomb, MediaType.DOCX)
    assert time.monotonic() - started < 2


def test_a_zip_bomb_whose_headers_lie_is_refused_within_seconds(tmp_path: Path) -> None:
    bomb = documents.lying_zip_bomb_docx(400_000_000)
    started = time.monotonic()
    with pytest.raises(DocumentTooLarge, match="300 MB"):
        converted(tmp_path, bomb, MediaType.DOCX)
    assert time.monotonic() - started < 5


def test_an_archive_of_very_many_parts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DocumentTooLarge, match="parts"):
        converted(tmp_path, documents.crowded_docx(200), MediaType.DOCX, Limits(archive_entries=100))


@pytest.mark.parametrize("bomb", [documents.entity_bomb_docx(), documents.nested_docx(50_000)])
def test_an_xml_bomb_is_a_document_error(tmp_path: Path, bomb: bytes) -> None:
    with pytest.raises(DocumentError):
        converted(tmp_path, bomb, MediaType.DOCX)


def test_more_markdown_than_allowed_is_refused(tmp_path: Path) -> None:
    rows = documents.docx(["many words " * 100])
    with pytest.raises(DocumentTooLarge, match="of text"):
        converted(tmp_path, rows, MediaType.DOCX, Limits(markdown_bytes=1000))
    with pytest.raises(DocumentTooLarge, match="table"):
        converted(tmp_path, b"a,b\n" * 1000, MediaType.CSV, Limits(markdown_bytes=1000))
    with pytest.raises(DocumentTooLarge, match="line"):
        converted(tmp_path, b"," * 1_000_001, MediaType.CSV)
    with pytest.raises(DocumentTooLarge, match="larger"):
        converted(tmp_path, b"text " * 1000, MediaType.TEXT, Limits(text_bytes=1000))


# The child


def test_a_conversion_out_of_time_is_killed_and_leaves_no_process(tmp_path: Path, slow: Path) -> None:
    converted(tmp_path, documents.docx(["warm up"]), MediaType.DOCX)
    started = time.monotonic()
    with pytest.raises(UnreadableDocument, match=r"longer than 0\.5 seconds"):
        convert(slow, MediaType.PDF, limits=Limits(seconds=0.5))
    assert time.monotonic() - started < 3
    assert conversion_children() == []


def test_a_conversion_out_of_processor_time_is_an_unreadable_document(slow: Path) -> None:
    with pytest.raises(UnreadableDocument, match=r"more than 0\.5 seconds of processor time"):
        convert(slow, MediaType.PDF, limits=Limits(processor_seconds=0.5))


def test_a_conversion_out_of_memory_is_an_unreadable_document(tmp_path: Path) -> None:
    large = documents.docx(["word " * 1000] * 9000)
    with pytest.raises(UnreadableDocument, match="too much memory"):
        converted(tmp_path, large, MediaType.DOCX, Limits(memory_bytes=150 << 20))


def test_a_converter_that_cannot_start_is_not_the_documents_fault(tmp_path: Path) -> None:
    with pytest.raises(RetryAfter, match="could not be started"):
        converted(tmp_path, documents.docx(["text"]), MediaType.DOCX, Limits(memory_bytes=16 << 20))


def test_the_child_is_kept_for_the_next_document(tmp_path: Path) -> None:
    converted(tmp_path, documents.docx(["one"]), MediaType.DOCX)
    first = [child.pid for child in conversion_children()]
    converted(tmp_path, documents.docx(["two"]), MediaType.DOCX)
    assert [child.pid for child in conversion_children()] == first


def test_a_waiting_child_that_was_killed_is_replaced_unnoticed(tmp_path: Path) -> None:
    converted(tmp_path, documents.docx(["one"]), MediaType.DOCX)
    for child in conversion_children():
        child.send_signal(signal.SIGKILL)
    assert converted(tmp_path, documents.docx(["two"]), MediaType.DOCX) == "two\n"


def test_a_crash_is_told_with_its_signal(tmp_path: Path) -> None:
    with ConversionChild(MEMORY) as child:
        child.ask(_stored(tmp_path), MediaType.DOCX, seconds=20, processor_seconds=20, max_bytes=1000)
        os.kill(child.pid, signal.SIGSEGV)
        with pytest.raises(ChildDied) as raised:
            child.ask(_stored(tmp_path), MediaType.DOCX, seconds=20, processor_seconds=20, max_bytes=1000)
    assert raised.value.exit_code == -signal.SIGSEGV


def test_a_child_is_used_up_after_its_share_of_documents(tmp_path: Path) -> None:
    children, path, seen = ConversionChildren(documents_per_child=3), _stored(tmp_path), set()
    for _ in range(4):
        with children.lend(MEMORY) as child:
            seen.add(child.pid)
            child.ask(path, MediaType.DOCX, seconds=20, processor_seconds=20, max_bytes=1000)
    children.end_idle()
    assert len(seen) == 2


def test_the_child_sees_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLBOARD_JWT_SECRET", "hush")
    with ConversionChild(MEMORY) as child:
        child.ask(_stored(tmp_path), MediaType.DOCX, seconds=20, processor_seconds=20, max_bytes=1000)
        assert "CALLBOARD_JWT_SECRET" not in psutil.Process(child.pid).environ()


@pytest.mark.parametrize("at_work", [False, True])
def test_no_child_outlives_a_killed_worker(tmp_path: Path, slow: Path, at_work: bool) -> None:
    # Given a worker with a child, waiting or at work
    small = _stored(tmp_path)
    program = (
        "from pathlib import Path; import sys, time\n"
        "from pipelines.documents.conversion import convert, MediaType\n"
        f"convert(Path({str(small)!r}), MediaType.DOCX); print('warm', flush=True)\n"
        + (f"convert(Path({str(slow)!r}), MediaType.PDF)\n" if at_work else "time.sleep(60)\n")
    )
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=root, stdout=subprocess.PIPE, start_new_session=True
    ) as worker:
        assert worker.stdout is not None
        worker.stdout.readline()
        (child,) = conversion_children(worker.pid)
        # When the worker is killed
        worker.kill()
    # Then its child is gone soon after
    _, alive = psutil.wait_procs([child], timeout=5)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def _stored(folder: Path) -> Path:
    path = folder / "small.docx"
    path.write_bytes(documents.docx(["small"]))
    return path
