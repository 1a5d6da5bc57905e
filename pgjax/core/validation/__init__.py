"""Errors at the public boundary: the argument, what it was, what was needed, the usual fix.

Known values are checked at once, and a failed check raises. Values that are being traced cannot be
read. Under `checked` their check is traced too, and `checked` raises the error. Elsewhere it costs
nothing.
"""

from pgjax.core.validation.batches import check_batch as check_batch
from pgjax.core.validation.batches import check_layout as check_layout
from pgjax.core.validation.batches import check_log_prob as check_log_prob
from pgjax.core.validation.batches import check_target as check_target
from pgjax.core.validation.batches import check_traced_finite as check_traced_finite
from pgjax.core.validation.keys import check_key as check_key
from pgjax.core.validation.numbers import as_array as as_array
from pgjax.core.validation.numbers import check_above_zero as check_above_zero
from pgjax.core.validation.numbers import check_array as check_array
from pgjax.core.validation.numbers import check_at_least as check_at_least
from pgjax.core.validation.numbers import check_between as check_between
from pgjax.core.validation.numbers import check_counts as check_counts
from pgjax.core.validation.numbers import check_finite as check_finite
from pgjax.core.validation.numbers import check_number as check_number
from pgjax.core.validation.numbers import check_one_value as check_one_value
from pgjax.core.validation.numbers import check_positive as check_positive
from pgjax.core.validation.numbers import check_rate as check_rate
from pgjax.core.validation.numbers import check_rates as check_rates
from pgjax.core.validation.numbers import check_real as check_real
from pgjax.core.validation.numbers import check_same_shape as check_same_shape
from pgjax.core.validation.numbers import check_scalar_or_sequence as check_scalar_or_sequence
from pgjax.core.validation.numbers import check_scalars as check_scalars
from pgjax.core.validation.numbers import check_sequence as check_sequence
from pgjax.core.validation.numbers import check_unit_interval as check_unit_interval
from pgjax.core.validation.parts import check_estimate as check_estimate
from pgjax.core.validation.parts import check_estimator as check_estimator
from pgjax.core.validation.parts import check_gradient as check_gradient
from pgjax.core.validation.parts import check_kind as check_kind
from pgjax.core.validation.parts import check_leaves as check_leaves
from pgjax.core.validation.parts import check_like as check_like
from pgjax.core.validation.parts import check_members as check_members
from pgjax.core.validation.parts import check_module as check_module
from pgjax.core.validation.parts import check_optimizer as check_optimizer
from pgjax.core.validation.parts import check_params as check_params
from pgjax.core.validation.parts import check_policy as check_policy
from pgjax.core.validation.parts import check_policy_without_memory as check_policy_without_memory
from pgjax.core.validation.traced import check_traced as check_traced
from pgjax.core.validation.traced import check_values as check_values
from pgjax.core.validation.traced import checked as checked
from pgjax.core.validation.traced import is_concrete as is_concrete
