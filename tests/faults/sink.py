"""The sink: what actors really did, in a file outside of our tables to which lines are only appended."""

import os
import time
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from actors.context import current_task

FILE = "sink"


class Mark(NamedTuple):
    """One line: ``word`` is "start" or "end"; ``token`` names the claim under which the actor ran."""

    word: str
    task_id: UUID
    attempt: int
    token: int
    stage: str
    pid: int
    at: float


def mark(word: str) -> int:
    """Append a line about the task that runs on this thread; its token."""
    claim = current_task()._claim  # the token is no business of actors, but it is of this sink
    stage = claim.stage or "-"
    line = f"{word} {claim.id} {claim.attempt} {claim.token} {stage} {os.getpid()} {time.time()}\n"
    file = os.open(Path(os.environ["EFFECTS"]) / FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)
    return claim.token


def read_marks(folder: Path) -> list[Mark]:
    """Every line of the sink in ``folder``, in order."""
    file = folder / FILE
    if not file.exists():
        return []
    return [_parsed(line.split()) for line in file.read_text().splitlines()]


def _parsed(words: list[str]) -> Mark:
    word, task_id, attempt, token, stage, pid, at = words
    return Mark(word, UUID(task_id), int(attempt), int(token), stage, int(pid), float(at))
