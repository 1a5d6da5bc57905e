"""What `pgjax.beyond` offers, each name imported on first use."""

from .all_action import all_action_gradient as all_action_gradient
from .all_action import corrected_all_action_gradient as corrected_all_action_gradient
from .antithetic import Draws as Draws
from .antithetic import antithetic_rollout as antithetic_rollout
from .antithetic import inversion as inversion
from .antithetic import mirrored_normal as mirrored_normal
from .episodes import seeded_return as seeded_return
from .fisher import expected_fisher as expected_fisher
from .fisher import fisher as fisher
from .fisher import sampled_fisher as sampled_fisher
from .natural import compatible_weights as compatible_weights
from .natural import exact_natural_gradient as exact_natural_gradient
from .natural import natural_gradient as natural_gradient
from .natural import trust_region_scale as trust_region_scale
from .pairs import antithetic_moments as antithetic_moments
from .pairs import antithetic_pairs as antithetic_pairs
from .parameter_space import SearchDistribution as SearchDistribution
from .parameter_space import evolution_strategies as evolution_strategies
from .parameter_space import mirrored_contrast as mirrored_contrast
from .parameter_space import pgpe as pgpe
from .parameter_space import symmetric_contrasts as symmetric_contrasts
from .pathwise import differentiable as differentiable
from .pathwise import pathwise_gradient as pathwise_gradient
from .streams import sampled_trace_gradient as sampled_trace_gradient
from .traces import trace_gradient as trace_gradient
