"""Tables: gymnax's small environments as exact tabular MDPs.

The tables are not written by hand. An environment's own `step_env` is run on every reachable state
with every action. Only the environment's law is added, a few lines that list what it draws and how
probable each outcome is. So exact and sampled gradients of the same policy can be compared on the
environment itself.
"""

from pgjax.environments.tables.from_gymnax import tabular_mdp as tabular_mdp
from pgjax.environments.tables.from_gymnax import timeless_mdp as timeless_mdp
from pgjax.environments.tables.laws import BRIDGED as BRIDGED
from pgjax.environments.tables.laws import make as make
