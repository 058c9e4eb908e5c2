"""Settings: read once from the environment by a composition root, then handed on as a frozen value."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

from tasks.errors import SettingsError

PREFIX = "CALLBOARD_"
T = TypeVar("T")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a Callboard process is told by its environment. Times are seconds, sizes are bytes."""

    database_url: str | None = None
    broker_urls: tuple[str, ...] = ()
    data_dir: Path = Path(".callboard")
    blob_url: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    actors: tuple[str, ...] = ()
    file_roots: tuple[Path, ...] = ()
    fetch_allow_private: bool = False
    callback_allow_private: bool = False
    callback_secret: str | None = None
    queue_type: str = "classic"
    processes: int = 2
    threads: int = 8
    max_concurrent: int = 50
    task_timeout: float = 300.0
    max_retries: int = 3
    backoff_factor: float = 2.0
    db_pool: int = 10
    drain_seconds: float | None = None
    retention_days: float = 30.0
    dead_letter_days: float = 90.0
    schedule_min_seconds: float = 1.0  # between two fires of a schedule
    body_limit: int = 1 << 20
    upload_limit: int = 200 << 20
    embedder: str = "e5"
    embedding_url: str | None = None
    embedding_model: str | None = None
    embedding_key: str | None = None
    embedding_rate: float | None = None  # requests per second of this process
    log_level: str = "info"
    log_format: str = "console"

    @property
    def embedded(self) -> bool:
        """Whether Callboard brings its own Postgres, because no ``CALLBOARD_DATABASE_URL`` is set."""
        return self.database_url is None

    @property
    def blobs(self) -> str:
        """The fsspec URL below which documents are kept."""
        return self.blob_url or (self.data_dir.absolute() / "blobs").as_uri()

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> "Settings":
        """Read every ``CALLBOARD_…`` variable that is set and not empty.

        Raises:
          SettingsError: a value cannot be used; the message names the variable.
        """
        values: dict[str, object] = {}
        for variable, (field, read) in _VARIABLES.items():
            text = environ.get(PREFIX + variable, "").strip()
            if text:
                values[field] = _read(variable, text, read)
        if values.get("embedder") == "http" and not {"embedding_url", "embedding_model"} <= values.keys():
            raise SettingsError(
                f"{PREFIX}EMBEDDER=http needs {PREFIX}EMBEDDING_URL and {PREFIX}EMBEDDING_MODEL: set both"
            )
        return cls(**values)  # type: ignore[arg-type]


def _read(variable: str, text: str, read: Callable[[str], T]) -> T:
    try:
        return read(text)
    except ValueError as error:
        shown = "" if variable in _HIDDEN else f"={text!r}"
        raise SettingsError(f"{PREFIX}{variable}{shown} cannot be used: {error}") from None


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _paths(text: str) -> tuple[Path, ...]:
    return tuple(Path(part).expanduser().resolve() for part in text.split(os.pathsep) if part)


def _whole(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        number = int(text)
        if not least <= number <= most:
            raise ValueError(f"it must be from {least} to {most}")
        return number

    return read


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 < number < 86_400 * 30:
        raise ValueError("it must be a positive number of seconds")
    return number


def _days(text: str) -> float:
    number = float(text)
    if not 0 < number <= 36_500:
        raise ValueError("it must be a positive number of days, up to 36500")
    return number


def _switch(text: str) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True}
    words |= {"0": False, "false": False, "no": False, "off": False}
    if text.lower() not in words:
        raise ValueError("it must be 1 or 0")
    return words[text.lower()]


def _rate(text: str) -> float:
    number = float(text)
    if not 0 < number <= 100_000:
        raise ValueError("it must be a positive number of requests per second, up to 100000")
    return number


def _http_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or not text.isprintable():
        raise ValueError("it must be a URL like http://localhost:11434/v1")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("it must end with its path, and a key is named by CALLBOARD_EMBEDDING_KEY")
    try:
        parts.port  # noqa: B018 - reading it checks it
    except ValueError:
        raise ValueError("its port must be a number up to 65535") from None
    return text


def _model(text: str) -> str:
    if not text.isprintable() or len(text) > 200:
        raise ValueError("it must be up to 200 printable characters")
    return text


def _key(text: str) -> str:
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("it must consist of ASCII characters without spaces")
    return text


def _one_of(*words: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f"it must be one of {', '.join(words)}")
        return text

    return read


#: What is secret, or may hold a secret.
_HIDDEN = frozenset({"CALLBACK_SECRET", "EMBEDDING_KEY", "EMBEDDING_URL"})
_VARIABLES: dict[str, tuple[str, Callable[[str], object]]] = {
    "DATABASE_URL": ("database_url", str),
    "BROKER_URL": ("broker_urls", _list),
    "DATA_DIR": ("data_dir", Path),
    "BLOB_URL": ("blob_url", str),
    "HOST": ("host", str),
    "PORT": ("port", _whole(0, 65_535)),
    "ACTORS": ("actors", _list),
    "FILE_ROOTS": ("file_roots", _paths),
    "FETCH_ALLOW_PRIVATE": ("fetch_allow_private", _switch),
    "CALLBACK_ALLOW_PRIVATE": ("callback_allow_private", _switch),
    "CALLBACK_SECRET": ("callback_secret", _key),
    "QUEUE_TYPE": ("queue_type", _one_of("classic", "quorum")),
    "PROCESSES": ("processes", _whole(1, 256)),
    "THREADS": ("threads", _whole(1, 1_000)),
    "MAX_CONCURRENT": ("max_concurrent", _whole(1, 100_000)),
    "TASK_TIMEOUT": ("task_timeout", _seconds),
    "MAX_RETRIES": ("max_retries", _whole(0, 1_000)),
    "BACKOFF_FACTOR": ("backoff_factor", _seconds),
    "DB_POOL": ("db_pool", _whole(1, 1_000)),
    "DRAIN_SECONDS": ("drain_seconds", _seconds),
    "RETENTION_DAYS": ("retention_days", _days),
    "DEAD_LETTER_DAYS": ("dead_letter_days", _days),
    "SCHEDULE_MIN_SECONDS": ("schedule_min_seconds", _seconds),
    "BODY_LIMIT": ("body_limit", _whole(1, 1 << 30)),
    "UPLOAD_LIMIT": ("upload_limit", _whole(1, 1 << 40)),
    "EMBEDDER": ("embedder", _one_of("e5", "fast", "http")),
    "EMBEDDING_URL": ("embedding_url", _http_url),
    "EMBEDDING_MODEL": ("embedding_model", _model),
    "EMBEDDING_KEY": ("embedding_key", _key),
    "EMBEDDING_RATE": ("embedding_rate", _rate),
    "LOG_LEVEL": ("log_level", _one_of("debug", "info", "warning", "error")),
    "LOG_FORMAT": ("log_format", _one_of("console", "json")),
}
