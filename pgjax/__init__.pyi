"""The public page: every name that others may call."""

from . import baselines as baselines
from . import bridge as bridge
from . import certificate as certificate
from . import diagnostics as diagnostics
from . import enumeration as enumeration
from . import exact as exact
from . import registry as registry
from . import rollouts as rollouts
from . import sampling as sampling
from . import suite as suite
from . import tabular as tabular
from . import terms as terms
from . import training as training
from . import weights as weights
from .certificate import Certificate as Certificate
from .certificate import certify as certify
from .estimators import gradient as gradient
from .estimators import mismatched_reward_to_go as mismatched_reward_to_go
from .estimators import per_trajectory_gradients as per_trajectory_gradients
from .estimators import reinforce as reinforce
from .estimators import reward_to_go as reward_to_go
from .estimators import rloo as rloo
from .estimators import surrogate as surrogate
from .policies import MLP as MLP
from .policies import ConvNet as ConvNet
from .policies import flax_policy as flax_policy
from .policies import softmax_policy as softmax_policy
from .policies import tabular_softmax as tabular_softmax
from .pullback import log_probs as log_probs
from .returns import discounted_returns as discounted_returns
from .returns import generalized_advantages as generalized_advantages
from .returns import lambda_returns as lambda_returns
from .returns import td_errors as td_errors
from .rollouts import rollout as rollout
from .streaming import sampled_gradient as sampled_gradient
from .streaming import sampled_moments as sampled_moments
from .tabular import TabularMDP as TabularMDP
from .types import Estimator as Estimator
from .types import Moments as Moments
from .types import Policy as Policy
from .types import Spread as Spread
from .types import Trajectory as Trajectory
from .unbiased import assert_unbiased as assert_unbiased
from .validation import checked as checked

__version__: str
