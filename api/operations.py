"""The operations: what every method of every address takes and gives, one line each.

The routes say who answers, this table says what: the OpenAPI document is made from both. Addresses below
``/api/v1`` are written without it.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
from msgspec import structs

from actors.requests import TaskRequest
from api.resources.streams import HEADER as STREAM_HEADER
from api.schemas import (
    BatchRequest,
    BulkOutcome,
    BulkRequest,
    DocumentRequest,
    KnowledgeBaseRequest,
    Paged,
    PipelineShape,
    QueueRequest,
    Reembedding,
    ReembedRequest,
    SearchRequest,
    ServerStatus,
    SnapshotQuery,
    StatisticsQuery,
    StreamQuery,
    TaskAttempts,
    TaskHistory,
    TaskListing,
    TaskLogs,
    TaskResult,
    TaskSnapshots,
    TaskStatus,
    UploadFields,
)
from pipelines.documents.values import AddedDocument, Document, Hit, KnowledgeBase
from pipelines.recovery import Recovery
from tasks.records import Graph, Queue, QueueStats, SnapshotState, Statistics, Task, TaskPage

#: What any operation below the prefix may answer: Postgres is away.
ALWAYS = (503,)
OF_PATHS = (404,)
#: Two owners may have a knowledge base of one kb_id, so that a caller who sees both must say whose is meant.
OF_BASES = (409,)
OF_QUERIES = (422,)
OF_BODIES = (400, 413, 415, 422)
#: Another request with the same Idempotency-Key had another body, and a key may be malformed.
OF_KEYS = (409, 422)


TEXT: Mapping[str, Any] = {"type": "string"}
EVENT_ID: Mapping[str, Any] = {"type": "integer", "minimum": 0}
ETAG = (("If-None-Match", "The ETag of what the caller has already: if it is still the same, 304.", TEXT),)
AFTER_EVENT = ((STREAM_HEADER, "The last event that the caller has: those after it follow.", EVENT_ID),)


class Operation(NamedTuple):
    """What one method of one address takes and gives.

    ``answers`` maps each status of success to a type, to None (no body), or to a content type (a body that
    is not JSON). ``query``, ``body`` and ``form`` are structs; ``body`` may be ``X | None``: it can be left
    out. ``once`` takes the header Idempotency-Key. ``refuses`` are statuses beside those that follow from
    the rest. ``headers`` are those it reads, with what they
    mean and their schema. ``has_location`` says that answers of
    201 and 202 have a Location.
    """

    address: str
    name: str
    answers: dict[int, Any]
    query: type[msgspec.Struct] | None = None
    body: Any = None
    form: type[msgspec.Struct] | None = None
    once: bool = False
    refuses: tuple[int, ...] = ()
    headers: tuple[tuple[str, str, Mapping[str, Any]], ...] = ()
    has_location: bool = False

    @property
    def method(self) -> str:
        """The HTTP method."""
        return self.address.partition(" ")[0]

    @property
    def path(self) -> str:
        """The path, without the prefix."""
        return self.address.partition(" ")[2]

    def refusals(self, *, below_prefix: bool) -> list[int]:
        """Every status of failure that this operation is known to answer, ascending."""
        found = set(self.refuses)
        for is_so, statuses in (
            (below_prefix, ALWAYS),
            ("{" in self.path, OF_PATHS),
            ("{kb_id}" in self.path, OF_BASES),
            (self.query is not None, OF_QUERIES),
            (self.body is not None, OF_BODIES),
            (self.once, OF_KEYS),
        ):
            if is_so:
                found.update(statuses)
        return sorted(found)


def listing(plural: str, item: Any) -> type[msgspec.Struct]:
    """The answer of a list: a page of items under their plural, and how to go on."""
    name = "".join(word.title() for word in plural.split("_")) + "Page"
    fields = [(plural, list[item]), ("total", int), ("total_is_exact", bool), ("next_cursor", str | None)]
    made = msgspec.defstruct(name, fields)
    made.__doc__ = "A part of a list, how many there are in all, and where the next part begins."
    return made


def holder(name: str, **fields: Any) -> type[msgspec.Struct]:
    """The answer that holds these fields and nothing else."""
    return msgspec.defstruct(name, list(fields.items()))


def optional(name: str, struct: type[msgspec.Struct], *, without: type[msgspec.Struct] | None = None) -> Any:
    """A struct with the fields of another, none of which has to be given; ``without`` leaves some out."""
    left_out = () if without is None else without.__struct_fields__
    fields = [(one.name, one.type | None, None) for one in structs.fields(struct) if one.name not in left_out]
    made = msgspec.defstruct(name, fields)
    made.__doc__ = struct.__doc__
    return made


#: The fields of a task of which the others are its parent's.
DerivativeRequest = optional("DerivativeRequest", TaskRequest)
#: The filters of a list of tasks, as a body has them.
TasksMeant = optional("TasksMeant", TaskListing, without=Paged)
SubmittedTasks = holder("SubmittedTasks", tasks=list[Task])
Hits = holder("Hits", hits=list[Hit])

OPERATIONS = (
    Operation("GET /health", "health", {200: ServerStatus}),
    Operation("GET /ready", "ready", {200: ServerStatus}, refuses=(503,)),
    Operation("GET /openapi.json", "openapi", {200: "application/json", 304: None}, headers=ETAG),
    Operation("GET /docs", "docs", {200: "text/html", 304: None}, headers=ETAG),
    Operation("GET /docs/{name}", "docs_file", {200: "text/*", 304: None}, headers=ETAG),
    Operation("GET /tasks", "list_tasks", {200: TaskPage}, query=TaskListing),
    Operation(
        "POST /tasks",
        "submit_task",
        {202: Task},
        body=TaskRequest,
        once=True,
        refuses=(429,),
        has_location=True,
    ),
    Operation(
        "POST /tasks/batch",
        "submit_tasks",
        {202: SubmittedTasks},
        body=BatchRequest,
        once=True,
        refuses=(429,),
    ),
    Operation("POST /tasks/cancel", "cancel_tasks", {200: BulkOutcome}, body=BulkRequest),
    Operation("POST /tasks/retry", "retry_tasks", {200: BulkOutcome}, body=BulkRequest),
    Operation("POST /tasks/delete", "delete_tasks", {200: BulkOutcome}, body=BulkRequest),
    Operation("GET /tasks/statistics", "get_task_statistics", {200: Statistics}, query=StatisticsQuery),
    Operation("GET /tasks/{task_id}", "get_task", {200: Task}),
    Operation("DELETE /tasks/{task_id}", "delete_task", {202: Task, 204: None}, refuses=(409,)),
    Operation("GET /tasks/{task_id}/status", "get_task_status", {200: TaskStatus}),
    Operation("GET /tasks/{task_id}/progress", "get_task_progress", {200: TaskStatus}),
    Operation("GET /tasks/{task_id}/result", "get_task_result", {200: TaskResult}, refuses=(409,)),
    Operation("GET /tasks/{task_id}/history", "get_task_history", {200: TaskHistory}, query=Paged),
    Operation("GET /tasks/{task_id}/attempts", "get_task_attempts", {200: TaskAttempts}, query=Paged),
    Operation("GET /tasks/{task_id}/logs", "get_task_logs", {200: TaskLogs}, query=Paged),
    Operation("GET /tasks/{task_id}/snapshots", "get_task_snapshots", {200: TaskSnapshots}, query=Paged),
    Operation(
        "GET /tasks/{task_id}/snapshot", "get_task_snapshot", {200: SnapshotState}, query=SnapshotQuery
    ),
    Operation("GET /tasks/{task_id}/graph", "get_task_graph", {200: Graph}),
    Operation(
        "GET /tasks/{task_id}/stream",
        "stream_task",
        {200: "text/event-stream", 204: None},
        query=StreamQuery,
        headers=AFTER_EVENT,
    ),
    Operation("POST /tasks/{task_id}/cancel", "cancel_task", {202: Task}, refuses=(409,)),
    Operation(
        "GET /knowledge-bases",
        "list_knowledge_bases",
        {200: listing("knowledge_bases", KnowledgeBase)},
        query=Paged,
    ),
    Operation(
        "POST /knowledge-bases",
        "create_knowledge_base",
        {201: KnowledgeBase},
        body=KnowledgeBaseRequest,
        refuses=(409,),
        has_location=True,
    ),
    Operation("GET /knowledge-bases/{kb_id}", "get_knowledge_base", {200: KnowledgeBase}),
    Operation("DELETE /knowledge-bases/{kb_id}", "delete_knowledge_base", {204: None}),
    Operation("GET /knowledge-bases/{kb_id}/search", "search", {200: Hits}, query=SearchRequest),
    Operation(
        "POST /knowledge-bases/{kb_id}/reembed",
        "reembed_knowledge_base",
        {202: Reembedding},
        body=ReembedRequest,
        refuses=(409, 429),
        has_location=True,
    ),
    Operation(
        "GET /knowledge-bases/{kb_id}/documents",
        "list_documents",
        {200: listing("documents", Document)},
        query=Paged,
    ),
    Operation(
        "POST /knowledge-bases/{kb_id}/documents",
        "add_document",
        {202: AddedDocument},
        body=DocumentRequest,
        form=UploadFields,
        has_location=True,
    ),
    Operation("GET /knowledge-bases/{kb_id}/documents/{document_id}", "get_document", {200: Document}),
    Operation("DELETE /knowledge-bases/{kb_id}/documents/{document_id}", "delete_document", {204: None}),
    Operation("POST /tasks/{task_id}/retry", "retry_task", {202: Task}, refuses=(409,)),
    Operation(
        "POST /tasks/{task_id}/recover", "recover_task", {202: Task}, body=Recovery | None, refuses=(409,)
    ),
    Operation(
        "POST /tasks/{task_id}/derivative",
        "derive_task",
        {202: Task},
        body=DerivativeRequest | None,
        once=True,
        refuses=(429,),
        has_location=True,
    ),
    Operation("GET /queues", "list_queues", {200: listing("queues", Queue)}, query=Paged),
    Operation("POST /queues", "define_queue", {200: Queue, 201: Queue}, body=QueueRequest, has_location=True),
    Operation("GET /queues/{name}", "get_queue", {200: Queue}),
    Operation("GET /queues/{name}/stats", "get_queue_stats", {200: QueueStats}),
    Operation("GET /pipelines", "list_pipelines", {200: listing("pipelines", PipelineShape)}, query=Paged),
    Operation("GET /pipelines/{name}", "get_pipeline", {200: PipelineShape}),
)

#: What is no body itself, but a field of one.
PARTS = (TasksMeant,)
#: An example of each body; what is not here has the fields of its schema for an example.
EXAMPLES: dict[Any, dict[str, Any]] = {
    TaskRequest: {"task_type": "test", "payload": {"message": "hello"}, "priority": "high", "max_retries": 3},
    BatchRequest: {"tasks": [{"task_type": "test", "payload": {"number": number}} for number in (1, 2)]},
    BulkRequest: {"filter": {"status": "failed", "task_type": "test"}, "dry_run": True},
    Recovery: {"mode": "checkpoint"},
    DerivativeRequest: {"payload": {"message": "hello again"}},
    QueueRequest: {"name": "processing", "concurrency": 10},
    KnowledgeBaseRequest: {"kb_id": "docs", "name": "Our documents"},
    DocumentRequest: {"name": "notes.md", "text": "# Notes\n\nWhoever signs on Tuesday pays on Friday."},
}
