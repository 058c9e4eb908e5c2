"""``callboard kb``: list, create, show, embed anew and delete knowledge bases."""

import click
from rich.table import Table
from rich.text import Text

from api.cli.remote import Remote, client_command
from api.cli.tasks import watch_to_end
from api.cli.text import clean, counted, moment
from api.client import Document, KnowledgeBase

EMBEDDERS = ("e5", "fast", "http")
_SHOWN_AT_MOST = 100


@click.group
def kb() -> None:
    """List, create, show, embed anew and delete knowledge bases."""


@kb.command("list")
@client_command
def list_knowledge_bases(remote: Remote) -> None:
    """List all knowledge bases."""
    found = remote.client.knowledge_bases()
    if remote.as_json:
        remote.show_json({"knowledge_bases": found})
        return
    table = Table("ID", "NAME", "DOCUMENTS", "CHUNKS", "EMBEDDER", box=None, pad_edge=False)
    for one in found:
        numbers = f"{one.documents:,}", f"{one.chunks:,}"
        table.add_row(Text(clean(one.kb_id)), Text(clean(one.name)), *numbers, Text(one.embedder or ""))
    remote.out.print(table)


@kb.command
@click.argument("name")
@click.option("--id", "kb_id", help="Its id; by default the server chooses one.")
@click.option("--embedder", type=click.Choice(EMBEDDERS), help="What embeds its documents.")
@client_command
def create(remote: Remote, name: str, kb_id: str | None, embedder: str | None) -> None:
    """Create a knowledge base."""
    created = remote.client.create_knowledge_base(name, kb_id, embedder)
    if remote.as_json:
        remote.show_json(created)
    remote.say(created.kb_id)


@kb.command
@click.argument("kb_id", metavar="KB")
@client_command
def show(remote: Remote, kb_id: str) -> None:
    """Show a knowledge base and its documents."""
    found, documents = remote.client.knowledge_base(kb_id), remote.client.documents(kb_id)
    if remote.as_json:
        remote.show_json({"knowledge_base": found, "documents": documents})
        return
    remote.say(_headline(found))
    if documents:
        remote.out.print()
        remote.out.print(_table(documents[:_SHOWN_AT_MOST]))
    if len(documents) > _SHOWN_AT_MOST:
        remote.say(f"… and {len(documents) - _SHOWN_AT_MOST:,} more; --json lists all")


@kb.command
@click.argument("kb_id", metavar="KB")
@click.option("--embedder", type=click.Choice(EMBEDDERS), required=True, help="What embeds it from now on.")
@click.option("--follow", is_flag=True, help="Watch it until it is final; ends with 1 if it failed.")
@client_command
def reembed(remote: Remote, kb_id: str, embedder: str, follow: bool) -> None:
    """Embed a knowledge base anew by another model, while it is searched by the one that it has."""
    task_id = str(remote.client.reembed(kb_id, embedder))
    if follow:
        remote.err.print(f"task {task_id}", highlight=False)
        watch_to_end(remote, [task_id])
    elif remote.as_json:
        remote.show_json({"task_id": task_id})
    else:
        remote.say(task_id)


@kb.command
@click.argument("kb_id", metavar="KB")
@click.option("--yes", is_flag=True, help="Do not ask.")
@client_command
def delete(remote: Remote, kb_id: str, yes: bool) -> None:
    """Delete a knowledge base with all its documents."""
    found = remote.client.knowledge_base(kb_id)
    question = f"Delete {clean(kb_id)} with {counted(found.documents, 'document')}?"
    if not yes:
        click.confirm(question, abort=True, err=True)
    remote.client.delete_knowledge_base(kb_id)
    if remote.as_json:
        remote.show_json({"deleted": kb_id})
    remote.say(f"Deleted {kb_id}.")


def _headline(found: KnowledgeBase) -> str:
    name = "" if found.name == found.kb_id else f" ({found.name})"
    by = f", embedded by {found.embedder}" if found.embedder else ""
    return (
        f"{found.kb_id}{name}: {counted(found.documents, 'document')}, {counted(found.chunks, 'chunk')}{by}"
    )


def _table(documents: list[Document]) -> Table:
    table = Table("DOCUMENT", "VERSION", "CHUNKS", "TYPE", "UPDATED", box=None, pad_edge=False)
    for one in documents:
        numbers = str(one.version), f"{one.chunks:,}"
        kind = "duplicate" if one.duplicate_of else one.media_type or ""
        table.add_row(Text(clean(one.name)), *numbers, Text(kind), moment(one.updated_at))
    return table
