"""The registry: every row, in the order of the table. A new row is one more entry here."""

from benchmarks.rows import estimates, exact, returns, sampling, startup

ROWS = (*returns.ROWS, *sampling.ROWS, *estimates.ROWS, *exact.ROWS, *startup.ROWS)
