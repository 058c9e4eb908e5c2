"""The operations: what every method of every address takes and gives, one line each, by parts of the API.

The routes say who answers, these tables say what: the OpenAPI document is made from both. Addresses below
``/api/v1`` are written without it.
"""

from typing import Any

from api.operations import callbacks, dead_letters, knowledge, queues, schedules, server, stats, tasks

OPERATIONS = (
    *server.OPERATIONS,
    *tasks.OPERATIONS,
    *knowledge.OPERATIONS,
    *queues.OPERATIONS,
    *stats.OPERATIONS,
    *schedules.OPERATIONS,
    *callbacks.OPERATIONS,
    *dead_letters.OPERATIONS,
)
#: What is no body itself, but a field of one.
PARTS = (*tasks.PARTS, *dead_letters.PARTS)
#: An example of each body; what is not here has the fields of its schema for an example.
EXAMPLES: dict[Any, dict[str, Any]] = {
    **tasks.EXAMPLES,
    **knowledge.EXAMPLES,
    **queues.EXAMPLES,
    **schedules.EXAMPLES,
    **callbacks.EXAMPLES,
    **dead_letters.EXAMPLES,
}
