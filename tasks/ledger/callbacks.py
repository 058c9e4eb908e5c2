"""Callbacks: who is to be told that a task ended, written where it ends; and the verbs of deliveries.

A delivery is written in the transaction in which its task ends: neither can be without the other. What comes
of it never touches the task. An attempt is claimed for the time of a lease: if its process dies, another one
makes it again, so a receiver may hear of the same delivery twice, under the same id.
"""

from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

import msgspec

from tasks.callbacks import Attempted, DueDelivery, NewWebhook
from tasks.errors import Conflict
from tasks.ledger.locks import try_lock
from tasks.ledger.transaction import SKIPPED, Transaction, as_array, as_json, skipped

CALLBACKS_CHANNEL: Final = "callboard_callbacks"
MOST_WEBHOOKS = 100
#: So many attempts are kept of a delivery: redeliveries add to them for ever.
MOST_ATTEMPTS = 50
#: One look goes through so many hosts.
HOSTS_AT_ONCE = 500
#: What asking for a redelivery may answer.
ASKED, UNDER_WAY, MISSING = "asked", "under way", "missing"


class AddWebhook(msgspec.Struct, frozen=True):
    """Tell a receiver from now on."""

    webhook: NewWebhook


class RemoveWebhook(msgspec.Struct):
    """Tell a receiver no more. A repetition takes absence for success."""

    id: UUID
    tried: bool = False


class TakeDeliveries(msgspec.Struct, frozen=True):
    """Claim up to ``limit`` due deliveries for ``lease`` seconds.

    ``busy`` is how many of each host are under way: there may be ``per_host``, or what ``allowed`` says of a
    host. Hosts take turns: it begins with the one ``after``.
    """

    limit: int
    per_host: int
    lease: float
    busy: Mapping[str, int] = msgspec.field(default_factory=dict)
    allowed: Mapping[str, int] = msgspec.field(default_factory=dict)
    after: str = ""


class Taken(msgspec.Struct, frozen=True):
    """What was claimed, and the host after which the next look begins; "" begins anew."""

    due: list[DueDelivery]
    after: str


class Redeliver(msgspec.Struct, frozen=True):
    """Send a delivery again, with a new budget of attempts."""

    id: UUID


# Rows are looked up one by one: a plan that was made for an empty table must not compare all. Where nobody
# calls back only an empty index is looked at, which takes about a microsecond a task.
_IS_ANYBODY_TO_HEAR = """
SELECT EXISTS (SELECT FROM webhooks) OR EXISTS (SELECT FROM unnest(%s::uuid[]) AS i(id) CROSS JOIN LATERAL (
    SELECT FROM tasks t WHERE t.id = i.id AND t.callback_url IS NOT NULL OFFSET 0) AS t)"""

_OWE = """
WITH heard AS MATERIALIZED (
    SELECT t.* FROM unnest(%(ids)s::uuid[]) AS i(id) CROSS JOIN LATERAL (
        SELECT t.id, t.task_type, t.queue_name, t.user_id, t.kb_id, t.project_id, t.tags, t.run_id
        FROM tasks t WHERE t.id = i.id OFFSET 0) AS t
    WHERE EXISTS (SELECT FROM webhooks)  -- else only those with a callback_url are looked up
), targets AS (
    SELECT t.id, NULL::uuid AS webhook_id, t.user_id AS owner, t.callback_url AS url, NULL::text[] AS events
    FROM unnest(%(ids)s::uuid[]) AS i(id) CROSS JOIN LATERAL (
        SELECT t.id, t.user_id, t.callback_url FROM tasks t
        WHERE t.id = i.id AND t.callback_url IS NOT NULL OFFSET 0) AS t
    UNION ALL
    SELECT t.id, w.id, w.owner, w.url, w.events FROM heard t JOIN webhooks w
        ON (w.stages OR t.run_id IS NULL) AND (w.owner IS NULL OR w.owner = t.user_id)
        AND (w.task_type IS NULL OR w.task_type = t.task_type)
        AND (w.queue_name IS NULL OR w.queue_name = t.queue_name)
        AND (w.user_id IS NULL OR w.user_id = t.user_id) AND (w.kb_id IS NULL OR w.kb_id = t.kb_id)
        AND (w.project_id IS NULL OR w.project_id = t.project_id) AND (w.tag IS NULL OR w.tag = ANY(t.tags))
)
INSERT INTO deliveries (task_id, event_id, webhook_id, owner, event, url, ended)
SELECT g.id, s.events, g.webhook_id, g.owner, s.status, g.url, jsonb_build_object('status', s.status,
    'progress', s.progress, 'phase', s.phase, 'message', s.message, 'details', s.details, 'result', s.result,
    'error', s.error, 'attempts', s.attempt, 'updated_at', s.updated_at, 'started_at', s.started_at,
    'completed_at', s.finished_at)
FROM targets g CROSS JOIN LATERAL (SELECT * FROM task_state s WHERE s.id = g.id OFFSET 0) AS s
WHERE s.status IN ('completed', 'failed', 'cancelled') AND (g.events IS NULL OR s.status = ANY(g.events))
ON CONFLICT DO NOTHING RETURNING id"""

