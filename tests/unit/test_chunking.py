"""Chunks: where Markdown is cut, what overlaps, and what every cut keeps."""

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.documents.chunking import Chunk, split
from tasks.errors import InvalidField

MARKS = [
    "# Title\n",
    "## 第二节\n",
    "### Deep ###\n",
    "Under\n=====\n",
    "```\n",
    "# not a heading\n",
    "~~~py\n",
]
BLOCKS = [
    "- item\n",
    "1. one\n",
    "> quoted\n",
    "| a | b |\n|---|---|\n",
    "---\n",
    "<div>",
    "[a](b)",
    "**bold**",
    "`code`",
]
BLANKS = ["\n\n", "\n", "\r\n", "\r", " ", "    ", "\t", "\x00", "\x0b", "\x1c", "\u00a0", "\u3000", "\u2028"]
LATIN = [
    "One sentence. ",
    "Another one! ",
    "Is it? ",
    "word ",
    "https://example.org/a/b/c ",
    "e\u0301",
    "😀",
    "👨\u200d👩",
]
CJK = [
    "任务队列把文档转换成知识库。",
    "他们在北京！",
    "真的吗？",
    "没有标点的一段中文文字",
    "テスト、です。",
    "한국어 ",
]
PIECES = st.sampled_from([*MARKS, *BLOCKS, *BLANKS, *LATIN, *CJK])
MARKDOWN = st.lists(PIECES | st.text(max_size=8), max_size=60).map("".join)
LIMITS = st.integers(1, 120).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size - 1)))


def words(text: str) -> int:
    """A stand-in for an embedder's tokens: each word counts one, and each CJK character."""
    return sum(1 + sum("\u4e00" <= letter <= "\u9fff" for letter in word) for word in text.split())


def fresh_texts(text: str, chunks: list[Chunk]) -> list[str]:
    return [text[chunk.fresh : chunk.end] for chunk in chunks]


def assert_chunks_hold(text: str, chunks: list[Chunk]) -> None:
    covered = 0
    for ordinal, chunk in enumerate(chunks):
        assert chunk.ordinal == ordinal
        assert text[chunk.start : chunk.end] == chunk.text
        assert chunk.text.strip()
        assert chunk.characters == len(chunk.text)
        assert chunk.start <= chunk.fresh < chunk.end
        assert not text[covered : chunk.fresh].strip()
        if ordinal:
            assert chunk.start >= chunks[ordinal - 1].start
        covered = chunk.end
    assert not text[covered:].strip()


@settings(max_examples=300, deadline=None)
@given(MARKDOWN, LIMITS)
def test_chunks_in_characters_cover_the_text_with_exact_offsets_and_keep_their_bounds(
    text: str, limits: tuple[int, int]
) -> None:
    size, overlap = limits

    chunks = split(text, size=size, overlap=overlap)

    assert_chunks_hold(text, chunks)
    for chunk in chunks:
        assert chunk.end - chunk.fresh <= size
        assert chunk.fresh - chunk.start <= overlap


@settings(max_examples=150, deadline=None)
@given(MARKDOWN, LIMITS)
def test_chunks_in_tokens_cover_the_text_with_exact_offsets_and_keep_their_bounds(
    text: str, limits: tuple[int, int]
) -> None:
    size, overlap = limits

    chunks = split(text, size=size, overlap=overlap, unit="tokens", count=words)

    assert_chunks_hold(text, chunks)
    for chunk in chunks:
        own = text[chunk.fresh : chunk.end]
        assert words(own) <= size or max(words(character) for character in own) > size
        assert chunk.tokens == words(chunk.text)
        assert chunk.tokens <= size + overlap or chunk.start == chunk.fresh


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(["One sentence here. ", "二十个字的一句话在这里。", "Why? "]), min_size=40))
def test_windows_leave_no_trace_in_the_cuts(pieces: list[str]) -> None:
    # Given a paragraph of several windows
    from semantic_text_splitter import MarkdownSplitter

    text = "".join(pieces)

    # When it is split without overlap
    chunks = split(text, size=60, overlap=0)

    # Then the cuts are those of the splitter that sees all of it
    assert [chunk.text for chunk in chunks] == [
        piece for piece in MarkdownSplitter(60).chunks(text) if piece.strip()
    ]


def numbered(number: int) -> str:
    return f"The sentence of number {number * 7919 % 100_003:06d} stands in a line as long as all others."


@pytest.mark.parametrize(
    ("mark", "end"),
    [("", "\n\n"), ("- ", "\n"), ("| ", " |\n"), ("", "\n")],
    ids=["paragraphs", "list", "table", "lines"],
)
def test_an_edit_in_a_long_text_changes_only_the_chunks_around_it(mark: str, end: str) -> None:
    # Given a text of some 300 chunks whose parts are all of one length, under no heading
    parts = [f"{mark}{numbered(number)}{end}" for number in range(3_500)]
    before = {chunk.text for chunk in split("".join(parts))}

    # When a part is inserted, taken away or replaced by a longer one
    for edited in ([f"{mark}It is new.{end}", parts[1_700]], [], [f"{mark}{'It is new. ' * 20}{end}"]):
        after = split("".join([*parts[:1_700], *edited, *parts[1_701:]]))

        # Then hardly any chunk is another one
        assert len({chunk.text for chunk in after} - before) <= 20


def test_chunks_of_a_long_text_begin_anew_at_headings_rather_than_elsewhere() -> None:
    sections = [
        f"## Part {part}\n\n" + "\n\n".join(numbered(30 * part + number) for number in range(30))
        for part in range(10)
    ]

    chunks = split("\n\n".join(sections), overlap=0)

    assert [chunk.text for chunk in chunks] == [
        chunk.text for section in sections for chunk in split(section, overlap=0)
    ]


