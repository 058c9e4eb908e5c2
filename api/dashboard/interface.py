"""What Dramatiq's dashboard asks a broker: two properties and four methods, and the requeueing of a job.

Counts are RabbitMQ's own. The jobs themselves come from the record, which has them all: looking at messages
on RabbitMQ would change their order. Without RabbitMQ, or while it is away, the counts are the record's too.
"""

import logging
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID

from dramatiq import Message
from dramatiq.common import dq_name, q_name, xq_name
from dramatiq.errors import ConnectionClosed
from dramatiq_dashboard.interface import Job, Queue, Worker

from actors.rabbitmq import topology
from pipelines.bootstrap import Kit
from tasks.errors import Conflict, NotFound
from tasks.ids import parse_id
from tasks.jobs import DEAD, DELAYED, READY, JobCounts, JobRow

log = logging.getLogger("callboard.dashboard")

PAGE = 100
PATIENCE_SECONDS = 5.0
#: Who presses the buttons, as it is put on record; the dashboard itself knows of nobody.
ACTING: ContextVar[str] = ContextVar("acting", default="system")
#: Longer texts are cut in lists.
LONGEST_TITLE = 300


class ShownJob(Job):  # type: ignore[misc]
    """A job whose title in a list is not longer than people read. There its payload is a text already."""

    def __str__(self) -> str:
        title = f"{self.message.actor_name}({', '.join(map(str, self.message.args))})"
        return title if len(title) <= LONGEST_TITLE else f"{title[:LONGEST_TITLE]}…"


class Interface:
    """The dashboard's view of a kit. Everything here blocks.

    Names of queues come with ``.DQ`` for the delayed jobs, with ``.XQ`` for the dead ones.
    """

    def __init__(self, kit: Kit) -> None:
        self._kit = kit

    @property
    def queues(self) -> list[Any]:
        """All queues with their counts, by name."""
        return self._counted(self._kit.jobs.counts())

    @property
    def workers(self) -> list[Any]:
        """The worker processes, by name."""
        return [Worker(one.name, _naive(one.seen_at), one.running) for one in self._kit.jobs.workers()]

    def get_queue(self, queue_name: str) -> Any:
        """A queue with its counts.

        Raises:
          NotFound: there is none of this name.
        """
        found = self._counted(self._kit.jobs.counts(queue_name))
        if not found:
            raise NotFound(f"There is no queue {queue_name[:100]}: see /dramatiq for those there are.")
        return found[0]

    def get_jobs(self, queue_name: str, cursor: int = 0) -> tuple[int | None, list[Any]]:
        """A page of jobs from a place on, and the place of the next page, if there is one."""
        name = q_name(queue_name)
        rows = self._kit.jobs.jobs(
            name, kind_of(queue_name), on_rabbitmq=self._has_rabbitmq, limit=PAGE + 1, offset=cursor
        )
        jobs = [_job(name, row) for row in rows[:PAGE]]
        return cursor + PAGE if len(rows) > PAGE else None, jobs

    def get_job(self, queue_name: str, message_id: str) -> Any:
        """A job with all of its payload; None if it is not there any more."""
        job_id = parse_id(message_id)
        row = job_id and self._kit.jobs.job(q_name(queue_name), kind_of(queue_name), job_id)
        return _job(q_name(queue_name), row) if row else None

    def delete_message(self, queue_name: str, message_id: str) -> None:
        """Discard a failed job, cancel any other; one that is gone needs neither."""
        job_id = parse_id(message_id)
        if job_id is None or self.get_job(queue_name, message_id) is None:
            return
        ledger = self._kit.ledger
        if kind_of(queue_name) == DEAD:
            verb = ledger.discard(job_id, by=ACTING.get(), patience=PATIENCE_SECONDS)
        else:
            verb = ledger.cancel(job_id, patience=PATIENCE_SECONDS)
        verb.result(2 * PATIENCE_SECONDS)

    def requeue(self, queue_name: str, message_id: str) -> bool:
        """Replay a failed job in one transaction; False: somebody did before, or it is gone.

        Nothing is moved on RabbitMQ: the task becomes ready again, and its copy leaves later.

        Raises:
          Conflict: it cannot run again; the message says why.
        """
        job = self._kit.jobs.job(q_name(queue_name), DEAD, parse_id(message_id) or UUID(int=0))
        if job is None or kind_of(queue_name) != DEAD:
            return False
        if job.task_id is None:
            outcome = self._kit.stray_replayer.replay(
                job.id, created_by=ACTING.get(), patience=PATIENCE_SECONDS
            )
        else:
            replayed = self._kit.ledger.replay(job.id, by=ACTING.get(), patience=PATIENCE_SECONDS)
            outcome = replayed.result(2 * PATIENCE_SECONDS)
        if outcome not in ("replayed", "resolved", "missing"):
            raise Conflict(f"The job is not run again: {outcome.replace('_', ' ')}.")
        return outcome == "replayed"

    @property
    def _has_rabbitmq(self) -> bool:
        return bool(self._kit.settings.broker_urls)

    def _counted(self, counts: Sequence[JobCounts]) -> list[Any]:
        on_rabbitmq = self._on_rabbitmq([one.queue for one in counts])
        return [_queue(one, on_rabbitmq) for one in counts]

    def _on_rabbitmq(self, queues: Sequence[str]) -> Mapping[str, int] | None:
        """RabbitMQ's counts of the queues and of their dead letters; None if it cannot be asked."""
        if not self._has_rabbitmq:
            return None
        names = [name for queue in queues for name in (queue, xq_name(queue))]
        try:
            connection = topology.connect(topology.parameters(self._kit.settings.broker_urls))
            try:
                return topology.message_counts(connection, names)
            finally:
                connection.close()
        except (*topology.CONNECTION_ERRORS, ConnectionClosed) as error:
            log.warning("RabbitMQ cannot be asked, the dashboard shows the record's counts: %s", error)
            return None


def kind_of(queue_name: str) -> str:
    """Which jobs a name stands for: those that are ready, delayed or dead."""
    return {dq_name(queue_name): DELAYED, xq_name(queue_name): DEAD}.get(queue_name, READY)


def _queue(counts: JobCounts, on_rabbitmq: Mapping[str, int] | None) -> Any:
    make = partial(Queue, name=counts.queue, jobs_delayed=counts.delayed)
    if on_rabbitmq is None:
        return make(jobs=counts.ready, jobs_dead=counts.dead)
    # A copy whose letter is resolved is as good as gone: the janitor takes it out in a moment.
    dead = on_rabbitmq.get(xq_name(counts.queue), 0) - counts.leaving
    return make(jobs=on_rabbitmq.get(counts.queue, 0), jobs_dead=max(0, dead))


def _job(queue: str, row: JobRow) -> Any:
    message: Message[Any] = Message(
        queue_name=queue,
        actor_name=row.task_type,
        args=() if row.task_id is None else (row.payload,),
        kwargs={},
        options=row.options,
        message_id=str(row.task_id or row.id),
        message_timestamp=int(row.created_at.timestamp() * 1_000),
    )
    return ShownJob(
        message_id=str(row.id),
        message=message,
        eta=_naive(row.due),
        timestamp=_naive(row.created_at),
        retries=row.failures,
    )


def _naive(moment: datetime) -> datetime:
    """A moment in UTC without saying so, as the dashboard reckons."""
    return moment.astimezone(UTC).replace(tzinfo=None)
