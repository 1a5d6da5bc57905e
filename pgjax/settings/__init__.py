"""Settings of training: their classes, and a table of settings tuned for some environments.

No module here imports JAX, so that the command line's help answers at once.
"""

from pgjax.settings.algorithms import BASELINES as BASELINES
from pgjax.settings.algorithms import CHOICE as CHOICE
from pgjax.settings.algorithms import COUNT as COUNT
from pgjax.settings.algorithms import MAX_DEFAULT_STEPS as MAX_DEFAULT_STEPS
from pgjax.settings.algorithms import NONNEGATIVE as NONNEGATIVE
from pgjax.settings.algorithms import OPEN_RATE as OPEN_RATE
from pgjax.settings.algorithms import POSITIVE as POSITIVE
from pgjax.settings.algorithms import RATE as RATE
from pgjax.settings.algorithms import SETTINGS as SETTINGS
from pgjax.settings.algorithms import STANDARDIZED as STANDARDIZED
from pgjax.settings.algorithms import A2CSettings as A2CSettings
from pgjax.settings.algorithms import PPOSettings as PPOSettings
from pgjax.settings.algorithms import ReinforceSettings as ReinforceSettings
from pgjax.settings.algorithms import Settings as Settings
from pgjax.settings.algorithms import option_name as option_name
from pgjax.settings.algorithms import options as options
from pgjax.settings.algorithms import setting as setting
from pgjax.settings.runs import RunOptions as RunOptions
from pgjax.settings.tuned_table import tuned as tuned