# A loose index scan over the hosts: a thousand deliveries to one that hangs cost the others nothing. It stops
# as soon as there are enough. A URL that is written in an unusual way has the host "", which comes first.
_TAKE = f"""
WITH RECURSIVE hosts(host, nth) AS (
    SELECT %(after)s::text, 0
    UNION ALL
    SELECT (SELECT d.host FROM deliveries d WHERE d.host > seen.host AND d.status = 'pending'
            ORDER BY d.host LIMIT 1), seen.nth + 1
    FROM hosts seen WHERE seen.host IS NOT NULL AND seen.nth < {HOSTS_AT_ONCE}
), due AS MATERIALIZED (
    SELECT one.id FROM hosts CROSS JOIN LATERAL (
        SELECT d.id FROM deliveries d
        WHERE d.host = hosts.host AND d.status = 'pending' AND d.due_at <= now() ORDER BY d.due_at
        LIMIT greatest(coalesce((%(allowed)s::jsonb->>hosts.host)::integer, %(per_host)s)
            - coalesce((%(busy)s::jsonb->>hosts.host)::integer, 0), 0)
        FOR NO KEY UPDATE SKIP LOCKED) AS one
    WHERE hosts.nth > 0 OR hosts.host = '' LIMIT %(limit)s
), taken AS (
    UPDATE deliveries d SET claim = gen_random_uuid(), due_at = now() + make_interval(secs => %(lease)s)
    FROM due WHERE d.id = due.id
    RETURNING d.id, d.claim, d.task_id, d.webhook_id, d.event, d.url, d.host, d.ended, d.tries,
        (SELECT secret FROM webhooks w WHERE w.id = d.webhook_id)
)
SELECT (SELECT host FROM hosts WHERE nth = {HOSTS_AT_ONCE}), taken.*
FROM (VALUES (true)) AS always LEFT JOIN taken ON true ORDER BY taken.host"""

_RECORD = f"""
WITH input AS (
    SELECT * FROM jsonb_to_recordset(%s::jsonb)
    AS i(id uuid, claim uuid, status text, due_in float8, attempt jsonb)
), locked AS (
    SELECT d.id, i.status, i.due_in, i.attempt FROM deliveries d JOIN input i USING (id)
    WHERE d.claim = i.claim ORDER BY d.id FOR NO KEY UPDATE OF d SKIP LOCKED
)
UPDATE deliveries d SET status = locked.status, claim = NULL, tries = d.tries + 1,
    due_at = now() + make_interval(secs => locked.due_in),
    attempts = CASE WHEN jsonb_array_length(d.attempts) < {MOST_ATTEMPTS} THEN d.attempts
        ELSE d.attempts - 0 END || locked.attempt
FROM locked WHERE d.id = locked.id RETURNING d.id"""

_CLAIMS = "SELECT id, claim FROM deliveries WHERE id = ANY(%s)"

_REDELIVER = """
WITH locked AS (
    SELECT id, claim IS NOT NULL AND due_at > now() AS under_way FROM deliveries WHERE id = ANY(%s)
    ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
), asked AS (
    UPDATE deliveries d SET status = 'pending', due_at = now(), tries = 0, claim = NULL
    FROM locked WHERE d.id = locked.id AND NOT under_way
)
SELECT id, under_way FROM locked"""

