"""The operations on what operators watch."""

import msgspec

from api.operations.model import Operation, listing
from api.schemas.common import Paged
from tasks.figures import ProcessStats, QueueTotals
from tasks.records import QueueStats

QueueStatsPage = msgspec.defstruct(
    "QueueStatsPage", [("totals", QueueTotals)], bases=(listing("queues", QueueStats),)
)

OPERATIONS = (
    Operation("GET /metrics", "metrics", {200: "text/plain"}, refuses=(403, 503)),
    Operation(
        "GET /stats/workers",
        "list_workers",
        {200: listing("workers", ProcessStats)},
        query=Paged,
        refuses=(403,),
    ),
    Operation("GET /stats/queues", "list_queue_stats", {200: QueueStatsPage}, query=Paged, refuses=(403,)),
)
