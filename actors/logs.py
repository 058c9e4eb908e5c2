"""Keeps what an actor logs with its task."""

import logging
from typing import Final

from actors.context import running_here

#: What these log is about our own work, not about the task's.
OURS: Final = ("callboard", "pika", "dramatiq")


class TaskLogs(logging.Handler):
    """Finds the task on whose thread something is logged, and keeps the line with it.

    It never raises in the actor.
    """

    def handle(self, record: logging.LogRecord) -> bool:
        """Keep a record with the task that runs here, if one does.

        The handler's own lock is not used: an interrupt could leave it taken.
        """
        current = running_here()
        if current is None or record.name.partition(".")[0] in OURS:
            return False
        try:
            text = _text(record)
        except Exception:  # an actor's arguments can be wrong in any way; the other handler says so
            return False
        current.take_line(record.levelname.lower(), record.name, text)
        return True


def _text(record: logging.LogRecord) -> str:
    text = record.getMessage()
    if record.exc_info:
        text = f"{text}\n{logging.Formatter().formatException(record.exc_info)}"
    return text
