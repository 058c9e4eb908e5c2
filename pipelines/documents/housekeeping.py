"""Housekeeping: what nobody needs any more of documents goes, in whatever way they went themselves."""

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from pipelines.documents.blobs import Blobs
from pipelines.documents.sources import FRESH
from pipelines.documents.store.facade import DocumentStore
from tasks.ids import parse_id
from tasks.queries import Queries

log = logging.getLogger("callboard.documents")

PERIOD_SECONDS = 3_600.0
#: What was sent so long ago is on record as a task, or was never submitted.
SENT = 2 * FRESH
#: Embeddings of texts that are in no document: a run that is under way may count on them.
UNUSED = timedelta(days=1)
SOURCE = "sources/[0-9a-f]{64}"


class Housekeeping:
    """Looks after the blobs and vectors of one installation. Any number may do so at once."""

    def __init__(self, store: DocumentStore, blobs: Blobs, queries: Queries, pipeline: str) -> None:
        self._store = store
        self._blobs = blobs
        self._queries = queries
        self._pipeline = pipeline

    def run(self, stop: threading.Event) -> None:
        """Sweep every hour until ``stop``."""
        while not stop.wait(PERIOD_SECONDS):
            try:
                self.sweep(datetime.now(UTC))
            except Exception as error:
                log.warning("what documents left behind is removed another time: %s", error)

    def sweep(self, now: datetime) -> int:
        """Remove what is not needed at this time; how many blobs and folders of them."""
        removed = self._sweep("sources", self._is_source_unused(now))
        removed += self._sweep("texts", self._is_text_unused)
        removed += self._sweep("runs", self._is_run_over)
        self._store.vectors.forget_unused(now - UNUSED)
        return removed

    def _sweep(self, folder: str, is_unused: Callable[[str], bool]) -> int:
        unused = [name for name in self._blobs.names(folder) if is_unused(name)]
        for name in unused:
            self._blobs.delete(f"{folder}/{name}")
        return len(unused)

    def _is_source_unused(self, now: datetime) -> Callable[[str], bool]:
        """Sources stay as long as a document has their bytes, or a run may read them (again)."""
        # Read first: what is sent from now on is too fresh to be removed.
        wanted = set(self._queries.found_in_open_runs(self._pipeline, SOURCE))
        wanted |= {f"sources/{sha256}" for sha256 in self._store.documents.hashes()}

        def is_unused(sha256: str) -> bool:
            key = f"sources/{sha256}"
            modified = None if key in wanted else self._blobs.modified(key)
            return modified is not None and modified < now - SENT

        return is_unused

    def _is_text_unused(self, document: str) -> bool:
        known = parse_id(document)
        return known is not None and not self._store.documents.exists(known)

    def _is_run_over(self, run: str) -> bool:
        """What a failed run has made is needed when it is recovered."""
        known = parse_id(run)
        task = None if known is None else self._queries.task(known)
        return known is not None and (task is None or task.status in ("completed", "cancelled"))
