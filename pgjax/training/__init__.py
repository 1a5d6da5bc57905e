"""Training: algorithms as records, one optax step, and the loops around them.

The functions are pure, of parameters and keys; a script or the command line prints and saves.

The following holds for all of them. `environment` and `key` are as for `rollout`. `optimizer` is
from optax and descends as usual; pgjax negates the gradient for it. An optimizer that reads the
loss, such as `optax.contrib.reduce_on_plateau`, is given minus the batch's mean return, or minus a
minibatch's objective. One that searches along a line, such as `optax.lbfgs`, is refused with a
TypeError where every step has a new batch. All functions raise a ValueError if a count is below
one, and a TypeError if it is not an integer, or `environment` or `key` is of another kind.
"""

from pgjax.settings import A2CSettings as A2CSettings
from pgjax.settings import PPOSettings as PPOSettings
from pgjax.settings import ReinforceSettings as ReinforceSettings
from pgjax.settings import RunOptions as RunOptions
from pgjax.settings import tuned as tuned
from pgjax.training.algorithm import Algorithm as Algorithm
from pgjax.training.algorithm import Metrics as Metrics
from pgjax.training.algorithm import Training as Training
from pgjax.training.algorithm import advance as advance
from pgjax.training.algorithm import all_finite as all_finite
from pgjax.training.algorithm import begin as begin
from pgjax.training.algorithm import run as run
from pgjax.training.algorithms import a2c as a2c
from pgjax.training.algorithms import ppo as ppo
from pgjax.training.algorithms import reinforce as reinforce
from pgjax.training.ascent import ascend as ascend
from pgjax.training.ascent import update as update
from pgjax.training.evaluation import evaluate as evaluate
from pgjax.training.natural import natural_policy_gradient as natural_policy_gradient
from pgjax.training.natural import trpo as trpo
from pgjax.training.networks import default_network as default_network
from pgjax.training.networks import initial_params as initial_params
from pgjax.training.on_episodes import policy_gradient as policy_gradient
from pgjax.training.on_episodes import train as train
from pgjax.training.runs.loop import RunFailedError as RunFailedError
from pgjax.training.runs.seeds import start_seeds as start_seeds
from pgjax.training.runs.starting import resume as resume
from pgjax.training.runs.starting import start as start
from pgjax.training.spreading import over_devices as over_devices
