"""Beyond the factoring: gradients that are not weights × term, or that are computed differently.

docs/beyond.md says of each how it relates to the factoring, or why it lies outside.

The arguments mean the same everywhere:

- params: a pytree of floating arrays; gradients are pytrees like it, to ascend.
- batch: [N, T], of the policy.
- environment: as for `pgjax.rollout`. key: from `jax.random.key`, or a raw uint32 key.
- discount: γ in [0, 1].
- num_trajectories, num_steps, num_pairs: N, T and K, each at least one.

A ValueError is raised if a rate or a count is outside its range. A TypeError is raised if a
parameter is not floating. Functions that roll out also raise a TypeError if `environment` is no
environment, if actions do not fit it, or if the policy has a memory.
"""

from pgjax.beyond.all_action import all_action_gradient as all_action_gradient
from pgjax.beyond.all_action import corrected_all_action_gradient as corrected_all_action_gradient
from pgjax.beyond.antithetic import Draws as Draws
from pgjax.beyond.antithetic import antithetic_rollout as antithetic_rollout
from pgjax.beyond.antithetic import inversion as inversion
from pgjax.beyond.antithetic import mirrored_normal as mirrored_normal
from pgjax.beyond.fisher import expected_fisher as expected_fisher
from pgjax.beyond.fisher import fisher as fisher
from pgjax.beyond.fisher import sampled_fisher as sampled_fisher
from pgjax.beyond.natural import compatible_weights as compatible_weights
from pgjax.beyond.natural import exact_natural_gradient as exact_natural_gradient
from pgjax.beyond.natural import natural_gradient as natural_gradient
from pgjax.beyond.natural import trust_region_scale as trust_region_scale
from pgjax.beyond.pairs import antithetic_moments as antithetic_moments
from pgjax.beyond.pairs import antithetic_pairs as antithetic_pairs
from pgjax.beyond.parameter_space import SearchDistribution as SearchDistribution
from pgjax.beyond.parameter_space import evolution_strategies as evolution_strategies
from pgjax.beyond.parameter_space import mirrored_contrast as mirrored_contrast
from pgjax.beyond.parameter_space import pgpe as pgpe
from pgjax.beyond.parameter_space import symmetric_contrasts as symmetric_contrasts
from pgjax.beyond.pathwise import differentiable as differentiable
from pgjax.beyond.pathwise import pathwise_gradient as pathwise_gradient
from pgjax.beyond.streams import sampled_trace_gradient as sampled_trace_gradient
from pgjax.beyond.traces import trace_gradient as trace_gradient
from pgjax.rollouts.fold import seeded_return as seeded_return
