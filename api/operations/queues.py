"""The operations on queues."""

from typing import Any

from api.operations.model import Operation, listing
from api.schemas.common import Paged
from api.schemas.queues import QueueChange, QueueRequest
from tasks.records import Queue, QueueStats

OPERATIONS = (
    Operation("GET /queues", "list_queues", {200: listing("queues", Queue)}, query=Paged),
    Operation(
        "POST /queues",
        "define_queue",
        {200: Queue, 201: Queue},
        body=QueueRequest,
        refuses=(403,),
        has_location=True,
    ),
    Operation("GET /queues/{name}", "get_queue", {200: Queue}),
    Operation("PATCH /queues/{name}", "change_queue", {200: Queue}, body=QueueChange, refuses=(403,)),
    Operation("DELETE /queues/{name}", "delete_queue", {204: None}, refuses=(403, 409)),
    Operation("POST /queues/{name}/pause", "pause_queue", {200: Queue}, refuses=(403,)),
    Operation("POST /queues/{name}/resume", "resume_queue", {200: Queue}, refuses=(403,)),
    Operation("GET /queues/{name}/stats", "get_queue_stats", {200: QueueStats}),
)

EXAMPLES: dict[Any, dict[str, Any]] = {
    QueueRequest: {"name": "processing", "concurrency": 10},
    QueueChange: {"concurrency": 20, "rate_limit": {"limit": 100, "per_seconds": 60}, "max_size": None},
}
