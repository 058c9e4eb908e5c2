"""Settings are read once, from the mapping that a composition root hands in."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tasks.errors import SettingsError
from tasks.settings import Settings


def test_without_any_variable_everything_has_a_default() -> None:
    settings = Settings.from_env({})

    assert settings == Settings()
    assert settings.embedded
    assert settings.host == "127.0.0.1"
    assert (settings.port, settings.processes, settings.threads) == (8000, 2, 8)
    assert (settings.task_timeout, settings.max_retries) == (300.0, 3)


@pytest.mark.parametrize(
    ("variable", "text", "field", "value"),
    [
        ("DATABASE_URL", "postgresql://db/callboard", "database_url", "postgresql://db/callboard"),
        ("BROKER_URL", "amqp://a, amqp://b", "broker_urls", ("amqp://a", "amqp://b")),
        ("DATA_DIR", "data", "data_dir", Path("data")),
        ("BLOB_URL", "s3://bucket/blobs", "blob_url", "s3://bucket/blobs"),
        ("HOST", "0.0.0.0", "host", "0.0.0.0"),
        ("PORT", "0", "port", 0),
        ("ACTORS", "shop.tasks, shop.mail,", "actors", ("shop.tasks", "shop.mail")),
        ("FETCH_ALLOW_PRIVATE", "yes", "fetch_allow_private", True),
        ("QUEUE_TYPE", "quorum", "queue_type", "quorum"),
        ("PROCESSES", "4", "processes", 4),
        ("THREADS", "16", "threads", 16),
        ("MAX_CONCURRENT", "100", "max_concurrent", 100),
        ("TASK_TIMEOUT", "0.5", "task_timeout", 0.5),
        ("SCHEDULE_MIN_SECONDS", "60", "schedule_min_seconds", 60.0),
        ("MAX_RETRIES", "0", "max_retries", 0),
        ("BACKOFF_FACTOR", "3", "backoff_factor", 3.0),
        ("DB_POOL", "20", "db_pool", 20),
        ("DRAIN_SECONDS", "5", "drain_seconds", 5.0),
        ("BODY_LIMIT", "2048", "body_limit", 2048),
        ("UPLOAD_LIMIT", "4096", "upload_limit", 4096),
        ("EMBEDDER", "fast", "embedder", "fast"),
        ("EMBEDDING_URL", "http://localhost:11434/v1", "embedding_url", "http://localhost:11434/v1"),
        ("EMBEDDING_MODEL", "BAAI/bge-m3", "embedding_model", "BAAI/bge-m3"),
        ("EMBEDDING_KEY", "sk-1234", "embedding_key", "sk-1234"),
        ("EMBEDDING_RATE", "2.5", "embedding_rate", 2.5),
        ("LOG_LEVEL", "debug", "log_level", "debug"),
        ("LOG_FORMAT", "json", "log_format", "json"),
    ],
)
def test_a_variable_sets_its_field_and_no_other(variable: str, text: str, field: str, value: object) -> None:
    settings = Settings.from_env({f"CALLBOARD_{variable}": text})

    assert settings == msgspec.structs.replace(Settings(), **{field: value})


def test_file_roots_are_absolute_and_separated_as_paths_are(tmp_path: Path) -> None:
    roots = os.pathsep.join([str(tmp_path / "a"), str(tmp_path / "b" / ".." / "c")])

    settings = Settings.from_env({"CALLBOARD_FILE_ROOTS": roots})

    assert settings.file_roots == ((tmp_path / "a").resolve(), (tmp_path / "c").resolve())


@pytest.mark.parametrize("blank", ["", "   "])
def test_an_empty_variable_is_as_good_as_none(blank: str) -> None:
    assert Settings.from_env({"CALLBOARD_PORT": blank, "CALLBOARD_DATABASE_URL": blank}) == Settings()


def test_variables_of_others_are_none_of_our_business() -> None:
    assert Settings.from_env({"PORT": "1", "CALLBOARD_UNHEARD_OF": "1"}) == Settings()


@dataclass
class Refused:
    variable: str
    text: str
    because: str


@pytest.mark.parametrize(
    "refused",
    [
        Refused("PORT", "eighty", "invalid literal"),
        Refused("PORT", "65536", "from 0 to 65535"),
        Refused("PROCESSES", "0", "from 1 to 256"),
        Refused("THREADS", "-1", "from 1"),
        Refused("MAX_RETRIES", "1.5", "invalid literal"),
        Refused("TASK_TIMEOUT", "0", "positive number of seconds"),
        Refused("TASK_TIMEOUT", "nan", "positive number of seconds"),
        Refused("TASK_TIMEOUT", "inf", "positive number of seconds"),
        Refused("DRAIN_SECONDS", "soon", "could not convert"),
        Refused("QUEUE_TYPE", "stream", "one of classic, quorum"),
        Refused("EMBEDDER", "word2vec", "one of e5, fast, http"),
        Refused("EMBEDDING_MODEL", "x" * 201, "200 printable"),
        Refused("EMBEDDING_RATE", "nan", "positive number of requests"),
        Refused("LOG_LEVEL", "loud", "one of debug, info, warning, error"),
    ],
    ids=lambda refused: f"{refused.variable}={refused.text}",
)
def test_a_value_that_cannot_be_used_is_refused_by_the_name_of_its_variable(refused: Refused) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({f"CALLBOARD_{refused.variable}": refused.text})

    assert caught.value.message.startswith(f"CALLBOARD_{refused.variable}={refused.text!r}")
    assert refused.because in caught.value.message


@pytest.mark.parametrize(
    ("variable", "secret"),
    [
        ("EMBEDDING_KEY", "sk 1234"),
        ("EMBEDDING_KEY", "schlüssel-1234"),
        ("EMBEDDING_KEY", "sk-1234\n5"),
        ("EMBEDDING_URL", "http://ann:sk-1234@localhost/v1"),
        ("EMBEDDING_URL", "http://localhost/v1?key=sk-1234"),
        ("EMBEDDING_URL", "http://localhost:1234x/v1"),
        ("EMBEDDING_URL", "localhost:1234/v1"),
        ("EMBEDDING_URL", "http:///1234"),
        ("CALLBACK_SECRET", "1234 5678"),
    ],
)
def test_what_may_hold_a_secret_is_refused_without_showing_it(variable: str, secret: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({f"CALLBOARD_{variable}": secret})

    assert caught.value.message.startswith(f"CALLBOARD_{variable} cannot be used: ")
    assert "1234" not in caught.value.message.replace("11434", "")


def test_an_endpoint_as_the_default_embedder_must_be_set() -> None:
    endpoint = {"CALLBOARD_EMBEDDING_URL": "http://localhost/v1", "CALLBOARD_EMBEDDING_MODEL": "bge-m3"}

    assert Settings.from_env({"CALLBOARD_EMBEDDER": "http", **endpoint}).embedder == "http"
    for missing in endpoint:
        given = {name: value for name, value in endpoint.items() if name != missing}
        with pytest.raises(SettingsError, match=missing):
            Settings.from_env({"CALLBOARD_EMBEDDER": "http", **given})


def test_with_a_database_url_no_postgres_of_our_own_is_needed() -> None:
    assert not Settings(database_url="postgresql://db/callboard").embedded


def test_blobs_are_kept_in_the_data_folder_unless_a_url_says_otherwise(tmp_path: Path) -> None:
    assert Settings(data_dir=tmp_path).blobs == (tmp_path / "blobs").as_uri()
    assert Settings(blob_url="memory://blobs").blobs == "memory://blobs"


def test_settings_cannot_be_changed_afterwards() -> None:
    settings: Any = Settings()

    with pytest.raises(AttributeError):
        settings.port = 1
