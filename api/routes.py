"""The routes: every address of the API, in one table."""

from typing import Any, NamedTuple

from api.desk import Desk
from api.resources.bulk import Bulk
from api.resources.callbacks import TaskCallbacks, Webhooks
from api.resources.dead_letters import DeadLetters
from api.resources.documentation import Documentation
from api.resources.documents import Documents
from api.resources.health import Health
from api.resources.knowledge_bases import KnowledgeBases
from api.resources.metrics import Metrics
from api.resources.moves import Moves
from api.resources.pipelines import Pipelines
from api.resources.queues import Queues
from api.resources.record import TaskRecord, TaskStatistics
from api.resources.replays import Replays
from api.resources.schedules import ADDRESS, ScheduledTasks
from api.resources.sockets import Sockets
from api.resources.stats import Stats
from api.resources.streams import Streams
from api.resources.task import OneTask
from api.resources.tasks import PREFIX, Tasks


class Route(NamedTuple):
    """An address and what answers it: the methods ``on_<verb>`` or ``on_<verb>_<suffix>`` of a resource."""

    path: str
    resource: Any
    suffix: str | None = None


def routes(desk: Desk) -> list[Route]:
    """Every address of the API."""
    documentation = Documentation(desk)
    table = [
        *_server(desk, documentation),
        *_tasks(desk),
        *_callbacks(desk),
        *_knowledge(desk),
        *_queues(desk),
        *_schedules(desk),
        *_dead_letters(desk),
    ]
    documentation.describe(table)
    return table


def _server(desk: Desk, documentation: Documentation) -> list[Route]:
    """The server itself."""
    health = Health(desk)
    return [
        Route("/health", health),
        Route("/ready", health, "ready"),
        Route("/metrics", Metrics(desk)),
        Route("/openapi.json", documentation),
        Route("/docs", documentation, "page"),
        Route("/docs/{name}", documentation, "file"),
    ]


def _tasks(desk: Desk) -> list[Route]:
    """Tasks, their record and their streams."""
    tasks, task, record = Tasks(desk), OneTask(desk), TaskRecord(desk)
    moves, bulk = Moves(desk), Bulk(desk)
    return [
        Route(f"{PREFIX}/tasks", tasks),
        Route(f"{PREFIX}/tasks/batch", tasks, "batch"),
        Route(f"{PREFIX}/tasks/cancel", bulk, "cancel"),
        Route(f"{PREFIX}/tasks/retry", bulk, "retry"),
        Route(f"{PREFIX}/tasks/delete", bulk, "delete"),
        Route(f"{PREFIX}/tasks/statistics", TaskStatistics(desk)),
        Route(f"{PREFIX}/tasks/{{task_id}}", task),
        Route(f"{PREFIX}/tasks/{{task_id}}/status", task, "status"),
        Route(f"{PREFIX}/tasks/{{task_id}}/progress", task, "status"),
        Route(f"{PREFIX}/tasks/{{task_id}}/result", task, "result"),
        Route(f"{PREFIX}/tasks/{{task_id}}/history", record, "history"),
        Route(f"{PREFIX}/tasks/{{task_id}}/attempts", record, "attempts"),
        Route(f"{PREFIX}/tasks/{{task_id}}/logs", record, "logs"),
        Route(f"{PREFIX}/tasks/{{task_id}}/snapshots", record, "snapshots"),
        Route(f"{PREFIX}/tasks/{{task_id}}/snapshot", record, "snapshot"),
        Route(f"{PREFIX}/tasks/{{task_id}}/graph", record, "graph"),
        Route(f"{PREFIX}/tasks/{{task_id}}/stream", Streams(desk)),
        Route("/ws", Sockets(desk)),
        Route(f"{PREFIX}/tasks/{{task_id}}/cancel", task, "cancel"),
        Route(f"{PREFIX}/tasks/{{task_id}}/retry", moves, "retry"),
        Route(f"{PREFIX}/tasks/{{task_id}}/recover", moves, "recover"),
        Route(f"{PREFIX}/tasks/{{task_id}}/derivative", moves, "derivative"),
    ]


