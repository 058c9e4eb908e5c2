"""The workbench for dead letters: another payload for a task, what a replay would do, and its job."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from actors.limits import limited
from actors.submission import Order, Submission
from pipelines.catalogue import Catalogue
from pipelines.derivatives import merge_patch
from tasks.errors import InvalidField
from tasks.ledger.dead_letters import Edit
from tasks.ledger.replays import OpenReplay
from tasks.letter_records import Candidate, Letter, LetterFilter, Survey
from tasks.letters import LetterQueries
from tasks.values import NewTask

#: So many letters are read at a time; fewer with their payloads, which may be large.
PAGE, PAGE_WITH_PAYLOADS = 1_000, 100
#: A dry run names so many reasons; what there is beside them is counted as OTHER.
MOST_REASONS = 20
OTHER = "other reasons"


class Payloads:
    """What another payload means for a task: it is checked like a submission, and leads to a limit."""

    def __init__(self, catalogue: Catalogue, submission: Submission) -> None:
        self._runnable = catalogue.runnable()
        self._submission = submission

    def fit(self, letter: Candidate, payload: Any) -> Edit:
        """Another payload for the task of a letter.

        Raises:
          InvalidField: it does not fit the type; the field is named.
        """
        if not letter.is_stage:
            (task, *_) = self._submission.prepare(_order(letter, payload))
            return Edit(task.payload, task.concurrency, task.concurrency_key)
        stage = self._runnable.get(letter.task_type)
        if stage is None:  # only other processes know its pipeline
            return Edit(payload, keeps_limit=True)
        stage.parse(payload)
        task = limited(_stage(letter, payload), stage.policy)
        return Edit(payload, task.concurrency, task.concurrency_key)

    def patched(self, letter: Candidate, patch: Mapping[str, Any]) -> Edit:
        """The payload of a letter's task, changed by a JSON merge patch.

        Raises:
          InvalidField: it does not fit the type then.
        """
        return self.fit(letter, merge_patch(letter.payload, patch))


class Workbench:
    """What operators want to know before they replay dead letters."""

    def __init__(self, queries: LetterQueries, payloads: Payloads) -> None:
        self._queries = queries
        self._payloads = payloads

    def survey(self, wanted: LetterFilter, patch: Mapping[str, Any] | None, most: int) -> Survey:
        """What a replay of the first ``most`` letters that match would do; nothing is changed."""
        reasons: Counter[str] = Counter()
        eligible = 0
        for letter in self._matching(wanted, most, payloads=patch is not None):
            objection = letter.objection or self._objection(letter, patch)
            if objection is None:
                eligible += 1
            else:
                reasons[objection] += 1
        shown = Counter(dict(reasons.most_common(MOST_REASONS)))
        if rest := reasons.total() - shown.total():
            shown[OTHER] = rest
        return Survey(eligible, reasons.total(), dict(shown))

    def select(self, wanted: LetterFilter, job: OpenReplay) -> OpenReplay:
        """The job with the letters that match, the oldest first."""
        found = self._matching(wanted, job.most, payloads=False)
        return msgspec.structs.replace(job, letters=[(one.dead_letter, one.task_id) for one in found])

    def edit(self, letter: Letter, payload: Any) -> Edit | None:
        """Another payload for the task of a letter; None: the task is gone, and the ledger will say so.

        Raises:
          InvalidField: it does not fit the type; the field is named.
        """
        found = self._queries.candidate(letter.dead_letter_id)
        return None if found is None or found.task_id is None else self._payloads.fit(found, payload)

    def _matching(self, wanted: LetterFilter, most: int, *, payloads: bool) -> Iterator[Candidate]:
        last: Candidate | None = None
        while most > 0:
            limit = min(most, PAGE_WITH_PAYLOADS if payloads else PAGE)
            page = self._queries.candidates(wanted, after=last, limit=limit, payloads=payloads)
            yield from page
            if len(page) < limit:
                return
            most -= len(page)
            last = page[-1]

    def _objection(self, letter: Candidate, patch: Mapping[str, Any] | None) -> str | None:
        if patch is None:
            return None
        try:
            self._payloads.patched(letter, patch)
        except InvalidField as error:
            return str(error)
        return None


def _order(letter: Candidate, payload: Any) -> Order:
    return Order(
        task_type=letter.task_type,
        payload=payload,
        user_id=letter.user_id,
        project_id=letter.project_id,
        kb_id=letter.kb_id,
    )


def _stage(letter: Candidate, payload: Any) -> NewTask:
    return NewTask(
        task_type=letter.task_type,
        queue_name="",
        payload=payload,
        user_id=letter.user_id,
        project_id=letter.project_id,
        kb_id=letter.kb_id,
    )
