"""Logging of our processes: lines for people, or JSON for machines, on standard error."""

import logging
import sys

import msgspec

from tasks.settings import Settings

NOISY = ("pika", "dramatiq", "asyncio", "fsspec", "httpx", "httpcore")


class _JsonFormatter(logging.Formatter):
    """One JSON object a line, so that no message can forge another."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        line = {
            "at": self.formatTime(record),
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


class _LineFormatter(logging.Formatter):
    """One line for people; line breaks in messages are shown, not made."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line, then its traceback if it has one."""
        head, newline, trace = super().format(record).partition("\nTraceback ")
        return head.replace("\n", "\\n") + newline + trace


def configure(settings: Settings, process: str, *, keep: logging.Handler | None = None) -> None:
    """Send the logs of this process to standard error, and to ``keep`` too if there is one."""
    handler = logging.StreamHandler(sys.stderr)
    if settings.log_format == "json":
        handler.setFormatter(_JsonFormatter(process))
    else:
        line = f"%(asctime)s {process:<9} %(levelname)-7s %(message)s"
        handler.setFormatter(_LineFormatter(line, "%H:%M:%S"))
    root = logging.getLogger()
    root.handlers[:] = [handler, *([keep] if keep is not None else [])]
    root.setLevel(settings.log_level.upper())
    for name in NOISY:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
