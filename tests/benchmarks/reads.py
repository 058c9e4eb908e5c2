"""How long reading takes over HTTP with a million finished tasks on record: p50 and p99 of each kind of read.

``FILL=20000`` in the environment fills fewer.
"""

import os
import random
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg

from tasks.database import connect
from tasks.ledger import Ledger
from tasks.migrations import migrate
from tasks.settings import Settings
from tests.benchmarks.outcome import Outcome, table
from tests.support.api import served
from tests.support.databases import fresh_database
from tests.support.servers import postgres_server

TASKS = 1_000_000
DAYS = 30
WARM_UP, ROUNDS = 10, 300
FOLDED = 100_000
#: What each kind of read may take at the 99th percentile, in milliseconds.
LIMITS = {"task": 10.0, "list": 20.0, "statistics": 100.0}
Query = Mapping[str, Any]

# A tenth are stages; of all 94% are completed, 5% failed and 1% cancelled.
_FILL = f"""
CREATE TEMP TABLE fill AS
SELECT n, abs(hashint4(n)) %% 10 = 5 AS is_stage,
    now() - interval '{DAYS} days' * (1 - n::float8 / %s) - interval '10 minutes' AS at,
    CASE WHEN n %% 100 = 0 THEN 'cancelled' WHEN n %% 20 = 1 THEN 'failed' ELSE 'completed' END AS status,
    exp(4 + 2 * sqrt(-2 * ln(1 - random())) * cos(6.28318530718 * random())) AS ms
FROM generate_series(1, %s) AS n;
ALTER TABLE fill ADD COLUMN id uuid;
UPDATE fill SET id = (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7'
    || substr(md5(n::text), 1, 3) || '8' || substr(md5(n::text), 4, 15))::uuid;
INSERT INTO tasks (id, task_type, queue_name, priority, payload, max_retries, timeout, user_id, kb_id, run_id,
    stage, stage_index, created_at)
SELECT id, 'type_' || n %% 8 || CASE WHEN is_stage THEN '.stage' ELSE '' END, 'queue_' || n %% 4, 5,
    jsonb_build_object('number', n, 'text', md5(n::text)), 3, 300, 'user_' || abs(hashint4(-n)) %% 50,
    CASE WHEN n %% 7 = 0 THEN 'kb_' || abs(hashint4(n / 7)) %% 20 END,
    CASE WHEN is_stage THEN gen_random_uuid() END,
    CASE WHEN is_stage THEN 'stage' END, CASE WHEN is_stage THEN 0 END, at
FROM fill ORDER BY n;
INSERT INTO task_state (id, status, queue, rank, ready_at, attempt, events, running_event, progress, result,
    error, started_at, finished_at, updated_at)
SELECT id, status, 'queue_' || n %% 4, extract(epoch FROM at), at, 1, 3, 2,
    CASE WHEN status = 'completed' THEN 100 ELSE 0 END,
    CASE WHEN status = 'completed' THEN jsonb_build_object('n', n) END,
    CASE WHEN status = 'failed' THEN jsonb_build_object('code', 'actor_error', 'message', 'oops') END,
    at + interval '5 ms', at + make_interval(secs => ms / 1000), at + make_interval(secs => ms / 1000)
FROM fill ORDER BY n;
INSERT INTO tallies
SELECT date_trunc(CASE WHEN created_at < now() - interval '2 days' THEN 'hour' ELSE 'minute' END, created_at,
    'UTC'), user_id, task_type, queue_name, run_id IS NOT NULL, 'submitted', count(*), count(*)
FROM tasks GROUP BY 1, 2, 3, 4, 5;
INSERT INTO tallies
SELECT date_trunc(CASE WHEN created_at < now() - interval '2 days' THEN 'hour' ELSE 'minute' END, created_at,
    'UTC'), user_id, task_type, queue_name, run_id IS NOT NULL, status, count(*), count(*), sum(ms),
    array_agg(floor(ln(greatest(ms, 0.1)) / ln(1.05::float8))::smallint) FILTER (WHERE status = 'completed')
FROM tasks JOIN fill USING (id) GROUP BY 1, 2, 3, 4, 5, 6;
INSERT INTO queues (name) VALUES ('queue_0'), ('queue_1'), ('queue_2'), ('queue_3')
"""


def run(folder: Path) -> Outcome:
    """Fill a record of its own and read it over HTTP; ``folder`` is not needed."""
    count = int(os.environ.get("FILL", TASKS))
    with postgres_server() as server, fresh_database(server) as url, tempfile.TemporaryDirectory() as data:
        began = time.monotonic()
        ids = fill(url, count)
        filled = time.monotonic() - began
        with served(Settings(database_url=url, data_dir=Path(data), port=0)) as (address, _):
            times = _measure(address, ids)
    rows = [_row(name, *figures) for name, figures in times.items()]
    report = table([f"{count:,} finished tasks", "p50 ms", "p99 ms", "limit", ""], rows)
    return Outcome(f"{report}\n\nFilled in {filled:.0f} s.", {name: one[:2] for name, one in times.items()})


