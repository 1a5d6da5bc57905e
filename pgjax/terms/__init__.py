"""Terms: functions of one trajectory, by which the log-probability enters an estimate.

A term is (log_prob [T], behaviour_log_prob [T], weight [T], mask [T]) -> [T]. The gradient of its
sum over the steps is the trajectory's share of the estimate. So a term is chosen for its gradient;
its value is a surrogate, and means nothing by itself. Where the mask is false, log-probabilities
and weights are zero, and the term's result is not read. Without a mask, all steps count in the
terms here.

In every docstring, ρ_t = π(a_t|s_t)/μ(a_t|s_t) is the ratio of one step, μ the policy that acted,
w_t the weight, and sg stops the gradient.
"""

from pgjax.terms.clips import asymmetric_clip as asymmetric_clip
from pgjax.terms.clips import dual_clip as dual_clip
from pgjax.terms.clips import ppo_clip as ppo_clip
from pgjax.terms.clips import truncated_ratio as truncated_ratio
from pgjax.terms.dice import dice as dice
from pgjax.terms.dice import loaded_dice as loaded_dice
from pgjax.terms.divergences import divergence_mask as divergence_mask
from pgjax.terms.divergences import kl_mask as kl_mask
from pgjax.terms.ratios import importance_ratio as importance_ratio
from pgjax.terms.ratios import likelihood_ratio as likelihood_ratio
from pgjax.terms.score_function import score as score
from pgjax.terms.sequences import gamma_gate as gamma_gate
from pgjax.terms.sequences import geometric_clip as geometric_clip
from pgjax.terms.sequences import prefix_ratio as prefix_ratio
from pgjax.terms.sequences import sequence_clip as sequence_clip
from pgjax.terms.sequences import sequence_clip_by_token as sequence_clip_by_token
from pgjax.terms.sequences import sequence_ratio as sequence_ratio
from pgjax.terms.sequences import sigmoid_gate as sigmoid_gate
from pgjax.types import Term as Term
