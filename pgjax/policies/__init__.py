"""Policies: a network's output, the distribution it stands for, and the two together as a Policy.

A network is a function (params, observation) -> output; a Distribution says how actions are drawn
from that output. Together they are a Policy, or, with a memory, a RecurrentPolicy. Every function
sees one observation; `vmap` adds the batch. Networks come as plain functions; `modules` adapts
Flax.

What holds for all of them stands here. `init` is (key, observation) -> params. Log-probabilities
and entropies are exact, to rounding, unless a docstring says otherwise. A policy's functions check
shapes and types when they are called. They raise a ValueError if an output, an action or a mask has
the wrong shape, and a TypeError if it has the wrong type.
"""

from pgjax.policies.distribution import Distribution as Distribution
from pgjax.policies.distribution import distribution_policy as distribution_policy
from pgjax.policies.gaussian import GAUSSIAN as GAUSSIAN
from pgjax.policies.gaussian import gaussian_policy as gaussian_policy
from pgjax.policies.greedy import greedy as greedy
from pgjax.policies.modules import flax_functions as flax_functions
from pgjax.policies.modules import flax_gaussian_policy as flax_gaussian_policy
from pgjax.policies.modules import flax_policy as flax_policy
from pgjax.policies.modules import flax_recurrent_policy as flax_recurrent_policy
from pgjax.policies.networks import MLP as MLP
from pgjax.policies.networks import ConvNet as ConvNet
from pgjax.policies.networks import GaussianMLP as GaussianMLP
from pgjax.policies.networks import RecurrentNetwork as RecurrentNetwork
from pgjax.policies.product import factored_policy as factored_policy
from pgjax.policies.product import multi_discrete as multi_discrete
from pgjax.policies.product import multi_discrete_policy as multi_discrete_policy
from pgjax.policies.product import product as product
from pgjax.policies.recurrent import as_recurrent as as_recurrent
from pgjax.policies.recurrent import recurrent_policy as recurrent_policy
from pgjax.policies.softmax import SOFTMAX as SOFTMAX
from pgjax.policies.softmax import softmax_policy as softmax_policy
from pgjax.policies.softmax import tabular_softmax as tabular_softmax
from pgjax.policies.squashed import squashed_gaussian as squashed_gaussian
from pgjax.policies.squashed import squashed_gaussian_policy as squashed_gaussian_policy
