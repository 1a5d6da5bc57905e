"""Rollouts: environments into batches of episodes or windows, and into gradients."""

from pgjax.rollouts import windows as windows
from pgjax.rollouts.episodes import rollout as rollout
from pgjax.rollouts.gradients import sampled_gradient as sampled_gradient
from pgjax.rollouts.gradients import sampled_moments as sampled_moments
