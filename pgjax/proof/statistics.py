"""Tests by sampling of a mean, of independence within a batch, and of the law of trajectories."""

from pgjax.proof.independence import IndependenceTest as IndependenceTest
from pgjax.proof.independence import independence_test as independence_test
from pgjax.proof.sequential_test import NUM_DIRECTIONS as NUM_DIRECTIONS
from pgjax.proof.sequential_test import InconclusiveError as InconclusiveError
from pgjax.proof.sequential_test import MeanTest as MeanTest
from pgjax.proof.sequential_test import mean_test as mean_test
from pgjax.proof.trajectory_law import LawTest as LawTest
from pgjax.proof.trajectory_law import law_test as law_test
from pgjax.proof.trajectory_law import wrong_fields as wrong_fields
from pgjax.proof.trajectory_law import wrong_final_observation as wrong_final_observation
