"""``callboard search``: what a knowledge base says to a question."""

import re
from collections.abc import Iterable, Sequence

import click
from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from api.cli.errors import BadInput
from api.cli.remote import Remote, client_command
from api.cli.text import clean
from api.client import Hit

_SNIPPET = 320
_CJK = "぀-ヿ㐀-䶿一-鿿豈-﫿가-힯"
_WORD = re.compile(rf"[{_CJK}]+|[^\W_{_CJK}]+")
# Words that nearly every text holds tell nothing about where the answer is.
_COMMON_WORDS = (
    "a an and are as at be by can do does for from how i in is it its my of on or that the these this to "
    "was what when where which who why will with you"
)


@click.command
@click.argument("kb")
@click.argument("query", nargs=-1, required=True)
@click.option("--limit", type=click.IntRange(1, 100), default=5, show_default=True, help="Hits at most.")
@click.option(
    "--mode",
    type=click.Choice(["hybrid", "text", "vector"]),
    default="hybrid",
    show_default=True,
    help="By words, by meaning, or by both.",
)
@click.option("--explain", is_flag=True, help="Tell how each hit earned its score.")
@click.option("--document", "documents", multiple=True, metavar="ID", help="Only in this document.")
@click.option("--where", multiple=True, metavar="KEY=VALUE", help="Only where the metadata says so.")
@click.option("--weight", type=click.FloatRange(0, 1), help="The share of meaning in the score; 0.5.")
@client_command
def search(
    remote: Remote,
    kb: str,
    query: tuple[str, ...],
    limit: int,
    mode: str,
    explain: bool,
    documents: tuple[str, ...],
    where: tuple[str, ...],
    weight: float | None,
) -> None:
    """Ask a knowledge base; the words of QUERY are one question."""
    question = " ".join(query)
    hits = remote.client.search(
        kb,
        question,
        limit=limit,
        mode=mode,
        explain=explain,
        documents=documents,
        where=_wanted(where),
        weight=weight,
        highlight=True,
    )
    if remote.as_json:
        remote.show_json({"hits": hits})
    elif hits:
        show_hits(remote.out, question, hits)
    else:
        remote.say(f"Nothing was found in {kb}: ask in other words, or ingest more documents.")


def _wanted(where: Iterable[str]) -> dict[str, list[str]]:
    wanted: dict[str, list[str]] = {}
    for one in where:
        key, equals, value = one.partition("=")
        if not key or not equals:
            raise BadInput(f"--where {one!r} is no KEY=VALUE: write --where author=Ann")
        wanted.setdefault(key, []).append(value)
    return wanted


def show_hits(console: Console, question: str, hits: Sequence[Hit]) -> None:
    """Show the hits, the best first, each with its place and a piece of its text."""
    words = query_words(question)
    for number, hit in enumerate(hits, start=1):
        place = Text.assemble((f"{number}. ", "bold"), (clean(hit.name), "bold green"))
        for heading in hit.heading_path:
            place.append(" › ", "dim").append(clean(heading), "cyan")
        place.append(f"  {hit.score:.3f}", "yellow")
        console.print(place)
        # What the server matched, stems and all; without highlights what the question says.
        marks = list(dict.fromkeys(hit.text[start:end].lower() for start, end in hit.highlights)) or words
        console.print(Padding(highlighted(snippet(hit.text, marks), marks), (0, 3), expand=False))
        if hit.explanation:
            console.print(Padding(Text(_explained(hit.explanation), "dim"), (0, 3), expand=False))


def query_words(question: str) -> list[str]:
    """Return what to look for in a text: words, and pairs of characters where no spaces part words."""
    words: dict[str, None] = {}
    for word in _WORD.findall(question.lower()):
        if re.match(f"[{_CJK}]", word):
            words |= dict.fromkeys(word[at : at + 2] for at in range(max(1, len(word) - 1)))
        elif word not in _COMMON_WORDS.split() and len(word) > 1:
            words[word] = None
    return list(words)


def snippet(text: str, words: Iterable[str], cells: int = _SNIPPET) -> str:
    """Return the piece of the text that holds the most of the words: one line of that many cells."""
    line = " ".join(clean(text).split())
    width = cells * len(line) // max(1, cell_len(line))  # Chinese characters take two cells each
    if len(line) <= width:
        return line
    found = [(match.start(), match.group().lower()) for match in _any_of(words).finditer(line)]
    starts = [0, *(max(0, at - width // 4) for at, _ in found)]
    start = max(starts, key=lambda begin: len({word for at, word in found if begin <= at < begin + width}))
    start = min(start, len(line) - width)
    if start:  # not in the middle of a word, where there are any
        start = next((at + 1 for at in range(start - 1, max(start - 20, 0), -1) if line[at] == " "), start)
    end = start + width
    return ("…" if start else "") + line[start:end] + ("…" if end < len(line) else "")


def highlighted(text: str, words: Iterable[str]) -> Text:
    """Return the text with the words marked."""
    marked = Text(text)
    for match in _any_of(words).finditer(text):
        marked.stylize("bold magenta", match.start(), match.end())
    return marked


def _any_of(words: Iterable[str]) -> re.Pattern[str]:
    # Other words are looked for where a word begins, so that "cat" is not found in "education".
    forms = [
        re.escape(word) if re.match(f"[{_CJK}]", word) else rf"(?<![^\W{_CJK}]){re.escape(word)}"
        for word in sorted(words, key=len, reverse=True)
    ]
    return re.compile("|".join(forms) or r"(?!)", re.IGNORECASE)


def _explained(explanation: dict[str, object]) -> str:
    parts = []
    for name, value in explanation.items():
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        parts.append(f"{name.replace('_', ' ')}: {'none' if value is None else shown}")
    return ", ".join(parts)
