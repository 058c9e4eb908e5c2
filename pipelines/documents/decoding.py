"""Bytes of text formats made into clean text, whatever their encoding.

Only what can be told for sure is believed: byte order marks, strict UTF-8, a charset that HTML declares.
After that come guesses, each strict and each with a plausibility check, so that binary garbage is refused
and does not end up as text nobody can read.
"""

import re
from collections.abc import Iterator

from pipelines.documents.errors import UnreadableDocument

_SAMPLE = 64 * 1024
_PIECE = 1 << 20
# UTF-32 first: its little-endian mark begins with that of UTF-16.
_MARKS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\x00\x00", "utf-32-le"),
    (b"\x00\x00\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)
# What pages declare and what they mean by it.
_SUPERSETS = {
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "x-gbk": "gb18030",
    "big5": "cp950",
    "shift_jis": "cp932",
    "x-sjis": "cp932",
    "euc-kr": "cp949",
    "iso-8859-1": "cp1252",
    "latin1": "cp1252",
    "us-ascii": "cp1252",
    "utf-16": "utf-8",  # a declaration that could be read as ASCII cannot be UTF-16
}
_DECLARED = re.compile(
    rb"<(?:meta|\?xml)[^>]{0,200}?(?:charset|encoding)\s*=\s*[\"']?\s*([A-Za-z0-9_\-]{2,40})", re.I
)
_NEWLINES = re.compile("[\r\v\f\x85\u2028\u2029]")
# Everything Postgres or a terminal trips over; tab and newline stay. U+FEFF is a mark, never text.
_UNWANTED = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufeff\ufffe\uffff]")
_BLANK_LINES = re.compile(r"\n{4,}")
_LINE_END = re.compile("\n")
_LINE_ENDS = re.compile("\n+")

# Form feeds, escapes and the like do occur in old texts.
_STRANGE = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffd]")
_MOST_STRANGE = 0.01
_FEWEST_COMMON = 0.7


def decode_text(data: bytes, *, html: bool = False) -> str:
    """Return ``data`` as clean text; with ``html`` a charset that the page declares is respected.

    Raises UnreadableDocument if the bytes are no text in an encoding that is known here.
    """
    text = _decoded(data, html=html)
    if text is None:
        raise UnreadableDocument(
            "The text is in an unknown encoding, or is no text at all. Save it as UTF-8 and send it again."
        )
    return clean_text(text)


def looks_like_text(sample: bytes) -> bool:
    """Tell whether ``sample``, the beginning of a file, is text; a character cut at its end is forgiven."""
    return any(_decoded(sample[: len(sample) - cut]) is not None for cut in range(4))


def clean_text(text: str) -> str:
    """Return ``text`` with ``\\n`` for every newline, without control characters and byte order marks."""
    # In pieces: what a pattern finds in a large text takes many times the text's memory.
    pieces = _pieces(text.replace("\r\n", "\n"))
    return "".join(_UNWANTED.sub("", _NEWLINES.sub("\n", piece)) for piece in pieces)


def tidy_markdown(text: str) -> str:
    """Return clean ``text`` without trailing spaces and with at most two blank lines in a row."""
    lines = "".join(map(_without_trailing_spaces, _pieces(clean_text(text), _LINE_END)))
    tidied = "".join(_BLANK_LINES.sub("\n\n\n", piece) for piece in _pieces(lines, _LINE_ENDS)).strip("\n")
    return tidied + "\n" if tidied else ""


def strange_share(text: str) -> float:
    """Return which part of ``text`` (0–1) is control characters, replacement characters or surrogates."""
    return sum(1 for _ in _STRANGE.finditer(text)) / len(text) if text else 0.0


def is_blank(text: str) -> bool:
    """Tell whether ``text`` holds no letter and no digit of any script."""
    return not any(map(str.isalnum, text))


def _pieces(text: str, after: re.Pattern[str] | None = None) -> Iterator[str]:
    """Yield ``text`` in pieces of a megabyte or a little more, each cut ``after`` such a place."""
    start = 0
    while start < len(text):
        end = start + _PIECE
        if after is not None:
            place = after.search(text, end)
            end = place.end() if place else len(text)
        yield text[start:end]
        start = end


def _without_trailing_spaces(lines: str) -> str:
    return "\n".join(line.rstrip() for line in lines.split("\n"))


def _decoded(data: bytes, *, html: bool = False) -> str | None:
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _plausible(_strictly(data[len(mark) :], encoding))
    if b"\0" in data:
        return _decoded_with_nul(data)
    if html and (declared := _declared(data)):
        return declared
    return _plausible(_strictly(data, "utf-8")) or _guessed(data) if data else ""


