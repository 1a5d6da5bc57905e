"""Training: one optax step, and one loop around it.

Pure functions of parameters and keys; a script or the command line decides what to print and keep.

What holds for all of them stands here. `environment` and `key` are as for `rollout`. `optimizer` is
from optax and descends as usual; pgjax negates the gradient for it. An optimizer that reads the
loss, such as `optax.contrib.reduce_on_plateau`, is given minus the batch's mean return, or minus a
minibatch's objective. One that searches along a line, such as `optax.lbfgs`, is refused with a
TypeError where every step has a new batch. They raise a ValueError if a count is below one, and a
TypeError if it is not an integer, or `environment` or `key` is of another kind.
"""

from pgjax.training.networks import default_network as default_network
from pgjax.training.networks import initial_params as initial_params
from pgjax.training.reinforce import Metrics as Metrics
from pgjax.training.reinforce import Training as Training
from pgjax.training.reinforce import advance as advance
from pgjax.training.reinforce import all_finite as all_finite
from pgjax.training.reinforce import ascend as ascend
from pgjax.training.reinforce import evaluate as evaluate
from pgjax.training.reinforce import policy_gradient as policy_gradient
from pgjax.training.reinforce import train as train
from pgjax.training.reinforce import update as update
