"""rlax's formulas, scored exactly: complete they are unbiased, as they are they are not."""

from importlib.util import find_spec

import pytest

from benchmarks import other_formulas
from pgjax import suite


@pytest.mark.skipif(find_spec("rlax") is None, reason="only in benchmarks/requirements.txt")
@pytest.mark.parametrize("name", other_formulas.NAMES)
def test_rlax_is_unbiased_only_with_the_sum_over_time_and_the_discount_put_back(name):
    problem = next(problem for problem in suite.problems() if problem.name == name)
    for score in other_formulas.score(problem):
        if score.formula.endswith("× T γ^t"):
            assert score.bias < 1e-10, score
        else:
            assert score.bias > 0.1, score
            assert score.shape_error > 1e-4, score
