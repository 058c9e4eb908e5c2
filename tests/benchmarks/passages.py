"""The demo corpus as passages: fetched, converted and cut by our own code, with the pipeline's defaults."""

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.demo import corpus
from pipelines.documents import chunking, conversion, detection
from pipelines.documents.values import Source

QUESTIONS = Path(__file__).with_name("data") / "questions.csv"
Passage = tuple[str, int, int]  # the document's name and the chunk's start and end: what tells hits apart


@dataclass(frozen=True)
class CutDocument:
    """A document of the corpus, cut."""

    name: str
    media_type: detection.MediaType
    content: bytes
    chunks: Sequence[chunking.Chunk]


@dataclass(frozen=True)
class Question:
    """A question, the languages of it and of its answer, and the passages that hold the answer."""

    text: str
    subset: str
    relevant: frozenset[Passage]


def cut_corpus(folder: Path) -> list[CutDocument]:
    """Fetch the demo's documents into ``folder``, convert them and cut them."""
    try:
        return [_cut(path) for path in corpus.fetch(folder)]
    finally:
        conversion.end_idle_children()


def questions(documents: Sequence[CutDocument]) -> list[Question]:
    """The questions. Raises ValueError when the answer to one of them is in no chunk of its document."""
    by_name = {document.name: document for document in documents}
    with QUESTIONS.open(encoding="utf-8", newline="") as lines:
        return [_question(row, by_name[row["document"]]) for row in csv.DictReader(lines)]


def text_hash(text: str) -> bytes:
    """The name of a text in the cache of embeddings."""
    return hashlib.sha256(text.encode()).digest()


def _cut(path: Path) -> CutDocument:
    media_type = detection.detect(path, path.name)
    markdown = conversion.convert(path, media_type)
    source = Source()
    chunks = chunking.split(markdown, size=source.chunk_size, overlap=source.chunk_overlap)
    return CutDocument(path.name, media_type, path.read_bytes(), chunks)


def _question(row: dict[str, str], document: CutDocument) -> Question:
    snippet = _without_breaks(row["snippet"])
    relevant = frozenset(
        (document.name, chunk.start, chunk.end)
        for chunk in document.chunks
        if snippet in _without_breaks(chunk.text)
    )
    if not relevant:
        raise ValueError(f"no chunk of {document.name} holds {row['snippet']!r}: mend questions.csv")
    subset = f"{row['question_language']}→{row['document_language']}"
    return Question(row["question"], subset, relevant)


def _without_breaks(text: str) -> str:
    """``text`` with each run of white space as one space."""
    return " ".join(text.split())
