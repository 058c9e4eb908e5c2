"""``python -m deploy.demo [--once]``: from nothing to answered questions.

Fetches real documents, starts Callboard on its embedded defaults, sends it the documents, asks questions
about them, and stays up to be tried until Ctrl-C (``--once``: stops and exits). What it keeps is below
``.demo/`` in the working directory; a second run finds its documents there unchanged.
"""

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from api.cli.ingest import show_report
from api.cli.progress import document_display
from api.cli.remote import console as new_console
from api.cli.text import counted, seconds
from api.client import Client
from api.ingest import Outcome, Report, ensure_knowledge_base, ingest
from api.selection import selected
from deploy.demo import corpus
from deploy.demo.questions import ask_all
from deploy.demo.server import Server
from deploy.demo.signals import Ended, ending_on_signals
from tasks.errors import CallboardError

FOLDER = Path(".demo")
KB = "demo"
#: Long documents that only the search benchmark needs; without them the demo is done sooner.
LEFT_OUT = {
    "alembic-naming-constraints.html",
    "attrs-why-not.md",
    "fastapi-alternatives.md",
    "mako-inheritance.html",
}


class Demo:
    """One run of the demo, step by step; it remembers how long the steps took."""

    def __init__(self, console: Console, folder: Path) -> None:
        self._console = console
        self._folder = folder
        self._took: list[tuple[str, float]] = []
        self.succeeded = False

    def run(self, *, once: bool) -> None:
        """Go through all steps; returns when the demo was told to end, with everything stopped."""
        self._folder.mkdir(parents=True, exist_ok=True)
        documents = self._fetch()
        with Server(self._folder) as server:
            try:
                client = self._start(server)
                with client:
                    report = self._ingest(client, documents)
                    answered = self._ask(client)
                self.succeeded = answered and not report.failed
                self._show_times()
                if not once:
                    self._stay_up(server)
            except CallboardError:
                server.check()  # if it died, that is the reason of whatever happened here
                raise
            self._console.print("Stopping Callboard ...", style="dim")
        self._console.print("Callboard has stopped.", style="dim")

    def _fetch(self) -> list[Path]:
        self._headline("Documents")
        began = time.monotonic()
        with self._console.status("Fetching the documents ..."):
            fetched = corpus.fetch(self._folder.absolute())
        documents = [path for path in fetched if path.name not in LEFT_OUT]
        self._say(f"{counted(len(documents), 'document')}, English and Chinese, in {self._folder}/documents/")
        self._note("documents fetched", began)
        return documents

    def _start(self, server: Server) -> Client:
        self._headline("Callboard")
        began = time.monotonic()
        with self._console.status("Starting Callboard and its database ..."):
            client = server.start()
        self._say(f"API     {server.url}/api/v1")
        self._say(f"health  {server.url}/health")
        self._say(f"log     {server.log}")
        self._note("Callboard started", began)
        return client

    def _ingest(self, client: Client, documents: Sequence[Path]) -> Report:
        self._headline("Ingest")
        began = time.monotonic()
        ensure_knowledge_base(client, KB)
        with (
            selected(documents) as selection,
            document_display(self._console, len(selection.sources)) as display,
        ):
            report = ingest(client, KB, selection.sources, watcher=display)
        show_report(self._console, report)
        if report.counts[Outcome.UNCHANGED] == len(report.documents):
            self._say("All documents are unchanged since the last run: 0 chunks had to be embedded.")
        self._note("documents ingested", began)
        return report

    def _ask(self, client: Client) -> bool:
        self._headline("Questions")
        began = time.monotonic()
        answered = ask_all(self._console, client, KB)
        self._note("questions answered", began)
        return answered

    def _show_times(self) -> None:
        self._headline("Times")
        for name, took in self._took:
            self._say(f"{seconds(took):>10}  {name}")

    def _stay_up(self, server: Server) -> None:
        self._headline("Try it")
        self._say(
            f"curl -G {server.url}/api/v1/knowledge-bases/{KB}/search "
            "--data-urlencode 'q=How do I keep HTML safe in a template?'"
        )
        self._say(f"{sys.executable} -m api.cli search {KB} '什么是跨域资源共享？' --url {server.url}")
        self._console.print("\nCallboard stays up until you press Ctrl-C.", style="bold")
        try:
            while True:
                server.check()
                time.sleep(0.5)
        except Ended:
            self._console.print()

    def _headline(self, text: str) -> None:
        self._console.print()
        self._console.print(Text(text, "bold blue"))

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _note(self, what: str, began: float) -> None:
        self._took.append((what, time.monotonic() - began))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.demo", description="Callboard's demo.")
    parser.add_argument("--once", action="store_true", help="stop and exit after the questions")
    once: bool = parser.parse_args(arguments).once
    console = new_console()
    demo = Demo(console, FOLDER)
    try:
        with ending_on_signals():
            demo.run(once=once)
    except Ended as end:
        console.print(f"\nEnded by {signal.Signals(end.number).name}.", style="dim")
        return 128 + end.number
    except CallboardError as error:
        console.print(Text.assemble(("Error: ", "bold red"), error.message), soft_wrap=True)
        return 1
    return 0 if demo.succeeded else 1


if __name__ == "__main__":
    sys.exit(main())