@pytest.mark.parametrize("text", ["", " ", "\n\n\t\n", "\u3000\u00a0"])
def test_a_blank_text_has_no_chunks(text: str) -> None:
    assert split(text) == []


def test_a_short_text_is_one_chunk_that_names_its_heading() -> None:
    text = "# Guide\n\nHow to run it."

    chunks = split(text)

    assert chunks == [
        Chunk(
            ordinal=0,
            start=0,
            end=len(text),
            fresh=0,
            text=text,
            heading_path=("Guide",),
            characters=len(text),
            tokens=None,
        )
    ]


def test_tokens_are_counted_in_either_unit_when_there_is_a_counter() -> None:
    assert split("three short words", count=words)[0].tokens == 3


def test_a_chunk_knows_the_headings_in_force_where_its_own_content_starts() -> None:
    text = (
        "# Guide #\n\nIntroduction of the guide.\n\n## Install\n\nRun the installer now.\n\n"
        "### 安装\n\n运行安装程序，然后等待。\n\n## Use\n\nOpen the board and look.\n"
    )

    chunks = split(text, size=40, overlap=10)

    assert [chunk.heading_path for chunk in chunks] == [
        ("Guide",),
        ("Guide", "Install"),
        ("Guide", "Install", "安装"),
        ("Guide", "Use"),
    ]


def test_underlined_headings_count_too() -> None:
    text = "Guide\n=====\n\nSome text here.\n\nInstall\n-------\n\nSome more text."

    assert [chunk.heading_path for chunk in split(text, size=35, overlap=0)] == [
        ("Guide",),
        ("Guide", "Install"),
    ]


def test_front_matter_and_rules_are_not_headings() -> None:
    text = "---\ntitle: x\n---\n\nText.\n\n- item\n---\n\n---\n\nEnd."

    assert {chunk.heading_path for chunk in split(text, size=12, overlap=0)} == {()}


@pytest.mark.parametrize("fence", ["```", "~~~", "````"])
def test_a_number_sign_in_fenced_code_is_not_a_heading(fence: str) -> None:
    text = f"# Real\n\n{fence}sh\n# comment\nrun it\n{fence}\n\nThe text after the code."

    chunks = split(text, size=24, overlap=0)

    assert {chunk.heading_path for chunk in chunks} == {("Real",)}


def test_long_fenced_code_does_not_swallow_what_follows() -> None:
    # Given code of many windows, then a heading
    text = "# A\n\n```\n" + "# a comment of code\n" * 200 + "```\n\n# B\n\nThe end."

    chunks = split(text, size=50, overlap=0)

    assert chunks[-1].heading_path == ("B",)
    assert {chunk.heading_path for chunk in chunks[:-1]} == {("A",)}


def test_overlap_starts_at_a_sentence_where_one_leaves_enough() -> None:
    text = "The first sentence is here. The second one follows. The third one ends it. And a fourth."

    chunks = split(text, size=55, overlap=30)

    assert chunks[1].text.startswith("The second one follows.")
    assert chunks[1].start < chunks[1].fresh


def test_overlap_in_chinese_starts_at_a_sentence() -> None:
    text = "任务队列把文档转换成知识库。每个任务都有记录。失败的任务进入死信队列。操作员可以重放。"

    chunks = split(text, size=24, overlap=10)

    assert fresh_texts(text, chunks)[1].startswith("失败")
    assert chunks[1].text.startswith("每个任务都有记录。失败")


def test_overlap_starts_at_a_word_where_there_is_no_sentence() -> None:
    text = "alpha beta gamma delta epsilon zeta eta theta iota kappa"

    chunks = split(text, size=25, overlap=10)

    assert chunks[1].text.split()[0] in text.split()
    assert 0 < chunks[1].fresh - chunks[1].start <= 10


def test_an_unbroken_run_is_cut_without_overlap() -> None:
    assert [chunk.text for chunk in split("a" * 25, size=10, overlap=5)] == ["a" * 10, "a" * 10, "a" * 5]


def test_a_first_chunk_has_no_overlap_and_none_is_made_when_none_is_asked_for() -> None:
    text = "One sentence. " * 20

    assert all(chunk.start == chunk.fresh for chunk in split(text, size=50, overlap=0))
    assert split(text, size=50, overlap=20)[0].start == 0


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ({"size": 0, "overlap": 0}, ["chunk_size"]),
        ({"size": 100_001}, ["chunk_size"]),
        ({"overlap": -1}, ["chunk_overlap"]),
        ({"size": 100, "overlap": 100}, ["chunk_overlap"]),
        ({"unit": "pages"}, ["chunk_unit"]),
        ({"unit": "tokens"}, ["chunk_unit"]),
        ({"size": -1, "overlap": -1, "unit": ""}, ["chunk_size", "chunk_overlap", "chunk_unit"]),
    ],
)
def test_values_that_cannot_be_used_are_refused_by_name(
    options: dict[str, object], fields: list[str]
) -> None:
    with pytest.raises(InvalidField) as refused:
        split("text", **options)  # type: ignore[arg-type]

    assert [field for field, _ in refused.value.errors] == fields


@pytest.mark.parametrize(
    "unit",
    [
        "A plain sentence of words. ",
        "没有标点的文字很长很长，然后结束。",
        "| a | 1.5 |\n",
        "x\n\n",
        "- item\n  - sub\n",
    ],
)
def test_the_time_grows_in_step_with_the_text(unit: str) -> None:
    # Given half a million characters in one go
    text = unit * (500_000 // len(unit))

    began = time.process_time()
    split(text)

    assert time.process_time() - began < 4.0


def test_a_real_document_is_split_whole() -> None:
    text = Path(__file__).read_text(encoding="utf-8")

    assert_chunks_hold(text, split(text, size=300, overlap=60))
