"""``callboard webhooks``, and ``callboard tasks callbacks|redeliver``: who is told when tasks end."""

from typing import Any

import click
import msgspec
from rich.table import Table
from rich.text import Text

from api.cli.remote import Remote, client_command
from api.cli.text import clean, counted, moment
from tasks.callbacks import Delivery, DeliveryAttempt, Webhook


@click.group
def webhooks() -> None:
    """List, create, show and delete webhooks."""


@webhooks.command("list")
@client_command
def list_webhooks(remote: Remote) -> None:
    """List all webhooks."""
    found = remote.client.webhooks()
    if remote.as_json:
        remote.show_json({"webhooks": found})
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("WEBHOOK", "EVENTS", "FILTER", "URL"):
        table.add_column(
            heading, no_wrap=heading == "WEBHOOK", min_width=36 if heading == "WEBHOOK" else None
        )
    for one in found:
        table.add_row(
            str(one.webhook_id), ", ".join(one.events), Text(clean(_filter(one))), Text(clean(one.url))
        )
    remote.out.print(table)


@webhooks.command
@click.argument("receiver", metavar="RECEIVER")
@click.option(
    "--event",
    "events",
    multiple=True,
    type=click.Choice(["completed", "failed", "cancelled"]),
    help="What it is told; may be given several times. By default everything.",
)
@click.option("--type", "task_type", help="Only about tasks of this type.")
@click.option("--queue", "queue_name", help="Only about tasks of this queue.")
@click.option("--kb", "kb_id", help="Only about tasks of this knowledge base.")
@click.option("--user", "user_id", help="Only about tasks of this user.")
@click.option("--project", "project_id", help="Only about tasks of this project.")
@click.option("--tag", help="Only about tasks with this tag.")
@click.option("--stages", is_flag=True, help="Also about the stages of runs.")
@click.option("--secret", help="Signs what is sent; by default one is made.")
@client_command
def create(
    remote: Remote,
    /,
    receiver: str,
    events: tuple[str, ...],
    secret: str | None,
    stages: bool,
    **filters: Any,
) -> None:
    """Have the URL RECEIVER told when tasks end. Shows its secret, this once."""
    made = remote.client.create_webhook(
        receiver, events=events or None, secret=secret, stages=stages or None, **filters
    )
    if remote.as_json:
        remote.show_json(made)
    remote.say(f"{made.webhook_id}  {made.url}")
    remote.say(f"secret {made.secret}")


@webhooks.command
@click.argument("webhook_id", metavar="ID")
@client_command
def show(remote: Remote, webhook_id: str) -> None:
    """Show a webhook, without its secret."""
    found = remote.client.webhook(webhook_id)
    if remote.as_json:
        remote.show_json(found)
    remote.say(f"{found.webhook_id}  {found.url}")
    remote.say(f"{', '.join(found.events)}; {_filter(found) or 'all tasks'}")
    remote.say(f"made {moment(found.created_at)} by {found.created_by}")


@webhooks.command
@click.argument("webhook_id", metavar="ID")
@client_command
def delete(remote: Remote, webhook_id: str) -> None:
    """Tell a webhook no more."""
    remote.client.delete_webhook(webhook_id)
    remote.say(f"{webhook_id} is told no more")


@click.command
@click.argument("task_id", metavar="ID")
@client_command
def callbacks(remote: Remote, task_id: str) -> None:
    """Show what is delivered about a task, with each attempt."""
    found = remote.client.callbacks(task_id)
    if remote.as_json:
        remote.show_json({"callbacks": found})
        return
    for one in found:
        remote.say(_line(one))
        for attempt in one.attempts:
            remote.say(f"  {_attempt(attempt)}")
    remote.say(counted(len(found), "callback"))


@click.command
@click.argument("task_id", metavar="ID")
@click.argument("delivery_id", metavar="DELIVERY")
@client_command
def redeliver(remote: Remote, task_id: str, delivery_id: str) -> None:
    """Send a DELIVERY about the task ID again."""
    asked = remote.client.redeliver(task_id, delivery_id)
    if remote.as_json:
        remote.show_json(asked)
    remote.say(_line(asked))


def _line(one: Delivery) -> str:
    due = "" if one.next_attempt_at is None else f", next attempt {moment(one.next_attempt_at)}"
    return f"{one.delivery_id}  {one.event}  {one.status}{due}  {one.url}"


def _attempt(one: DeliveryAttempt) -> str:
    outcome = one.error or str(one.status_code)
    return f"{moment(one.at)}  {outcome}  ({one.duration_ms:,.0f} ms)"


def _filter(webhook: Webhook) -> str:
    wanted = msgspec.structs.asdict(webhook.filter)
    return ", ".join(f"{name} {value}" for name, value in wanted.items() if value not in (None, False))
