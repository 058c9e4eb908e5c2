"""One way of ingesting a folder, in a process of its own: ``… WAY FOLDER DATABASE_URL``.

The ways are ``plain`` (a loop: convert, cut, embed, COPY), ``haystack`` and ``llamaindex`` (their own
pipelines, splitters and Postgres stores); all with the same converter and the same embedder. The last line
that it prints is JSON: chunks, seconds and processor seconds, from when everything is loaded.
"""

import asyncio
import json
import mimetypes
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import xberg

from pipelines.documents import embedders
from pipelines.documents.chunking import split

BATCH = 64
CHARACTERS, OVERLAP = 1000, 200
WORDS, WORDS_OVERLAP = 160, 32  # about as many characters
TOKENS, TOKENS_OVERLAP = 250, 50
_CONFIG = xberg.ExtractionConfig(output_format="markdown", use_cache=False, disable_ocr=True)
_EXTRA = {".md": "text/markdown", ".csv": "text/csv"}


def converted(folder: Path) -> Iterator[tuple[str, str]]:
    """The names and the Markdown of the folder's files."""
    loop = asyncio.new_event_loop()

    async def extract(source: Any) -> Any:
        return await xberg.extract(source, _CONFIG)

    for path in sorted(folder.iterdir()):
        kind = _EXTRA.get(path.suffix) or mimetypes.guess_type(path.name)[0]
        source = xberg.ExtractInput(kind="bytes", bytes=path.read_bytes(), mime_type=kind)
        found = loop.run_until_complete(extract(source))
        yield path.name, "\n\n".join(one.content for one in found.results)


def _vectors(model: Any, texts: list[str]) -> list[Any]:
    starts = range(0, len(texts), BATCH)
    return [row for start in starts for row in model.passages(texts[start : start + BATCH])]


def plain(folder: Path, url: str) -> Callable[[], int]:
    """A loop without any framework."""
    import psycopg

    model = embedders.load("e5")
    connection = psycopg.connect(url)
    connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    connection.execute(f"CREATE TABLE plain (name text, text text, embedding vector({model.dim}))")

    def ingest() -> int:
        chunks = 0
        for name, text in converted(folder):
            texts = [one.text for one in split(text, size=CHARACTERS, overlap=OVERLAP)]
            chunks += len(texts)
            vectors = _vectors(model, texts)
            with connection.cursor().copy("COPY plain FROM STDIN") as copy:
                for one, vector in zip(texts, vectors, strict=True):
                    copy.write_row((name, one, str(vector.tolist())))
            connection.commit()
        return chunks

    return ingest


def haystack(folder: Path, url: str) -> Callable[[], int]:
    """Haystack's pipeline: its splitter, writer and pgvector-haystack, with our embedder as a component."""
    from haystack import Document, Pipeline, component
    from haystack.components.preprocessors import DocumentSplitter
    from haystack.components.writers import DocumentWriter
    from haystack.utils import Secret
    from haystack_integrations.document_stores.pgvector import PgvectorDocumentStore

    model = embedders.load("e5")

    @component
    class Embed:
        @component.output_types(documents=list[Document])
        def run(self, documents: list[Document]) -> dict[str, list[Document]]:
            vectors = _vectors(model, [one.content or "" for one in documents])
            for one, vector in zip(documents, vectors, strict=True):
                one.embedding = vector.tolist()
            return {"documents": documents}

    store = PgvectorDocumentStore(
        connection_string=Secret.from_token(url), table_name="haystack", embedding_dimension=model.dim
    )
    pipeline = Pipeline()
    pipeline.add_component(
        "split", DocumentSplitter(split_by="word", split_length=WORDS, split_overlap=WORDS_OVERLAP)
    )
    pipeline.add_component("embed", Embed())
    pipeline.add_component("write", DocumentWriter(store))
    pipeline.connect("split", "embed")
    pipeline.connect("embed", "write")
    store.count_documents()  # makes the table
    pipeline.warm_up()

    def ingest() -> int:
        documents = [Document(content=text, meta={"name": name}) for name, text in converted(folder)]
        return int(pipeline.run({"split": {"documents": documents}})["write"]["documents_written"])

    return ingest


def llamaindex(folder: Path, url: str) -> Callable[[], int]:
    """LlamaIndex' ingestion pipeline: its splitter and its Postgres store, with our embedder as its model."""
    from llama_index.core import Document
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.ingestion import IngestionPipeline
    from llama_index.core.node_parser import SentenceSplitter
    from llama_index.vector_stores.postgres import PGVectorStore

    model = embedders.load("e5")

    class Embed(BaseEmbedding):
        def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
            return [row.tolist() for row in model.passages(texts)]

        def _get_text_embedding(self, text: str) -> list[float]:
            return self._get_text_embeddings([text])[0]

        def _get_query_embedding(self, query: str) -> list[float]:
            return list(map(float, model.query(query)))

        async def _aget_query_embedding(self, query: str) -> list[float]:
            return self._get_query_embedding(query)

    parts = urlsplit(url)
    store = PGVectorStore.from_params(
        host=parts.hostname,
        port=str(parts.port),
        user=parts.username,
        password=parts.password,
        database=parts.path[1:],
        table_name="llamaindex",
        embed_dim=model.dim,
    )
    splitter = SentenceSplitter(chunk_size=TOKENS, chunk_overlap=TOKENS_OVERLAP)
    pipeline = IngestionPipeline(
        transformations=[splitter, Embed(embed_batch_size=BATCH)], vector_store=store
    )

    def ingest() -> int:
        documents = [Document(text=text, metadata={"name": name}) for name, text in converted(folder)]
        return len(pipeline.run(documents=documents))

    return ingest


def main(words: Sequence[str]) -> None:
    """Ingest the folder in the way that ``words`` name, and print the figures."""
    way, folder, url = words
    ingest = {"plain": plain, "haystack": haystack, "llamaindex": llamaindex}[way](Path(folder), url)
    embedders.load("e5").passages(["warm"])
    began, used = time.perf_counter(), _processor_seconds()
    chunks = ingest()
    figures = {"seconds": time.perf_counter() - began, "processor_seconds": _processor_seconds() - used}
    print(json.dumps(figures | {"chunks": chunks}))


def _processor_seconds() -> float:
    own = resource.getrusage(resource.RUSAGE_SELF)
    return own.ru_utime + own.ru_stime


if __name__ == "__main__":
    main(sys.argv[1:])