def fill(url: str, count: int) -> list[str]:
    """Fill a record with finished tasks, fold their statistics, and give some ids."""
    database = connect(url)
    migrate(database)
    database.close_all()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off")
        for statement in _FILL.split(";\n"):
            values = (count, count) if "generate_series" in statement else ()
            connection.execute(statement if values else statement.replace("%%", "%"), values or None)  # type: ignore[arg-type]
        ledger = Ledger(url).start()
        while ledger.fold(FOLDED).result():
            pass
        ledger.close()
        connection.execute("VACUUM ANALYZE")
        rows = connection.execute("SELECT id FROM fill ORDER BY random() LIMIT 500").fetchall()
        return [str(row[0]) for row in rows]


def _reads(client: httpx.Client, ids: list[str]) -> dict[str, tuple[str, Callable[[], tuple[str, Query]]]]:
    """What is read: by its name, the kind of its limit, and how to ask for it the next time."""
    now = datetime.now(UTC)
    deep = _deep_cursors(client)
    scrape = f"{client.base_url.copy_with(path='/metrics')}"
    twenty = {
        "start_time": (now - timedelta(days=25)).isoformat(),
        "end_time": (now - timedelta(days=5)).isoformat(),
    }

    def tasks(**query: Callable[[], Any] | str) -> Callable[[], tuple[str, Query]]:
        return lambda: ("/tasks", {key: one() if callable(one) else one for key, one in query.items()})

    def figures(**query: str) -> Callable[[], tuple[str, Query]]:
        return lambda: ("/tasks/statistics", query)

    return {
        "a task": ("task", lambda: (f"/tasks/{random.choice(ids)}", {})),
        "its status": ("task", lambda: (f"/tasks/{random.choice(ids)}/status", {})),
        "its history": ("task", lambda: (f"/tasks/{random.choice(ids)}/history", {})),
        "its attempts": ("task", lambda: (f"/tasks/{random.choice(ids)}/attempts", {})),
        "first page": ("list", tasks()),
        "by status completed": ("list", tasks(status="completed")),
        "by status failed": ("list", tasks(status="failed")),
        "by status queued (none)": ("list", tasks(status="queued")),
        "by type": ("list", tasks(task_type=lambda: f"type_{random.randrange(8)}")),
        "by queue": ("list", tasks(queue_name=lambda: f"queue_{random.randrange(4)}")),
        "by queue and status": ("list", tasks(queue_name="queue_1", status="failed")),
        "by knowledge base": ("list", tasks(kb_id=lambda: f"kb_{random.randrange(20)}")),
        "by user": ("list", tasks(user_id=lambda: f"user_{random.randrange(50)}")),
        "a deep cursor": ("list", tasks(cursor=lambda: random.choice(deep))),
        "a deep cursor by status": ("list", tasks(cursor=lambda: random.choice(deep), status="failed")),
        "all statistics": ("statistics", figures()),
        "statistics of 20 days": ("statistics", figures(**twenty)),
        "statistics of a type": ("statistics", figures(task_type="type_3", **twenty)),
        "statistics of a user": ("statistics", figures(user_id="user_7", **twenty)),
        "statistics of the last hour": (
            "statistics",
            figures(start_time=(now - timedelta(hours=1, seconds=7)).isoformat()),
        ),
        "all queues": ("statistics", lambda: ("/stats/queues", {})),
        "a scrape (read once a second)": ("statistics", lambda: (scrape, {})),
    }


def _deep_cursors(client: httpx.Client) -> list[str]:
    """Cursors from far down the list."""
    found = []
    for days in range(2, DAYS - 1):
        before = (datetime.now(UTC) - timedelta(days=days)).isoformat()
        answer = client.get("/tasks", params={"created_before": before, "limit": 1}, timeout=60)
        found.append(answer.raise_for_status().json()["next_cursor"])
    return [one for one in found if one]


def _measure(address: str, ids: list[str]) -> dict[str, tuple[float, float, float]]:
    """Ask for everything in turns: p50, p99 and the limit of each kind in milliseconds."""
    with httpx.Client(base_url=f"{address}/api/v1", timeout=30, trust_env=False) as client:
        reads = _reads(client, ids)
        times: dict[str, list[float]] = {name: [] for name in reads}
        for turn in range(WARM_UP + ROUNDS):
            for name, (_, ask) in reads.items():
                path, query = ask()
                began = time.perf_counter()
                answer = client.get(path, params=query)
                took = (time.perf_counter() - began) * 1_000
                answer.raise_for_status()
                if turn >= WARM_UP:
                    times[name].append(took)
    return {name: (*_percentiles(took), LIMITS[reads[name][0]]) for name, took in times.items()}


def _percentiles(times: list[float]) -> tuple[float, float]:
    ordered = sorted(times)
    return ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)]


def _row(name: str, p50: float, p99: float, limit: float) -> list[str]:
    return [name, f"{p50:.1f}", f"{p99:.1f}", f"< {limit:g}", "" if p99 < limit else "too slow"]
