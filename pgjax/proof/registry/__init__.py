"""The registry: one row for each public estimator, and the exact numbers follow by themselves.

A row says how an estimator is composed and what its bias is claimed to be. `certificate.certify`
computes what it *is*, on every problem of the suite, and the tables of the README and of
docs/estimators.md are printed from that; a public estimator without a row fails the tests.
"""

from pgjax.proof.registry import (
    rows_basic,
    rows_beyond,
    rows_critics,
    rows_fitted,
    rows_groups,
    rows_off_policy,
    rows_proximal,
    rows_regularized,
)
from pgjax.proof.registry.row import Row as Row
from pgjax.proof.registry.row import least_variance_value as least_variance_value
from pgjax.proof.registry.row import mean_return as mean_return
from pgjax.proof.registry.row import mean_returns_to_go as mean_returns_to_go

SECTIONS: dict[str, tuple[Row, ...]] = {
    "essentials": rows_basic.ROWS,
    "critics": rows_critics.ROWS,
    "groups": rows_groups.ROWS,
    "terms": rows_proximal.ROWS,
    "off-policy": rows_off_policy.ROWS,
    "fitted baselines": rows_fitted.ROWS,
    "regularised": rows_regularized.ROWS,
    "beyond": rows_beyond.ROWS,
}
"""Rows by family, in the order that tables print them."""

ROWS: tuple[Row, ...] = tuple(row for rows in SECTIONS.values() for row in rows)
"""Every row."""


def section_of(row: Row) -> str:
    """The section that a row stands in; "others" for one that is not of the registry."""
    return next((section for section, rows in SECTIONS.items() if row in rows), "others")