_ADD = """
INSERT INTO webhooks (id, owner, url, secret, events, stages, task_type, queue_name, user_id, kb_id,
    project_id, tag, created_by)
SELECT w.id, w.owner, w.url, w.secret, w.events, f.stages, f.task_type, f.queue_name, f.user_id, f.kb_id,
    f.project_id, f.tag, w.created_by
FROM jsonb_to_record(%s::jsonb) AS w(id uuid, owner text, url text, secret text, events text[], filter jsonb,
        created_by text),
    jsonb_to_record(w.filter) AS f(stages boolean, task_type text, queue_name text, user_id text, kb_id text,
        project_id text, tag text)
ON CONFLICT DO NOTHING"""
_COUNT = "SELECT count(*) FROM webhooks WHERE owner IS NOT DISTINCT FROM %s AND id <> %s"
_REMOVE = "DELETE FROM webhooks WHERE id = ANY(%s) RETURNING id"


def follow(tx: Transaction) -> None:
    """Write what is to be delivered about tasks that ended in this transaction, if anybody is to hear of it.

    It may be called again: what is written stays. To be called before any of them begins a new round.
    """
    if not tx.ended:
        return
    ids = as_array(tx.ended)
    if tx.rows(_IS_ANYBODY_TO_HEAR, ids)[0][0] and tx.named(_OWE, {"ids": ids}):
        tx.notify(CALLBACKS_CHANNEL)


def take_deliveries(tx: Transaction, items: Sequence[TakeDeliveries]) -> list[Taken]:
    """Claim due deliveries."""
    return [_take(tx, item) for item in items]


def _take(tx: Transaction, item: TakeDeliveries) -> Taken:
    asked = msgspec.structs.asdict(item)
    asked |= {"busy": as_json(item.busy), "allowed": as_json(item.allowed)}
    rows = tx.planned(_TAKE, asked)
    names = DueDelivery.__struct_fields__
    due = [
        msgspec.convert(dict(zip(names, row[1:], strict=True)), DueDelivery)
        for row in rows
        if row[1] is not None
    ]
    return Taken(due, due[-1].host if len(due) == item.limit else rows[0][0] or "")


def record_attempts(tx: Transaction, items: Sequence[Attempted]) -> list[object]:
    """Record what came of attempts: True, False for a claim that others have by now, SKIPPED if locked."""
    done = {row[0] for row in tx.rows(_RECORD, as_json(items))}
    missed = [item.id for item in items if item.id not in done]
    left = dict(tx.rows(_CLAIMS, missed)) if missed else {}
    return [item.id in done or skipped(left.get(item.id) == item.claim) for item in items]


def redeliver(tx: Transaction, items: Sequence[Redeliver]) -> list[object]:
    """Have deliveries sent again: "asked", "under way" (an attempt is made now), "missing", or SKIPPED."""
    ids = [item.id for item in items]
    locked = dict(tx.rows(_REDELIVER, ids))
    known = {row[0] for row in tx.rows(_CLAIMS, ids)}
    if not all(locked.values()):
        tx.notify(CALLBACKS_CHANNEL)
    words = {True: UNDER_WAY, False: ASKED}
    return [words[locked[one]] if one in locked else SKIPPED if one in known else MISSING for one in ids]


def add_webhook(tx: Transaction, items: Sequence[AddWebhook]) -> list[object]:
    """Record webhooks: True, a Conflict for one too many of an owner, SKIPPED while others are recorded."""
    return [_add(tx, item.webhook) for item in items]


def _add(tx: Transaction, webhook: NewWebhook) -> object:
    if not try_lock(tx, {f"webhooks of {webhook.owner}"}):
        return SKIPPED
    if tx.rows(_COUNT, webhook.owner, webhook.id)[0][0] >= MOST_WEBHOOKS:
        return Conflict(f"There are {MOST_WEBHOOKS} webhooks already: delete those that are not needed.")
    tx.execute(_ADD, as_json(webhook))
    return True


def remove_webhook(tx: Transaction, items: Sequence[RemoveWebhook]) -> list[bool]:
    """Forget webhooks; False: there was none. What is still to be delivered to one is given up."""
    gone = {row[0] for row in tx.rows(_REMOVE, [item.id for item in items])}
    outcomes = [item.id in gone or item.tried for item in items]
    for item in items:
        item.tried = True
    return outcomes