def _decoded_with_nul(data: bytes) -> str | None:
    """NULs mean UTF-16 without a mark, a few strays in a text of one byte a character, or no text."""
    best, best_share = None, 0.9
    for encoding in ("utf-16-le", "utf-16-be"):
        text = _plausible(_strictly(data, encoding))
        share = _everyday_share(text[:_SAMPLE]) if text else 0.0
        if text is not None and share > best_share:
            best, best_share = text, share
    if best is not None:
        return best
    few = data.count(0) <= max(1, len(data) // 500)
    return _plausible(_strictly(data.replace(b"\0", b""), "utf-8")) if few else None


def _everyday_share(text: str) -> float:
    """Return which part of ``text`` lies in the blocks that everyday writing uses.

    UTF-16 read in the wrong byte order falls between them: a space becomes U+2000, a newline U+0A00.
    """
    return sum(1 for character in text if _is_everyday(ord(character))) / len(text)


def _is_everyday(code: int) -> bool:
    return (
        0x20 <= code < 0x250  # Latin
        or code in (9, 10, 13)
        or 0x370 <= code < 0x700  # Greek, Cyrillic, Hebrew, Arabic
        or 0x900 <= code < 0x980  # Devanagari
        or 0xE00 <= code < 0xE80  # Thai
        or 0x2010 <= code < 0x2040
        or 0x20A0 <= code < 0x2200
        or 0x3000 <= code < 0x3100  # CJK punctuation, kana
        or 0x4E00 <= code < 0xA000
        or 0xAC00 <= code < 0xD7A4
        or 0xFF00 <= code < 0xFFF0
        or code >= 0x10000  # strict surrogate pairs do not come about by chance
    )


def _declared(data: bytes) -> str | None:
    """Decode by the charset that HTML declares, except where the bytes prove to be UTF-8 all the same."""
    found = _DECLARED.search(data[:4096])
    if found is None:
        return None
    name = found[1].decode("ascii").lower()
    encoding = _SUPERSETS.get(name, name)
    if not encoding.startswith("iso-2022") and (text := _strictly(data, "utf-8")) is not None:
        return _plausible(text)
    # Declared pages often hold a few bytes of something else; one strange letter is no reason to guess.
    return _plausible(_strictly(data, encoding) or _leniently(data, encoding))


def _guessed(data: bytes) -> str | None:
    if (text := _damaged_utf8(data)) is not None:
        return text
    chinese = [
        (_common_share(text[:_SAMPLE], encoding), text)
        for encoding in ("gb18030", "big5")
        if (text := _plausible(_leniently(data, encoding))) is not None
    ]
    # Ties go to the first: a lone comma is the same in both.
    share, best = max(chinese, key=lambda guess: guess[0], default=(0.0, None))
    if best is not None and share >= _FEWEST_COMMON:
        return best
    western = _plausible(_strictly(data, "cp1252") or data.decode("latin-1"))
    return western if western is not None and _reads_western(western[:_SAMPLE]) else None


def _damaged_utf8(data: bytes) -> str | None:
    """Accept UTF-8 with a few broken bytes: far more whole characters beyond ASCII than broken ones."""
    text = data.decode("utf-8", "replace")
    broken = text.count("\ufffd")
    beyond_ascii = len(text) - sum(map(str.isascii, text)) - broken
    return text if beyond_ascii > 10 * broken else None


def _common_share(text: str, encoding: str) -> float:
    """Return which part of the characters beyond ASCII is common in ``encoding``.

    Common are punctuation and the first level of characters. Text in another encoding that decodes by
    accident falls mostly on the others.
    """
    last_common = 0xD7 if encoding == "gb18030" else 0xC6
    beyond_ascii = [character for character in text if not character.isascii()]
    return sum(_is_common(character, encoding, last_common) for character in beyond_ascii) / len(beyond_ascii)


def _is_common(character: str, encoding: str, last_common: int) -> bool:
    code = character.encode(encoding, "replace")
    if len(code) != 2:
        return False
    second_is_high = code[1] >= 0xA1
    return 0xA1 <= code[0] <= last_common and (second_is_high or encoding == "big5")


def _reads_western(text: str) -> bool:
    """Tell Latin text from, say, Cyrillic read as Latin: its accents are few and stand on letters."""
    letters = [character for character in text if not character.isascii() and not character.isspace()]
    return len(letters) <= max(2, len(text) // 3) and sum(map(str.isalpha, letters)) >= len(letters) / 3


def _plausible(text: str | None) -> str | None:
    if text is None:
        return None
    sample = text[:_SAMPLE]
    return text if len(_STRANGE.findall(sample)) <= 1 + len(sample) * _MOST_STRANGE else None


def _strictly(data: bytes, encoding: str) -> str | None:
    try:
        return data.decode(encoding)
    except (UnicodeDecodeError, LookupError):
        return None


def _leniently(data: bytes, encoding: str) -> str | None:
    try:
        return data.decode(encoding, "replace")
    except LookupError:
        return None
