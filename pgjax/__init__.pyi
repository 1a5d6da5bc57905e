"""The public page: every name that others may call."""

from . import baselines as baselines
from . import beyond as beyond
from . import control_variates as control_variates
from . import diagnostics as diagnostics
from . import enumeration as enumeration
from . import environments as environments
from . import estimators as estimators
from . import exact as exact
from . import policies as policies
from . import regularization as regularization
from . import rollouts as rollouts
from . import terms as terms
from . import training as training
from . import weights as weights
from .baselines import groups as groups
from .core.scores import log_probs as log_probs
from .core.validation import checked as checked
from .estimators import dr_grpo as dr_grpo
from .estimators import gradient as gradient
from .estimators import grpo as grpo
from .estimators import mismatched_reward_to_go as mismatched_reward_to_go
from .estimators import per_trajectory_gradients as per_trajectory_gradients
from .estimators import reinforce as reinforce
from .estimators import reward_to_go as reward_to_go
from .estimators import rloo as rloo
from .estimators import surrogate as surrogate
from .exact import tabular as tabular
from .exact.tabular import TabularMDP as TabularMDP
from .policies import MLP as MLP
from .policies import ConvNet as ConvNet
from .policies import GaussianMLP as GaussianMLP
from .policies import critics as critics
from .policies import factored_policy as factored_policy
from .policies import flax_gaussian_policy as flax_gaussian_policy
from .policies import flax_policy as flax_policy
from .policies import flax_recurrent_policy as flax_recurrent_policy
from .policies import gaussian_policy as gaussian_policy
from .policies import multi_discrete_policy as multi_discrete_policy
from .policies import recurrent_policy as recurrent_policy
from .policies import softmax_policy as softmax_policy
from .policies import squashed_gaussian_policy as squashed_gaussian_policy
from .policies import tabular_softmax as tabular_softmax
from .proof import certificate as certificate
from .proof import registry as registry
from .proof.certificate import Certificate as Certificate
from .proof.certificate import certify as certify
from .proof.unbiased import assert_unbiased as assert_unbiased
from .returns import discounted_returns as discounted_returns
from .returns import generalized_advantages as generalized_advantages
from .returns import lambda_returns as lambda_returns
from .returns import n_step_returns as n_step_returns
from .returns import td_errors as td_errors
from .rollouts import rollout as rollout
from .rollouts import sampled_gradient as sampled_gradient
from .rollouts import sampled_moments as sampled_moments
from .rollouts import windows as windows
from .training import actor_critic as actor_critic
from .training.runs import checkpoints as checkpoints
from .types import Estimator as Estimator
from .types import MaskedObservation as MaskedObservation
from .types import Moments as Moments
from .types import Policy as Policy
from .types import RecurrentPolicy as RecurrentPolicy
from .types import Spread as Spread
from .types import Trajectory as Trajectory
from .weights import off_policy as off_policy

__version__: str

# Names of version 0.1 for modules that are called otherwise today.
from .environments import tables as bridge
from .policies import actor_critic as agents
from .proof import problems as suite
from .proof import statistics as sampling

__all__ = ["agents", "bridge", "sampling", "suite"]