def _callbacks(desk: Desk) -> list[Route]:
    """Who is told about the end of tasks."""
    webhooks, callbacks = Webhooks(desk), TaskCallbacks(desk)
    return [
        Route(f"{PREFIX}/tasks/{{task_id}}/callbacks", callbacks),
        Route(f"{PREFIX}/tasks/{{task_id}}/callbacks/{{delivery_id}}/redeliver", callbacks, "redeliver"),
        Route(f"{PREFIX}/webhooks", webhooks),
        Route(f"{PREFIX}/webhooks/{{webhook_id}}", webhooks, "one"),
    ]


def _knowledge(desk: Desk) -> list[Route]:
    """Knowledge bases with their documents, and pipelines."""
    knowledge_bases, documents, pipelines = KnowledgeBases(desk), Documents(desk), Pipelines(desk)
    return [
        Route(f"{PREFIX}/knowledge-bases", knowledge_bases),
        Route(f"{PREFIX}/knowledge-bases/{{kb_id}}", knowledge_bases, "one"),
        Route(f"{PREFIX}/knowledge-bases/{{kb_id}}/search", knowledge_bases, "search"),
        Route(f"{PREFIX}/knowledge-bases/{{kb_id}}/reembed", knowledge_bases, "reembed"),
        Route(f"{PREFIX}/knowledge-bases/{{kb_id}}/documents", documents),
        Route(f"{PREFIX}/knowledge-bases/{{kb_id}}/documents/{{document_id}}", documents, "one"),
        Route(f"{PREFIX}/pipelines", pipelines),
        Route(f"{PREFIX}/pipelines/{{name}}", pipelines, "one"),
    ]


def _queues(desk: Desk) -> list[Route]:
    """Queues, and what is told of them and of processes."""
    queues, stats = Queues(desk), Stats(desk)
    return [
        Route(f"{PREFIX}/queues", queues),
        Route(f"{PREFIX}/queues/{{name}}", queues, "one"),
        Route(f"{PREFIX}/queues/{{name}}/stats", queues, "stats"),
        Route(f"{PREFIX}/stats/workers", stats, "workers"),
        Route(f"{PREFIX}/stats/queues", stats, "queues"),
        Route(f"{PREFIX}/queues/{{name}}/pause", queues, "pause"),
        Route(f"{PREFIX}/queues/{{name}}/resume", queues, "resume"),
    ]


def _schedules(desk: Desk) -> list[Route]:
    """Schedules."""
    schedules = ScheduledTasks(desk)
    return [
        Route(ADDRESS, schedules),
        Route(f"{ADDRESS}/{{name}}", schedules, "one"),
        Route(f"{ADDRESS}/{{name}}/pause", schedules, "pause"),
        Route(f"{ADDRESS}/{{name}}/resume", schedules, "resume"),
        Route(f"{ADDRESS}/{{name}}/run", schedules, "run"),
        Route(f"{ADDRESS}/{{name}}/backfill", schedules, "backfill"),
        Route(f"{ADDRESS}/{{name}}/runs", schedules, "runs"),
        Route(f"{PREFIX}/stats/schedules", schedules, "stats"),
    ]


def _dead_letters(desk: Desk) -> list[Route]:
    """Dead letters, and the jobs that replay them."""
    dead_letters, replays = DeadLetters(desk), Replays(desk)
    return [
        Route(f"{PREFIX}/dead-letters", dead_letters),
        Route(f"{PREFIX}/dead-letters/clusters", dead_letters, "clusters"),
        Route(f"{PREFIX}/dead-letters/replay", replays),
        Route(f"{PREFIX}/dead-letters/replays", replays, "all"),
        Route(f"{PREFIX}/dead-letters/replays/{{replay_id}}", replays, "one"),
        Route(f"{PREFIX}/dead-letters/replays/{{replay_id}}/abort", replays, "abort"),
        Route(f"{PREFIX}/dead-letters/replays/{{replay_id}}/resume", replays, "resume"),
        Route(f"{PREFIX}/dead-letters/{{letter_id}}", dead_letters, "one"),
        Route(f"{PREFIX}/dead-letters/{{letter_id}}/replay", dead_letters, "replay"),
    ]
