"""The registry: one row for each public estimator, and the exact numbers follow by themselves.

A row says how an estimator is written and what its bias is claimed to be. `certificate.certify`
computes what it *is*, on every problem of the suite, and the tables of the README and of
docs/estimators.md are printed from that; a public estimator without a row fails the tests.
"""

from pgjax.core.validation import check_kind
from pgjax.proof.registry.row import Row as Row
from pgjax.proof.registry.row import evaluate as evaluate
from pgjax.proof.registry.rows_basic import ESSENTIALS, GROUPS
from pgjax.proof.registry.rows_beyond import BEYOND
from pgjax.proof.registry.rows_critics import CRITICS
from pgjax.proof.registry.rows_expectations import EXPECTATIONS as EXPECTATIONS
from pgjax.proof.registry.rows_expectations import ExpectationRow as ExpectationRow
from pgjax.proof.registry.rows_fitted import FITTED_BASELINES
from pgjax.proof.registry.rows_off_policy import OFF_POLICY, TERMS
from pgjax.proof.registry.rows_regularized import REGULARISED
from pgjax.proof.registry.rows_tokens import TOKENS as TOKENS
from pgjax.proof.registry.rows_tokens import TokenRow as TokenRow

SECTIONS: dict[str, tuple[Row, ...]] = {
    "essentials": ESSENTIALS,
    "critics": CRITICS,
    "groups": GROUPS,
    "terms": TERMS,
    "off-policy": OFF_POLICY,
    "fitted baselines": FITTED_BASELINES,
    "regularised": REGULARISED,
    "beyond": BEYOND,
}
"""Rows by family, in the order that tables print them."""

ROWS: tuple[Row, ...] = tuple(row for rows in SECTIONS.values() for row in rows)
"""Every row."""


def section_of(row: Row) -> str:
    """The section that a row stands in; "others" for one that is not of the registry."""
    check_kind("row", row, Row, "pgjax.registry.ROWS are some")
    return next((section for section, rows in SECTIONS.items() if row in rows), "others")
