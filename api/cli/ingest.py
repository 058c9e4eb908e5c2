"""``callboard ingest``: documents into a knowledge base."""

from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from api.cli.errors import BadInput
from api.cli.knowledge import EMBEDDERS
from api.cli.progress import document_display
from api.cli.remote import Remote, client_command
from api.cli.text import clean, counted, seconds
from api.ingest import Outcome, Report, ensure_knowledge_base
from api.ingest import ingest as send
from api.selection import Selection, is_url, selected

_FAILURES_AT_MOST = 20


class PathOrUrl(click.Path):
    """A path that is there, as a `Path`, or a URL as it is."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path or the URL; fails for a path that is not there."""
        return value if isinstance(value, str) and is_url(value) else super().convert(value, param, ctx)


@click.command
@click.argument("paths", nargs=-1, required=True, type=PathOrUrl(exists=True, path_type=Path))
@click.option("--kb", required=True, metavar="NAME", help="The knowledge base.")
@click.option("--chunk-size", type=click.IntRange(1), help="Units in a chunk; 1000 by default.")
@click.option("--chunk-overlap", type=click.IntRange(0), help="Units that two chunks share; 200.")
@click.option("--chunk-unit", type=click.Choice(["characters", "tokens"]), help="Characters by default.")
@click.option("--embedder", type=click.Choice(EMBEDDERS), help="Of the knowledge base, if it is created.")
@click.option("--create/--no-create", default=True, help="Create the knowledge base if there is none.")
@click.option("--wait/--no-wait", default=True, help="Wait until every document can be found.")
@client_command
def ingest(
    remote: Remote,
    paths: tuple[Path | str, ...],
    kb: str,
    chunk_size: int | None,
    chunk_overlap: int | None,
    chunk_unit: str | None,
    embedder: str | None,
    create: bool,
    wait: bool,
) -> None:
    """Send documents to a knowledge base: files, all that is below folders and in archives, and URLs.

    Archives are .zip, .tar and .tar.gz. URLs (http and https) are fetched by the server. The same document
    sent again is the same document: what did not change is not embedded again. Ends with 1 if a document
    failed.
    """
    given = {"chunk_size": chunk_size, "chunk_overlap": chunk_overlap, "chunk_unit": chunk_unit}
    options = {name: value for name, value in given.items() if value is not None}
    with selected(paths) as selection:
        if not selection.sources:
            raise BadInput(f"there is no document to send ({_left_out(selection)}): name a file or a folder")
        if create and ensure_knowledge_base(remote.client, kb, embedder):
            remote.say(f"Created the knowledge base {kb}.")
        with document_display(remote.err, len(selection.sources), only_live=remote.as_json) as display:
            report = send(remote.client, kb, selection.sources, watcher=display, options=options, wait=wait)
    if remote.as_json:
        remote.show_json(_for_programs(report, selection))
    else:
        show_report(remote.out, report, selection)
    if report.failed:
        click.get_current_context().exit(1)


def show_report(console: Console, report: Report, selection: Selection | None = None) -> None:
    """Tell what became of all documents, and why those that failed did."""
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right")
    for outcome, number in report.counts.items():
        if number or outcome in (Outcome.NEW, Outcome.UNCHANGED, Outcome.FAILED):
            table.add_row(str(number), Text(outcome.value, "red" if number and outcome == "failed" else ""))
    console.print()
    console.print(table)
    if selection is not None and selection.hidden + selection.unsupported + selection.unsafe:
        console.print(f"Left out: {_left_out(selection)}.", highlight=False)
    for document in report.failed[:_FAILURES_AT_MOST]:
        error = document.error
        reason = f"{error.code}: {clean(error.message)}" if error else ""
        console.print(Text.assemble(("failed ", "red"), clean(document.name), "  ", reason), soft_wrap=True)
    if len(report.failed) > _FAILURES_AT_MOST:
        console.print(f"… and {len(report.failed) - _FAILURES_AT_MOST} more; --json lists all.")
    console.print(
        f"{counted(len(report.documents), 'document')} in {seconds(report.seconds)}: "
        f"{counted(report.embedded, 'chunk')} embedded, {report.reused:,} reused.",
        highlight=False,
    )


def _left_out(selection: Selection) -> str:
    said = f"{selection.hidden} hidden, {selection.unsupported} of unsupported types"
    return f"{said}, {selection.unsafe} links or the like" if selection.unsafe else said


def _for_programs(report: Report, selection: Selection) -> dict[str, object]:
    return {
        "kb_id": report.kb_id,
        "total": len(report.documents),
        **{outcome.value: number for outcome, number in report.counts.items()},
        "embedded": report.embedded,
        "reused": report.reused,
        "skipped": {
            "hidden": selection.hidden,
            "unsupported": selection.unsupported,
            "unsafe": selection.unsafe,
        },
        "seconds": report.seconds,
        "documents": report.documents,
    }
