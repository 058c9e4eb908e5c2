"""Housekeeping: what documents left behind goes, and nothing goes that anybody may need."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest

from actors.submission import Order
from pipelines.bootstrap import Kit, open_kit
from pipelines.documents.housekeeping import SENT, Housekeeping
from tasks.ids import new_id
from tasks.settings import Settings
from tests.support.databases import fresh_database

LATER = SENT + timedelta(minutes=1)


@pytest.fixture(scope="module")
def kit(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kit]:
    with fresh_database(postgres_url) as url:
        data = tmp_path_factory.mktemp("data")
        kit = open_kit(Settings(database_url=url, data_dir=data))
        kit.library.create_knowledge_base(owner="", kb_id="kept", name="Kept", embedder="fast")
        yield kit
        kit.close()


def kept(kit: Kit, tmp_path: Path, text: str) -> str:
    """The blob of a source with this text."""
    (tmp_path / "source").write_text(text)
    return kit.workshop.sources.keep(tmp_path / "source").key


def submitted(kit: Kit, blob: str) -> UUID:
    order = Order(task_type="document_processing", kb_id="kept", payload={"blob": blob, "name": blob[-8:]})
    kit.submission.record([kit.submission.prepare(order)]).result(10)
    return order.id


def sweep(kit: Kit) -> int:
    housekeeping: Housekeeping = kit.housekeeping
    return housekeeping.sweep(datetime.now(UTC) + LATER)


def test_a_source_goes_when_no_document_and_no_run_needs_it(kit: Kit, tmp_path: Path) -> None:
    # Given a source that nobody has, one of a run that waits, one of a run that was cancelled
    nobodys, waiting, cancelled = (kept(kit, tmp_path, text) for text in ("a", "b", "c"))
    submitted(kit, waiting)
    kit.ledger.cancel(submitted(kit, cancelled)).result(10)
    # and one of a document
    documents = kit.workshop.store.documents
    kb = kit.workshop.store.knowledge_bases.get("kept", "")
    mine = kept(kit, tmp_path, "d")
    document = documents.register(kb, "mine.txt").id
    with kit.database.connection_context():
        kit.database.execute_sql(
            "UPDATE documents SET sha256 = %s WHERE id = %s", (mine.removeprefix("sources/"), document)
        )

    # When all of them are old
    sweep(kit)

    # Then those are left that somebody may need
    blobs = kit.workshop.blobs
    assert {one for one in (nobodys, waiting, cancelled, mine) if blobs.exists(one)} == {waiting, mine}

    # And the document's goes with it
    kit.library.delete_document("kept", document, owner="")
    sweep(kit)
    assert not blobs.exists(mine)


def test_what_was_sent_lately_stays(kit: Kit, tmp_path: Path) -> None:
    source = kept(kit, tmp_path, "just now")

    kit.housekeeping.sweep(datetime.now(UTC))

    assert kit.workshop.blobs.exists(source)


def test_texts_and_chunks_go_with_the_document_and_the_run_that_they_are_of(kit: Kit, tmp_path: Path) -> None:
    # Given what a run has left of a document that is gone, and of one that is there
    blobs = kit.workshop.blobs
    kb = kit.workshop.store.knowledge_bases.get("kept", "")
    there, gone = kit.workshop.store.documents.register(kb, "there.txt").id, new_id()
    waiting = submitted(kit, kept(kit, tmp_path, "waiting"))
    over = submitted(kit, kept(kit, tmp_path, "over"))
    kit.ledger.cancel(over).result(10)
    folders = [f"texts/{there}", f"texts/{gone}", f"runs/{waiting}", f"runs/{over}", f"runs/{new_id()}"]
    for folder in folders:
        blobs.put(f"{folder}/something", b"text")

    sweep(kit)

    assert [one for one in folders if blobs.exists(one)] == [f"texts/{there}", f"runs/{waiting}"]
