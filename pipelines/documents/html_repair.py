"""HTML made ready for the converter, where that would lose text."""

import re
from collections import Counter
from collections.abc import Iterator

#: Deeper elements lose their tags, and never their text. The converter overflows its stack from some 300 on.
DEEPEST = 150
_TAG = re.compile(r"<(?:(!--)|(/?)([a-z][a-z0-9:\-]*)([^<>]*+>)?)", re.I)
_PERMALINK = r"<a\b[^<>]{0,500}\bclass\s*=\s*[\"']headerlink[\"'][^<>]{0,500}>[^<]{0,8}</a>"
_EMPTY_LINK = r"<a\b[^<>]*+>(?:\s|<img\b[^<>]*+>)*+</a\s*+>"
_NO_TEXT = re.compile(f"{_PERMALINK}|{_EMPTY_LINK}", re.I)
_CHARSET = re.compile(r"(charset\s*=\s*[\"']?\s*)[A-Za-z0-9_\-]+", re.I)
_RAW_ENDS = {
    name: re.compile(f"</{name}(?![a-z0-9])", re.I) for name in ("script", "style", "textarea", "title")
}
_VOID = frozenset(
    [
        "area",
        "base",
        "br",
        "col",
        "embed",
        "hr",
        "img",
        "input",
        "link",
        "meta",
        "param",
        "source",
        "track",
        "wbr",
    ]
)
_CELLS = frozenset(("td", "th"))
_SECTIONS = frozenset(("thead", "tbody", "tfoot"))
_TABLE = frozenset(("table",))
_TABLE_PARTS = _TABLE | _CELLS | _SECTIONS | {"caption", "tr"}
# What an end tag does not reach across, unless it is of a part of a table.
_WALLS = _TABLE | _CELLS | {"caption"}
_BLOCKS = frozenset(
    [
        "address",
        "article",
        "aside",
        "blockquote",
        "center",
        "dd",
        "details",
        "dialog",
        "dir",
        "div",
        "dl",
        "dt",
        "fieldset",
        "figcaption",
        "figure",
        "footer",
        "form",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "header",
        "hgroup",
        "hr",
        "li",
        "main",
        "menu",
        "nav",
        "ol",
        "p",
        "pre",
        "section",
        "summary",
        "table",
        "ul",
    ]
)
#: What a start tag ends that its author left open, and across which elements it does not reach.
_ENDS = {
    **dict.fromkeys(_BLOCKS, (frozenset(("p",)), _WALLS)),
    "li": (frozenset(("p", "li")), _WALLS | {"ul", "ol", "menu", "dir"}),
    **dict.fromkeys(("dd", "dt"), (frozenset(("p", "dd", "dt")), _WALLS | {"dl"})),
    **dict.fromkeys(_CELLS, (_CELLS, _TABLE)),
    "tr": (_CELLS | {"tr"}, _TABLE),
    **dict.fromkeys(_SECTIONS, (_CELLS | _SECTIONS | {"tr"}, _TABLE)),
}
_NOTHING: tuple[frozenset[str], frozenset[str]] = (frozenset(), frozenset())


def repaired(page: str) -> Iterator[str]:
    """Yield ``page`` in pieces: every element closed, none too deep, and declared to be UTF-8, as it is here.

    HTML lets authors leave out ``</p>``, ``</td>`` and others. The converter takes what follows for a part of
    the open element; it drops what lies deeper than it looks, and what follows the last open cell. It also
    fails on a form within a paragraph, such as the search box of many documentation pages: forms become divs.
    And it fails on a paragraph of pictures alone, or of links around them; they are no text, nor are the
    permalinks that documentation pages put behind their headings.
    """
    repair = _Repair()
    copied = at = 0
    while tag := _TAG.search(page, at):
        if tag[1]:
            at = page.find("-->", tag.end())
            if at < 0:  # the comment has no end
                break
            continue
        is_end, name = bool(tag[2]), tag[3].lower()
        no_text = _NO_TEXT.match(page, tag.start()) if name == "a" else None
        yield page[copied : tag.start()]
        if not no_text:
            yield repair.end(name) if is_end else repair.start(name, tag[4] or "")
        copied = at = no_text.end() if no_text else tag.end()
        if name in _RAW_ENDS and not is_end:
            raw_end = _RAW_ENDS[name].search(page, at)
            at = raw_end.start() if raw_end else len(page)
    yield page[copied:]
    yield repair.end_all()


class _Repair:
    """The elements that are open at one place of a page; says what to write for each tag."""

    def __init__(self) -> None:
        self._open: list[str] = []
        self._counts: Counter[str] = Counter()
        self._flattened: Counter[str] = Counter()

    def start(self, name: str, rest: str) -> str:
        """What to write for a start tag; ``rest`` is what follows its name, with the bracket."""
        # Among elements without tags nobody can tell what lies in what.
        names, walls = _NOTHING if self._flattened else _ENDS.get(name, _NOTHING)
        closed = self._closed_from(self._place(names, walls, outermost=True))
        if name == "img" and rest:
            return closed
        if name == "meta":
            rest = _CHARSET.sub(r"\g<1>utf-8", rest)
        if name not in _VOID and not rest.endswith("/>"):
            if len(self._open) >= DEEPEST:
                self._flattened[name] += 1
                return closed + _flat(name)
            self._open.append(name)
            self._counts[name] += 1
        return f"{closed}<{_written(name)}{rest}"

    def end(self, name: str) -> str:
        """What to write for an end tag: nothing for one of an element that is not open."""
        if name in self._flattened:
            self._flattened[name] -= 1
            if not self._flattened[name]:
                del self._flattened[name]
            return _flat(name)
        walls = _TABLE if name in _TABLE_PARTS else _WALLS
        return self._closed_from(self._place(frozenset((name,)), walls))

    def end_all(self) -> str:
        """What to write at the end of the page."""
        return self._closed_from(0)

    def _place(self, names: frozenset[str], walls: frozenset[str], *, outermost: bool = False) -> int | None:
        """Where one of ``names`` is open, the innermost if not said otherwise."""
        found = None
        if not any(self._counts[name] for name in names):
            return found
        for place in range(len(self._open) - 1, -1, -1):
            name = self._open[place]
            if name in names:
                found = place
                if not outermost:
                    break
            if name in walls:
                break
        return found

    def _closed_from(self, place: int | None) -> str:
        if place is None:
            return ""
        closed = "".join(f"</{_written(name)}>" for name in reversed(self._open[place:]))
        self._counts.subtract(self._open[place:])
        del self._open[place:]
        self._flattened.clear()
        return closed


def _written(name: str) -> str:
    return "div" if name == "form" else name


def _flat(name: str) -> str:
    return "<br>" if name in _BLOCKS else " "
