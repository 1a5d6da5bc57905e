"""Strict numerics and checked annotations, for the test modules that ask for them.

A module asks with `pytestmark = pytest.mark.usefixtures("strict")`. gymnax runs under neither
strict promotion nor, everywhere, x64; modules that roll out ask for `checked_annotations` only.
"""

import atexit
import gc
import os
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Nearly all the time of these tests is compilation, of programs that run once. Without the
# optimiser, and each program in one piece, it takes half as long; what they compute is the same.
# From 0.11 on there is no switch for fusion emitters, and a flag unknown to XLA ends the process.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
    + " --xla_cpu_use_fusion_emitters=false" * version("jaxlib").startswith("0.10."),
)
# The laws of several devices need some; all else runs on the first.
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
# The matrices are small: threads of a product would wait for each other longer than they compute,
# thirty times as long where another worker keeps the cores busy.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# A second run finds the programs of the first one. JAX's key holds versions and flags.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

# JAX would cut its own frames out of the traceback of every error, which takes longer than the
# refusal of an argument itself. There are a thousand refusals here.
os.environ.setdefault("JAX_TRACEBACK_FILTERING", "off")

# JAX is imported where it is used: the process that hands out the tests has no need of it.
import numpy as np
import pytest
from jaxtyping import config, install_import_hook

gc.disable()  # until all tests are collected: what is imported lives on

# Left out are the modules whose dataclasses JAX rebuilds around tracers and placeholders, which no
# annotation of theirs allows for: types, tabular and rollouts.
ANNOTATED = [
    *("returns", "baselines", "weights", "terms", "estimators", "policies"),
    *("exact.dynamics", "exact.values", "exact.derivatives", "exact.recursion", "exact.moments"),
    *("enumeration", "diagnostics", "regularization", "exact.regularized", "control_variates"),
]
config.update("jaxtyping_disable", True)

CHECKED: dict[tuple, Callable[..., Any]] = {}
"""What `check` has made."""


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """`beartype`, once for each function of the source.

    jaxtyping hands over functions that hold annotations alone. A function within a function is made
    anew at each call of the outer one, and beartype would take a millisecond each time.
    """
    from beartype import beartype

    names, annotations = function.__code__.co_varnames, function.__annotations__
    key = function.__module__, function.__qualname__, names, *annotations.items()
    if key not in CHECKED:
        CHECKED[key] = beartype(function)
    return CHECKED[key]


install_import_hook([f"pgjax.{name}" for name in ANNOTATED], f"{__name__}.{check.__name__}")

if TYPE_CHECKING:
    from pgjax.proof.certificate import Certificate


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test runs, and is prepared, with room for Python's frames."""
    from tests.frames import with_room

    for item in items:
        item.setup = partial(with_room, item.setup)
        item.runtest = partial(with_room, item.runtest)


def pytest_collection_finish() -> None:
    """What the tests share is set up before the first of them."""
    from tests import lowering

    lowering.share()
    # Tracing makes many small objects that live on: looking for garbage takes a tenth of it.
    gc.freeze()
    gc.set_threshold(200_000, 50, 50)
    gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """At its end pytest looks for garbage five times, among all that JAX has cached."""
    gc.freeze()
    if hasattr(session.config, "workerinput"):
        # A worker that has reported ends at once: to take its programs apart would take seconds.
        atexit.register(os._exit, 0)


@pytest.fixture(scope="module")
def checked_annotations() -> Iterator[None]:
    """jaxtyping and beartype hold every call to its annotations."""
    config.update("jaxtyping_disable", False)
    yield
    config.update("jaxtyping_disable", True)


@pytest.fixture(scope="module")
def strict_numerics() -> Iterator[None]:
    """x64; no implicit promotion of ranks or dtypes."""
    import jax

    with (
        jax.enable_x64(True),
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
    ):
        yield


@pytest.fixture(scope="module")
def strict(strict_numerics: None, checked_annotations: None) -> None:
    """Both; bad input is tested without, because the annotations would speak first."""


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> "list[Certificate]":
    """`certify()`, computed once for all the workers."""
    from tests import shared

    return shared.certificates(shared.folder(tmp_path_factory))


@pytest.fixture(scope="module")
def table() -> np.ndarray:
    """[4, 2] logits of a policy that is uniform nowhere, for `tabular.random_mdp()`."""
    return np.array([[0.3, -0.4], [-0.8, 0.1], [0.5, 0.9], [0.2, -0.6]])
