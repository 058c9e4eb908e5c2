"""Cuts Markdown into chunks that are embedded and found: on headings, blocks and sentences.

The cuts are those of semantic-text-splitter (MIT). Its time grows with the square of the text, so it is
shown one bounded window at a time. The overlap is made here, because its own is often none.

In a long text chunks begin anew every few chunks, at lines that are chosen by what they say: an edit in the
middle changes the chunks up to the next of them, and all that follow have their vectors already.
"""

import re
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, get_args
from zlib import crc32

import msgspec
from semantic_text_splitter import MarkdownSplitter, TextSplitter

from pipelines.documents.values import ChunkUnit
from tasks.errors import InvalidField

Count = Callable[[str], int]

LARGEST_SIZE = 100_000
_WINDOW_CHUNKS = 4
_SMALLEST_WINDOW = 200
_CHARACTERS_PER_TOKEN = 4
_LONGEST_TOKEN = 8  # characters; how far an overlap in tokens looks back for each of its tokens

_CJK = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
_SENTENCE_START = re.compile(r"(?:[.!?…][\"'”’)\]]*\s+|[。！？；][”’」』）]*\s*|\n\s*)(?=\S)")
_WORD_START = re.compile(r"(?:\s+|[，、：])(?=\S)")
_CJK_CHARACTER = re.compile(f"[{_CJK}]")
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n|\Z)")
_BLANK_LINES = re.compile(r"\s*[\r\n]|\s+\Z")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)")
_HEADING = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*))?$")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_NOT_A_PARAGRAPH = re.compile(r"\s*(?:$|[-*+>|#<]|\d+[.)]|`{3}|~{3})| {4}|\t")
_PERMALINK = re.compile(r"\s*\[(?:#|¶|)\]\([^)]*\)")
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_TAG = re.compile(r"</?[A-Za-z][^<>]{0,300}>")
_CLOSING_MARKS = re.compile(r"(?:^|[ \t]+)#+[ \t]*$")


class Chunk(msgspec.Struct, frozen=True):
    """A piece of a document: `source[start:end] == text`, offsets in characters.

    `fresh` is where its own content starts; what lies before, from `start` on, is overlap with the chunks
    before. `heading_path` holds the titles of the headings in force at `fresh`, the outermost first.
    `tokens` is None if nothing was given to count them.
    """

    ordinal: int
    start: int
    end: int
    fresh: int
    text: str
    heading_path: tuple[str, ...]
    characters: int
    tokens: int | None


def split(
    text: str, *, size: int = 1000, overlap: int = 200, unit: str = "characters", count: Count | None = None
) -> list[Chunk]:
    """Cut Markdown into chunks of at most `size` units, each led by up to `overlap` units of overlap.

    `unit` is "characters" or "tokens"; tokens are counted by `count`. Together the chunks hold all of the
    text but white space, and none is blank. Where a single character counts more than `size` tokens, so
    may a chunk. The text holds no lone surrogates. Raises `InvalidField` naming `chunk_size`,
    `chunk_overlap` or `chunk_unit`.
    """
    check(size=size, overlap=overlap, unit=unit)
    if unit == "tokens" and count is None:
        raise InvalidField.of("chunk_unit", "this embedder cannot count tokens: use characters")
    ruler = _Ruler(size, overlap, count if unit == "tokens" else None)
    outline = _read_outline(text)
    chunks: list[Chunk] = []
    floor = 0
    for fresh, end in _spans(text, ruler, outline):
        start = _overlap_start(text, floor, fresh, end, ruler)
        floor = fresh
        piece = text[start:end]
        chunks.append(
            Chunk(
                ordinal=len(chunks),
                start=start,
                end=end,
                fresh=fresh,
                text=piece,
                heading_path=outline.path_at(fresh),
                characters=len(piece),
                tokens=count(piece) if count else None,
            )
        )
    return chunks


def check(*, size: int, overlap: int, unit: str) -> None:
    """Raise `InvalidField` with every one of the three that cannot be used."""
    errors = []
    if not 1 <= size <= LARGEST_SIZE:
        errors.append(("chunk_size", f"must be from 1 to {LARGEST_SIZE:,}"))
    if not 0 <= overlap < max(size, 1):
        errors.append(("chunk_overlap", "must be from 0 to less than chunk_size"))
    if unit not in get_args(ChunkUnit):
        errors.append(("chunk_unit", f"must be one of {', '.join(get_args(ChunkUnit))}"))
    if errors:
        raise InvalidField(errors)


@dataclass(frozen=True, slots=True)
class _Ruler:
    """How long a chunk may be; `count` is None where characters are counted."""

    size: int
    overlap: int
    count: Count | None

    def length(self, text: str) -> int:
        return self.count(text) if self.count else len(text)

    def window(self) -> int:
        characters = self.size * (_CHARACTERS_PER_TOKEN if self.count else 1)
        return max(_WINDOW_CHUNKS * characters, _SMALLEST_WINDOW)


class _Splitter(Protocol):
    def chunk_indices(self, text: str) -> list[tuple[int, str]]: ...


def _spans(text: str, ruler: _Ruler, outline: "_Outline") -> Iterator[tuple[int, int]]:
    """The chunks before overlap, as (start, end). The last one of a window may be cut: it is done again."""
    markdown, plain = _splitter(MarkdownSplitter, ruler), _splitter(TextSplitter, ruler)
    restarts = [*outline.restarts(ruler.window()), len(text)]
    at, window = _skip_blank_lines(text, 0), ruler.window()
    while at < len(text):
        fence_end = outline.fence_end(at)
        stop = fence_end or restarts[bisect_right(restarts, at)]
        limit = min(at + window, stop)
        splitter = plain if fence_end else markdown
        found = [(at + offset, len(piece)) for offset, piece in splitter.chunk_indices(text[at:limit])]
        if limit < stop:
            if len(found) < 2:
                window *= 2
                continue
            limit = found.pop()[0]
        for start, length in found:
            if not text[start : start + length].isspace():
                yield start, start + length
        at, window = _skip_blank_lines(text, limit), ruler.window()


def _splitter(kind: type[MarkdownSplitter] | type[TextSplitter], ruler: _Ruler) -> _Splitter:
    splitter: _Splitter = kind.from_callback(ruler.count, ruler.size) if ruler.count else kind(ruler.size)
    return splitter


def _skip_blank_lines(text: str, at: int) -> int:
    """Where the first line that is not blank begins; its indentation may mean something."""
    blank = _BLANK_LINES.match(text, at)
    return blank.end() if blank else at


def _overlap_start(text: str, floor: int, fresh: int, end: int, ruler: _Ruler) -> int:
    """Where a chunk starts whose own content is `text[fresh:end]`: at most `overlap` units before it."""
    if ruler.overlap == 0 or floor == fresh:
        return fresh
    earliest = _earliest(text, floor, fresh, ruler)
    start = earliest if earliest == floor else _sensible_start(text, earliest, fresh)
    if ruler.count and ruler.length(text[start:end]) > ruler.size + ruler.overlap:
        return fresh
    return start


def _earliest(text: str, floor: int, fresh: int, ruler: _Ruler) -> int:
    if ruler.count is None:
        return max(floor, fresh - ruler.overlap)
    count = ruler.count
    candidates = range(max(floor, fresh - ruler.overlap * _LONGEST_TOKEN), fresh)
    return candidates.start + bisect_left(
        candidates, True, key=lambda start: count(text[start:fresh]) <= ruler.overlap
    )


def _sensible_start(text: str, earliest: int, fresh: int) -> int:
    """The first sentence from `earliest` on if that leaves half of the overlap, else the first word.

    In a run of CJK characters each may begin the overlap; in any other unbroken run none may.
    """
    before = max(0, earliest - 1)
    sentence = _SENTENCE_START.search(text, before, fresh)
    word = _WORD_START.search(text, before, fresh)
    middle = (earliest + fresh) // 2
    for found, latest in ((sentence, middle), (word, fresh - 1)):
        if found and earliest <= found.end() <= latest:
            return found.end()
    return earliest if _CJK_CHARACTER.match(text, earliest) else fresh


class _Outline:
    """Where headings, other lines and fenced code are."""

    def __init__(self) -> None:
        self._lines: list[tuple[int, bool, int]] = []
        self._starts: list[int] = []
        self._paths: list[tuple[str, ...]] = []
        self._fences: list[tuple[int, int]] = []
        self._open: list[tuple[int, str]] = []

    def add_heading(self, at: int, level: int, title: str) -> None:
        shown = _TAG.sub("", _LINK.sub(r"\1", _PERMALINK.sub("", title))).strip()
        self._open = [(depth, name) for depth, name in self._open if depth < level] + [(level, shown)]
        self._starts.append(at)
        self._paths.append(tuple(name for _, name in self._open if name))

    def add_line(self, at: int, line: str, *, begins_block: bool) -> None:
        self._lines.append((at, begins_block, crc32(line.encode())))

    def add_fence(self, start: int, end: int) -> None:
        self._fences.append((start, end))

    def path_at(self, at: int) -> tuple[str, ...]:
        heading = bisect_right(self._starts, at)
        return self._paths[heading - 1] if heading else ()

    def fence_end(self, at: int) -> int | None:
        """The end of the fenced code that `at` lies within, None if it lies in none or at its start."""
        fence = bisect_left(self._fences, (at, 0)) - 1
        return self._fences[fence][1] if fence >= 0 and at < self._fences[fence][1] else None

    def restarts(self, reach: int) -> list[int]:
        """Where chunks begin anew: at the first of all lines in `reach` characters on either side.

        Headings go before what follows a blank line, that before other lines, and among equals chance
        decides, by what the line says. So an edit moves only those within its reach. The text's start goes
        before all: short texts are left alone.
        """
        headings = set(self._starts)
        ranks = [(0, -1, -1)] + [
            (at, 0 if at in headings else 1 if begins_block else 2, chance)
            for at, begins_block, chance in self._lines
        ]
        best = _sliding_best(ranks, reach)
        return [rank[0] for rank, first in zip(ranks[1:], best[1:], strict=True) if rank is first]


_Rank = tuple[int, int, int]  # where a line starts, its kind, and its chance


def _sliding_best(ranks: list[_Rank], reach: int) -> list[_Rank]:
    """For each line the first by kind and chance, else by place, of those within `reach` of it."""
    best: list[_Rank] = []
    waiting = iter(ranks)
    coming = next(waiting, None)
    near: deque[_Rank] = deque()  # each one is the best of those from it on
    for at, _, _ in ranks:
        while coming and coming[0] <= at + reach:
            while near and coming[1:] < near[-1][1:]:
                near.pop()
            near.append(coming)
            coming = next(waiting, None)
        while near[0][0] < at - reach:
            near.popleft()
        best.append(near[0])
    return best


def _read_outline(text: str) -> _Outline:
    """Find ATX and underlined headings (CommonMark 4.2, 4.3) outside fenced code (4.5)."""
    outline = _Outline()
    fence, fence_start = "", 0
    before_last, last, last_start = "", "", 0
    for found in _LINE.finditer(text):
        line, start = found.group().rstrip("\r\n"), found.start()
        if fence:
            if _closes(line, fence):
                outline.add_fence(fence_start, found.end())
                fence = ""
            line = ""
        elif opened := _opens(line):
            fence, fence_start = opened, start
        elif heading := _HEADING.match(line):
            outline.add_heading(start, len(heading[1]), _CLOSING_MARKS.sub("", heading[2] or "").strip())
        elif (underline := _UNDERLINE.match(line)) and _is_lone_paragraph(before_last, last):
            outline.add_heading(last_start, 1 if underline[1][0] == "=" else 2, last.strip())
            line = ""
        if line.strip():
            outline.add_line(start, line, begins_block=not last.strip())
        before_last, last, last_start = last, line, start
    if fence:
        outline.add_fence(fence_start, len(text))
    return outline


def _opens(line: str) -> str:
    fence = _FENCE.match(line)
    if not fence or (fence[1][0] == "`" and "`" in fence[2]):
        return ""
    return fence[1]


def _closes(line: str, fence: str) -> bool:
    marks = line.strip()
    return len(marks) >= len(fence) and not marks.strip(fence[0]) and line[:4].strip(" ") != ""


def _is_lone_paragraph(before: str, line: str) -> bool:
    return not before.strip() and not _NOT_A_PARAGRAPH.match(line)
