"""The operations on dead letters and on the jobs that replay them."""

from typing import Any

from api.operations.model import Operation, listing, optional
from api.schemas.common import Paged
from api.schemas.dead_letters import BulkReplay, ItemListing, LetterListing, LetterReplay, ReplayPage
from tasks.letter_records import Cluster, Letter, LetterDetail, ReplayJob, Survey
from tasks.records import Task

#: The filters of a list of dead letters, as a body has them.
LettersMeant = optional("LettersMeant", LetterListing, without=Paged)

OPERATIONS = (
    Operation(
        "GET /dead-letters", "list_dead_letters", {200: listing("dead_letters", Letter)}, query=LetterListing
    ),
    Operation(
        "GET /dead-letters/clusters",
        "list_dead_letter_clusters",
        {200: listing("clusters", Cluster)},
        query=LetterListing,
    ),
    Operation(
        "POST /dead-letters/replay",
        "replay_dead_letters",
        {200: Survey, 202: ReplayJob},
        body=BulkReplay,
        has_location=True,
    ),
    Operation("GET /dead-letters/replays", "list_replays", {200: listing("replays", ReplayJob)}, query=Paged),
    Operation("GET /dead-letters/replays/{replay_id}", "get_replay", {200: ReplayPage}, query=ItemListing),
    Operation(
        "POST /dead-letters/replays/{replay_id}/abort", "abort_replay", {202: ReplayJob}, refuses=(409,)
    ),
    Operation(
        "POST /dead-letters/replays/{replay_id}/resume", "resume_replay", {202: ReplayJob}, refuses=(409,)
    ),
    Operation("GET /dead-letters/{letter_id}", "get_dead_letter", {200: LetterDetail}),
    Operation("DELETE /dead-letters/{letter_id}", "discard_dead_letter", {204: None}, refuses=(409,)),
    Operation(
        "POST /dead-letters/{letter_id}/replay",
        "replay_dead_letter",
        {202: Task, 204: None},
        body=LetterReplay | None,
        refuses=(409,),
    ),
)

EXAMPLES: dict[Any, dict[str, Any]] = {
    LetterReplay: {"payload": {"message": "hello again"}},
    BulkReplay: {
        "filter": {"task_type": "test", "error_class": "RuntimeError"},
        "dry_run": True,
        "payload_patch": {"careful": True},
        "canary": 10,
        "rate": 50,
    },
}

#: What is no body itself, but a field of one.
PARTS = (LettersMeant,)
