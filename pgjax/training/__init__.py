"""Training: one optax step, and one loop around it.

Pure functions of parameters and keys; a script or the command line decides what to print and keep.
"""

from pgjax.training.networks import default_network as default_network
from pgjax.training.networks import initial_params as initial_params
from pgjax.training.reinforce import Metrics as Metrics
from pgjax.training.reinforce import Training as Training
from pgjax.training.reinforce import advance as advance
from pgjax.training.reinforce import all_finite as all_finite
from pgjax.training.reinforce import climb as climb
from pgjax.training.reinforce import evaluate as evaluate
from pgjax.training.reinforce import policy_gradient as policy_gradient
from pgjax.training.reinforce import train as train
from pgjax.training.reinforce import update as update
