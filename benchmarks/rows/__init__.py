"""The registry: every row, in the order of the table. A new row is one more entry here."""

from benchmarks.rows import (
    compilations,
    estimates,
    exact,
    expectations,
    large,
    learning,
    memory,
    per_trajectory,
    returns,
    sampling,
    startup,
    tokens,
    training,
)

ROWS = (
    *returns.ROWS,
    *sampling.ROWS,
    *estimates.ROWS,
    *per_trajectory.ROWS,
    *compilations.ROWS,
    *exact.ROWS,
    *expectations.ROWS,
    *large.ROWS,
    *memory.ROWS,
    *tokens.ROWS,
    *training.ROWS,
    *startup.ROWS,
    *learning.ROWS,
)
