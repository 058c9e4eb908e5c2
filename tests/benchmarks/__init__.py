"""What Callboard is measured by: ``make bench``, or ``make bench ONLY=search`` for one of the benchmarks."""
