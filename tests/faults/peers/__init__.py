"""Plain dramatiq under the faults that Callboard is tried with: ``python -m tests.faults.peers``."""
