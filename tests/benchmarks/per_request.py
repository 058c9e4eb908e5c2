"""What our API is compared with: the same task, one INSERT, one COMMIT and one confirmed publish a request.

A plain Falcon application as a competent team writes it first: psycopg and pika directly, a connection of
each kept by every thread, a durable queue, persistent and mandatory messages. It keeps and answers less than
ours.
"""

import json
import os
import threading
from typing import Any

import falcon
import pika
import psycopg
from psycopg.types.json import Jsonb

from actors.rabbitmq import topology
from tasks.ids import new_id

DATABASE_VARIABLE, BROKER_VARIABLE = "PER_REQUEST_DATABASE_URL", "PER_REQUEST_BROKER_URL"
QUEUE_VARIABLE = "PER_REQUEST_QUEUE"
TABLE = """
CREATE TABLE IF NOT EXISTS per_request_tasks (
    id uuid PRIMARY KEY, task_type text NOT NULL, queue_name text NOT NULL, priority smallint NOT NULL,
    payload jsonb NOT NULL, status text NOT NULL, created_at timestamptz NOT NULL DEFAULT now())"""
_INSERT = """
INSERT INTO per_request_tasks (id, task_type, queue_name, priority, payload, status)
VALUES (%s, %s, %s, %s, %s, 'queued') RETURNING created_at"""


class _Connections(threading.local):
    """The connections of one thread, opened when it has its first request."""

    def __init__(self) -> None:
        self.database = psycopg.connect(os.environ[DATABASE_VARIABLE], autocommit=True)
        self.queue = os.environ[QUEUE_VARIABLE]
        parameters = pika.URLParameters(os.environ[BROKER_VARIABLE])
        parameters.heartbeat = 0  # between two requests nobody would answer them
        self.channel = pika.BlockingConnection(parameters).channel()
        self.channel.confirm_delivery()
        for name, arguments in topology.declarations(self.queue, "classic"):
            self.channel.queue_declare(name, durable=True, arguments=arguments)


class Tasks:
    """``POST /tasks``."""

    def __init__(self) -> None:
        self._connections = _Connections()

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Record a task, then publish it."""
        asked = req.get_media()
        task_id, kept = new_id(), self._connections
        task: dict[str, Any] = {
            "task_id": str(task_id),
            "task_type": asked["task_type"],
            "queue_name": kept.queue,
            "priority": asked.get("priority", 5),
            "payload": asked.get("payload", {}),
            "status": "queued",
        }
        values = (task_id, task["task_type"], kept.queue, task["priority"], Jsonb(task["payload"]))
        row = kept.database.execute(_INSERT, values).fetchone()
        assert row is not None
        kept.channel.basic_publish(
            "",
            kept.queue,
            json.dumps({"task_id": task["task_id"], "task_type": task["task_type"]}).encode(),
            pika.BasicProperties(delivery_mode=2, content_type="application/json", priority=task["priority"]),
            mandatory=True,
        )
        resp.status = falcon.HTTP_202
        resp.media = {**task, "created_at": row[0].isoformat()}


def application() -> "falcon.App[falcon.Request, falcon.Response]":
    """The application; gunicorn calls this in each of its workers."""
    app: falcon.App[falcon.Request, falcon.Response] = falcon.App()
    app.add_route("/tasks", Tasks())
    return app
