"""How well a labelled set is searched: ``python -m tests.benchmarks.retrieval SET [--modes …]``.

Every document goes through the real pipeline, into a database of its own that is gone in the end. A document
counts as high as its best chunk. The figures are left in ``.bench/eval-<name of the set>.json``.
"""

import os

# As in our workers; it has to be said before numpy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from statistics import fmean, median
from typing import Any, get_args

from actors.submission import Order
from pipelines.bootstrap import Kit
from pipelines.documents import embedders
from pipelines.documents.store.search import Mode
from tasks.errors import CallboardError
from tests.benchmarks.house import ended, house
from tests.benchmarks.labelled import BadSet, Judged, Text, corpus, judged
from tests.benchmarks.machine import machine
from tests.benchmarks.measures import ndcg, recall, reciprocal_rank
from tests.benchmarks.outcome import table

FOLDER = Path(".bench")
KB = "eval"
BATCH = 200  # documents under way at a time
BATCH_SECONDS = 3_600
THREADS = 4
CHUNKS = 300  # of each ranking: enough for 100 documents of a few chunks each
MEASURES = ("nDCG@10", "recall@10", "recall@100", "MRR@10")

Twins = dict[str, list[str]]  # by the name of a document in the store, the ids that have its very text


def evaluate(folder: Path, modes: Sequence[Mode], embedder: str) -> dict[str, Any]:
    """Ingest the set in ``folder`` and ask its questions: the figures. Raises `BadSet`."""
    questions = judged(folder)
    model = embedders.load(embedder)
    with tempfile.TemporaryDirectory() as data, house(Path(data)) as (kit, start_worker):
        kit.workshop.store.knowledge_bases.create("", KB, folder.name, model.name, model.dim)
        start_worker(THREADS)
        began = time.monotonic()
        twins = _ingest(kit, folder, Path(data))
        ingested = time.monotonic() - began
        kb = kit.workshop.store.knowledge_bases.get(KB, "")
        vectors = [model.query(one.text) for one in questions]
        by_mode = {mode: _ask(kit, questions, vectors, twins, mode) for mode in modes}
    return {
        "set": folder.name,
        "embedder": model.name,
        "documents": sum(map(len, twins.values())),
        "chunks": kb.chunks,
        "queries": len(questions),
        "ingest_seconds": round(ingested, 1),
        "modes": by_mode,
    }


def _ingest(kit: Kit, folder: Path, data: Path) -> Twins:
    """Send all documents through the pipeline, a batch at a time; those of the same text are one."""
    twins: Twins = {}
    names: dict[bytes, str] = {}
    documents = enumerate(corpus(folder))
    sent = 0
    while batch := list(islice(documents, BATCH)):
        orders = list(_orders(kit, batch, data / "document.md", twins, names))
        prepared = [kit.submission.prepare(order) for order in orders]
        if prepared:
            kit.submission.record(prepared, patience=30).result()
            _wait(kit, orders)
        sent += len(batch)
        print(f"\r{sent:,} documents ingested", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return twins


def _orders(
    kit: Kit, batch: Sequence[tuple[int, Text]], path: Path, twins: Twins, names: dict[bytes, str]
) -> Iterator[Order]:
    for number, one in batch:
        content = one.markdown().encode()
        name = names.setdefault(hashlib.sha256(content).digest(), f"{number}.md")
        twins.setdefault(name, []).append(one.id)
        if len(twins[name]) == 1 and content:
            path.write_bytes(content)
            blob = kit.workshop.sources.keep(path).key
            yield Order(task_type="document_processing", payload={"blob": blob, "name": name}, kb_id=KB)


def _wait(kit: Kit, orders: Sequence[Order]) -> None:
    for task in ended(kit, [order.id for order in orders], BATCH_SECONDS):
        if task.status != "completed":
            raise BadSet(f"a document was not ingested, its task is {task.status} ({task.error}): mend it")


def _ask(
    kit: Kit, questions: Sequence[Judged], vectors: Sequence[Any], twins: Twins, mode: Mode
) -> dict[str, float]:
    """The measures of a mode, and the median of its searches in milliseconds."""
    kb = kit.workshop.store.knowledge_bases.get(KB, "")
    values: dict[str, list[float]] = {name: [] for name in (*MEASURES, "ms")}
    for one, vector in zip(questions, vectors, strict=True):
        began = time.perf_counter()
        hits = kit.workshop.store.search(kb, one.text, vector, limit=CHUNKS, mode=mode)
        values["ms"].append(1000 * (time.perf_counter() - began))
        ranking = [name for hit in dict.fromkeys(hit.name for hit in hits) for name in twins[hit]]
        found = (
            ndcg(ranking, one.relevant),
            recall(ranking, one.relevant),
            recall(ranking, one.relevant, 100),
            reciprocal_rank(ranking, one.relevant),
        )
        for name, value in zip(MEASURES, found, strict=True):
            values[name].append(value)
    means = {name: round(fmean(values[name]), 4) for name in MEASURES}
    return means | {"ms": round(median(values["ms"]), 1)}


def report(figures: dict[str, Any]) -> str:
    """The figures as a table to read."""
    rows = [
        [mode, *(f"{one[name]:.3f}" for name in MEASURES), f"{one['ms']:.1f}"]
        for mode, one in figures["modes"].items()
    ]
    counts = (
        f"{figures['documents']:,} documents, {figures['chunks']:,} chunks, {figures['queries']:,} queries"
    )
    head = f"{figures['set']}: {counts}, {figures['embedder']}, ingested in {figures['ingest_seconds']} s."
    return f"{head}\n\n" + table(["mode", *MEASURES, "ms (median)"], rows)


def main(words: Sequence[str]) -> None:
    """Evaluate the set that ``words`` name."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.retrieval", description="Evaluate.")
    parser.add_argument("set", type=Path, help="a folder in the layout of BEIR")
    parser.add_argument("--modes", nargs="+", choices=get_args(Mode), default=["text", "vector", "hybrid"])
    parser.add_argument("--embedder", default="e5")
    asked = parser.parse_args(words)
    try:
        figures = evaluate(asked.set.resolve(), asked.modes, asked.embedder)
    except CallboardError as error:
        sys.exit(error.message)
    FOLDER.mkdir(exist_ok=True)
    target = FOLDER / f"eval-{figures['set']}.json"
    target.write_text(json.dumps(figures | {"machine": machine()}, indent=1) + "\n", encoding="utf-8")
    print(f"{report(figures)}\n\nFigures in {target}")


if __name__ == "__main__":
    main(sys.argv[1:])
