"""The states of a task and the moves between them, as data.

    submit --> scheduled ---promote---+            blocked (waits for depends_on)
       |                              v               |
       +---------------------------> queued <-unblock-+
                                      | ^ ^
                                claim | | +--- release, rescue, lose (nothing is used up by a release)
                                      v |
       complete <------------------ running --- fail ---> retrying --promote--> queued
       fail     <---------------------+
       cancel   <--- any state that is not final

       failed                       --replay, retry--> queued   (operators' verbs: a new round
       failed, cancelled, completed --recover--------> queued    of the same task)

A stage whose plan its worker does not know is released and postponed in one.

What is ``queued`` may be parked: others of its concurrency key have all places. That is no state and no move.

``completed``, ``failed`` and ``cancelled`` are final: nothing automatic leaves them. The row of a run (a
pipeline as a whole) moves by the same table; it is never claimed itself: the first claim of one of its
stages starts it, and its last stage ends it. A new round of a stage reopens its run, and what the run's
failure had cancelled; the recovery of a run reopens its stages, or completes one with an output that was
given.
"""

from typing import Final

SCHEDULED: Final = "scheduled"
BLOCKED: Final = "blocked"
QUEUED: Final = "queued"
RUNNING: Final = "running"
RETRYING: Final = "retrying"
COMPLETED: Final = "completed"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"

STATES: Final = (SCHEDULED, BLOCKED, QUEUED, RUNNING, RETRYING, COMPLETED, FAILED, CANCELLED)
FINAL: Final = frozenset({COMPLETED, FAILED, CANCELLED})
UNFINISHED: Final = frozenset(STATES) - FINAL

#: What a task of a state waits for.
WAITS: Final = {SCHEDULED: "time", RETRYING: "backoff", BLOCKED: "dependency"}

#: Words that filters take for several states at once.
GROUPS: Final = {"processing": (RUNNING,), "pending": (SCHEDULED, BLOCKED, QUEUED, RETRYING)}

#: verb of the ledger -> the states it leaves, the states it may reach.
MOVES: Final[dict[str, tuple[frozenset[str], frozenset[str]]]] = {
    "submit": (frozenset(), frozenset({SCHEDULED, BLOCKED, QUEUED})),
    "promote": (frozenset({SCHEDULED, RETRYING}), frozenset({QUEUED})),
    "unblock": (frozenset({BLOCKED}), frozenset({SCHEDULED, QUEUED, FAILED})),
    "postpone": (frozenset({QUEUED}), frozenset({SCHEDULED})),
    "claim": (frozenset({QUEUED}), frozenset({RUNNING})),
    "start": (frozenset({SCHEDULED, QUEUED}), frozenset({RUNNING})),
    "release": (frozenset({RUNNING}), frozenset({QUEUED})),
    "rescue": (frozenset({RUNNING}), frozenset({QUEUED, FAILED})),
    "lose": (frozenset({RUNNING}), frozenset({QUEUED, FAILED})),
    "complete": (frozenset({RUNNING}), frozenset({COMPLETED})),
    "fail": (frozenset({RUNNING}), frozenset({RETRYING, FAILED})),
    "cancel": (UNFINISHED, frozenset({CANCELLED})),
    "settle": (frozenset({SCHEDULED, BLOCKED, QUEUED, RUNNING}), FINAL),
    "replay": (frozenset({FAILED, CANCELLED}), frozenset({QUEUED, RUNNING})),
    "retry": (frozenset({FAILED, CANCELLED}), frozenset({QUEUED, RUNNING})),
    "recover": (FINAL, frozenset({QUEUED, RUNNING, COMPLETED})),
}

#: The verbs that only people ask for: nothing else leaves a final state.
BY_OPERATORS: Final = frozenset({"replay", "retry", "recover"})


def is_legal(before: str | None, after: str, *, by_operators: bool = False) -> bool:
    """Whether a verb moves a task from ``before`` (None: it was not there) to ``after``.

    With ``by_operators`` the verbs count too that only people ask for.
    """
    return any(
        after in reached and (before in left if before else not left)
        for verb, (left, reached) in MOVES.items()
        if by_operators or verb not in BY_OPERATORS
    )
