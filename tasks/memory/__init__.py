"""The record in memory: the verbs and answers of `tasks.ledger` and `tasks.queries`, for users' own tests.

It is of one process, and forgets with it. Its time can be moved: what waits for tomorrow runs today. Its
queues have no settings: nothing in them is limited, paused or refused. Keys of tasks do limit.
"""

from tasks.memory.ledger import MemoryLedger
from tasks.memory.queries import MemoryQueries
from tasks.memory.store import Clock, Store

__all__ = ["Clock", "MemoryLedger", "MemoryQueries", "Store"]
