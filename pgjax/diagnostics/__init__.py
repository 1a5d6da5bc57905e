"""Diagnostics: the error of an estimate, and how reliable it is.

All functions take arrays and pytrees, and no policy or estimator. Samples are pytrees of [N, ...],
such as those of `per_trajectory_gradients`. A stream of batches is merged into one RunningMoments
of fixed size.
"""

from pgjax.diagnostics.from_exact import estimates_needed as estimates_needed
from pgjax.diagnostics.from_exact import exact_noise_scale as exact_noise_scale
from pgjax.diagnostics.from_exact import exact_signal_to_noise as exact_signal_to_noise
from pgjax.diagnostics.from_exact import mean_squared_error as mean_squared_error
from pgjax.diagnostics.geometry import cosine as cosine
from pgjax.diagnostics.geometry import dot as dot
from pgjax.diagnostics.geometry import norm as norm
from pgjax.diagnostics.importance import effective_sample_size as effective_sample_size
from pgjax.diagnostics.intervals import Interval as Interval
from pgjax.diagnostics.intervals import cosine_between_interval as cosine_between_interval
from pgjax.diagnostics.intervals import cosine_interval as cosine_interval
from pgjax.diagnostics.intervals import jackknife as jackknife
from pgjax.diagnostics.intervals import noise_scale_interval as noise_scale_interval
from pgjax.diagnostics.intervals import signal_to_noise_interval as signal_to_noise_interval
from pgjax.diagnostics.moments import RunningMoments as RunningMoments
from pgjax.diagnostics.moments import bias as bias
from pgjax.diagnostics.moments import cosine_of_means as cosine_of_means
from pgjax.diagnostics.moments import covariance as covariance
from pgjax.diagnostics.moments import merge as merge
from pgjax.diagnostics.moments import merge_all as merge_all
from pgjax.diagnostics.moments import noise_scale as noise_scale
from pgjax.diagnostics.moments import running_moments as running_moments
from pgjax.diagnostics.moments import signal_to_noise as signal_to_noise
from pgjax.diagnostics.moments import squared_signal as squared_signal
from pgjax.diagnostics.moments import standard_error as standard_error
from pgjax.diagnostics.moments import total_variance as total_variance
from pgjax.diagnostics.moments import variance as variance
