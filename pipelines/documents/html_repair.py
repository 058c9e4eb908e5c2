"""HTML made ready for the converter, where that would lose text."""

import re
from collections.abc import Iterator

_TABLE_TAG = re.compile(r"<(/?)(table|thead|tbody|tfoot|tr|td|th)\b", re.I)
_FORM_TAG = re.compile(r"<(/?)form\b", re.I)
_PERMALINK = re.compile(r"<a\b[^<>]*\bclass\s*=\s*[\"']headerlink[\"'][^<>]*>[^<]{0,8}</a>", re.I)
_CHARSET = re.compile(r"(<meta[^<>]{0,200}?charset\s*=\s*[\"']?\s*)[A-Za-z0-9_\-]+", re.I)


def repaired(page: str) -> str:
    """Return ``page`` with every table cell closed, and declared to be UTF-8, as it is from here on.

    HTML lets authors leave out ``</td>``; the converter drops whatever follows the last open cell. It also
    fails on a form within a paragraph, such as the search box of many documentation pages: forms become divs.
    The permalinks that such pages put behind their headings are no text.
    """
    page = _FORM_TAG.sub(r"<\1div", _CHARSET.sub(r"\g<1>utf-8", page))
    page = _PERMALINK.sub("", page)
    return "".join(_with_closed_cells(page))


def _with_closed_cells(page: str) -> Iterator[str]:
    open_cells: list[str] = []  # of each table around this place, "" while it is between cells
    copied = 0
    for tag in _TABLE_TAG.finditer(page):
        is_end, name = bool(tag[1]), tag[2].lower()
        if name == "table" and not is_end:
            open_cells.append("")
        elif open_cells:
            closes_itself = is_end and name in ("td", "th")
            if open_cells[-1] and not closes_itself:
                yield page[copied : tag.start()] + f"</{open_cells[-1]}>"
                copied = tag.start()
            open_cells[-1] = name if name in ("td", "th") and not is_end else ""
            if name == "table":
                open_cells.pop()
    yield page[copied:]
