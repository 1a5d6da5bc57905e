"""Rollouts: batches of episodes or windows from environments, and gradients without a batch.

What holds for all functions stands here. `environment` is an Environment, a TabularMDP, or a gymnax
environment with its default parameters. N is the number of trajectories or streams, and T the
number of steps. `key` is from `jax.random.key`, or a raw uint32 key. All draws are threefry's: a
key of another implementation, such as "rbg", is first turned into a threefry key, because rbg's
draws depend on how a batch is split. Everything that is sampled is a constant under
differentiation. A program is compiled once for each policy, environment and pair of sizes;
parameters may change. All raise a TypeError if `environment` or `key` is of another kind, or the
policy's actions do not fit the environment's; and a ValueError if a size is below one.
"""

from pgjax.rollouts import windows as windows
from pgjax.rollouts.episodes import rollout as rollout
from pgjax.rollouts.gradients import sampled_gradient as sampled_gradient
from pgjax.rollouts.gradients import sampled_moments as sampled_moments
