"""What the OpenAPI document cannot say, told to schemathesis: each exception with its reason.

Everything else that a check finds is an error of the document or of the server.
"""

import os
import re
from contextlib import suppress
from typing import Any
from uuid import UUID

import schemathesis
from schemathesis.openapi.checks import RejectedPositiveData, UseAfterFree

#: Refusals of requests that fit the document. Every error of such an answer must be one of these.
UNSAYABLE = {
    # Parameters of a query are described one by one, so none can exclude another.
    r"(page|offset|cursor): cannot be used together with": "one way of paging at a time",
    r"limit: means the same as page_size": "two names of one parameter",
    r"page: reaches beyond item": "the product of two parameters is limited",
    r"cursor: is not a cursor of an earlier page": "cursors are opaque, and made by the server",
    r"(filter\.)?(created_(after|before)|(start|end)_time|since|until): is out of range": (
        "an offset leads out of years"
    ),
    r"end_time: is before start_time": "one parameter limits the other",
    r"(to|from): is (before|in the future|out of range)": "one end of a range limits the other",
    # Cron expressions have a grammar, and time zones a data base.
    r"cron_expr: ": "a grammar that no pattern tells",
    r"timezone: ": "zones come and go",
    # What the record holds is no part of a document.
    r"name: cannot be changed": "the name of a schedule stands in its path",
    r"to: there are more than": "how many times a range has is known to the schedule",
    r"(tasks\[\d+\]\.)?task_type: no worker has ever declared": "types are known to workers",
    r"(tasks\[\d+\]\.)?depends_on: (names a task that does not exist|the tasks wait)": "tasks come and go",
    # A payload is described by its type, not by the route.
    r"(tasks\[\d+\]\.)?payload": "each type says itself what it takes",
    r"(tasks\[\d+\]\.)?kb_id: (is required|there is no knowledge base)": "documents go into a knowledge base",
    # An endpoint that embeds is a setting of the server.
    r"embedder: the embedder http has no endpoint": "not every server has one",
    # A filter of nothing but nulls is empty, and a host is no matter of a pattern.
    r"filter: is empty": "null is as good as leaving a field out",
    r"(tasks\[\d+\]\.)?callback_url: (must|holds|names|is not|is too)": "what a URL may be is more than that",
    # What fits depends on the task that is meant.
    r"(mode|stage|output|version): ": "recovering a run is not recovering a task",
    # Payloads are as free as JSON, but for what neither Postgres nor other languages could keep.
    r"The (number .*|body) (has more than 64 bits|is too large|is nested more than)": "JSON without bounds",
    r"[^:]*: holds (a NUL|half of a surrogate)": "text without bounds",
    r"metadata: (keys must|.* must be a text without NUL)": "text without bounds",
    r"metadata: must be (at most|a JSON object)": "an object in a text, and a size in bytes",
    # Relations between the fields of one body.
    r"chunk_overlap: must be less than chunk_size": "one number limits the other",
    r"(file_path|url): cannot be used together with": "one of two fields",
    r"(payload\.)?url: (must|holds|names|is not|is too)": "what a URL may be is more than a schema tells",
    r"(name|text): is required": "fields that depend on each other",
    # Names that are kept by RabbitMQ, and white space that Python knows and JSON Schema does not.
    r"(tasks\[\d+\]\.)?queue_name: must": "some names are kept",
    r"name: must (be|have) 1 to": "white space is no name",
    r"file: needs a filename": "a filename is a part of the form's headers",
    r"(payload\.)?file_path: (is not|files of this machine)": "files are on the server",
    r"[^:]*: is a second file": "a form has one file",
    # schemathesis fills forms with the example of the JSON body.
    r"text: is not known here; known are name, chunk_size, chunk_overlap": "a form has a file for a text",
}


#: The ids of tasks that are over, by commas.
OVER_VARIABLE = "FUZZ_TASKS_THAT_ARE_OVER"


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Stream only what is over: any other stream ends with its task, which may be in an hour."""
    if case.operation.path.endswith("/stream"):
        over = os.environ[OVER_VARIABLE].split(",")
        with suppress(ValueError, KeyError):
            number = UUID(case.path_parameters["task_id"]).int
            case.path_parameters["task_id"] = over[number % len(over)]


@schemathesis.hook
def filter_failure(context: Any, failure: Any, case: Any, response: Any) -> bool:
    """Whether a failure of a check is one of ours; False drops it."""
    # What is too long is refused by the server, before the API sees it.
    if response.status_code in (414, 431):
        return False
    if isinstance(failure, RejectedPositiveData) and response.status_code in (400, 422):
        return not _is_unsayable(response.json())
    # Deleting an unfinished task cancels it (202): it is still there, and a second DELETE removes it. What
    # was discarded stays on record.
    stays = any(part in case.operation.path for part in ("/tasks/", "/dead-letters/"))
    return not (isinstance(failure, UseAfterFree) and stays)


def _is_unsayable(problem: dict[str, Any]) -> bool:
    words = [f"{one['field']}: {one['message']}" for one in problem["errors"]] or [problem["detail"]]
    return all(any(re.match(rule, word) for rule in UNSAYABLE) for word in words)
