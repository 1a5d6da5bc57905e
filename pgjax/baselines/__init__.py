"""Baselines to subtract from a return, as functions (batch, target [N, T]) -> [N, T].

`target` is the return that the baseline is subtracted from, such as the total return on every step
or the reward-to-go. A baseline is in units of return. It leaves the expectation unchanged if b_it
does not depend on a_it or on what follows it in trajectory i. Each docstring says under Bias
whether that holds.
"""

from pgjax.baselines.by_group import group_deviation as group_deviation
from pgjax.baselines.by_group import group_leave_one_out as group_leave_one_out
from pgjax.baselines.by_group import group_mean as group_mean
from pgjax.baselines.by_state import recorded_value as recorded_value
from pgjax.baselines.by_state import state_value as state_value
from pgjax.baselines.by_time import per_time_step as per_time_step
from pgjax.baselines.constants import constant as constant
from pgjax.baselines.from_batch import batch_mean as batch_mean
from pgjax.baselines.from_batch import leave_one_out as leave_one_out
from pgjax.baselines.groups import Groups as Groups
from pgjax.baselines.groups import consecutive as consecutive
from pgjax.baselines.groups import labelled as labelled
from pgjax.types import Baseline as Baseline
