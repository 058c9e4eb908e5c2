"""The tables of knowledge bases and documents as peewee models.

Chunks, vectors, begun versions and reembeddings have none: they are reached by SQL only.
"""

from typing import Any

from peewee import BigIntegerField, IntegerField, Model, SmallIntegerField, TextField, UUIDField
from playhouse.postgres_ext import BinaryJSONField, DateTimeTZField


class KnowledgeBaseRow(Model):
    """A knowledge base."""

    key = BigIntegerField(primary_key=True)
    owner = TextField()
    kb_id = TextField()
    name = TextField()
    embedder = TextField()
    dim = SmallIntegerField()
    generation = IntegerField()
    created_at = DateTimeTZField()

    class Meta:
        """The table's name."""

        table_name = "knowledge_bases"


class DocumentRow(Model):
    """A document and its searchable version."""

    id = UUIDField(primary_key=True)
    kb = BigIntegerField()
    name = TextField()
    media_type = TextField()
    size_bytes = BigIntegerField()
    sha256 = TextField()
    version = IntegerField()
    last_version = IntegerField()
    chunks = IntegerField()
    task_id = UUIDField(null=True)
    metadata: Any = BinaryJSONField(index=False)
    cut: Any = BinaryJSONField(index=False)
    created_at = DateTimeTZField()
    updated_at = DateTimeTZField()

    class Meta:
        """The table's name."""

        table_name = "documents"
