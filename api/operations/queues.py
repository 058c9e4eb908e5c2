"""The operations on queues."""

from typing import Any

from api.operations.model import Operation, listing
from api.schemas.common import Paged
from api.schemas.queues import QueueRequest
from tasks.records import Queue, QueueStats

OPERATIONS = (
    Operation("GET /queues", "list_queues", {200: listing("queues", Queue)}, query=Paged),
    Operation("POST /queues", "define_queue", {200: Queue, 201: Queue}, body=QueueRequest, has_location=True),
    Operation("GET /queues/{name}", "get_queue", {200: Queue}),
    Operation("GET /queues/{name}/stats", "get_queue_stats", {200: QueueStats}),
)

EXAMPLES: dict[Any, dict[str, Any]] = {
    QueueRequest: {"name": "processing", "concurrency": 10},
}
