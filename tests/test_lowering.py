"""Programs that share what JAX wrote for others are the same programs."""

from collections.abc import Callable
from functools import partial
from inspect import unwrap
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import pgjax
from pgjax import Trajectory
from pgjax.environments import from_tabular
from tests import lowering

pytestmark = pytest.mark.skipif(not lowering.KNOWN, reason="with this JAX nothing is shared")
MDP = pgjax.tabular.random_mdp()
ENVIRONMENT = from_tabular.adapt(MDP)
POLICY = pgjax.tabular_softmax(4, 2)


def mesh(kind: AxisType) -> jax.sharding.Mesh:
    return jax.make_mesh((1,), ("n",), axis_types=(kind,))


def rolled(table: jax.Array, **settings: Any) -> Trajectory:
    key, sizes = jax.random.key(0), {"num_trajectories": 3, "num_steps": 5}
    return pgjax.rollout(POLICY, table, ENVIRONMENT, key, **sizes, **settings)


def gradient(table: jax.Array) -> jax.Array:
    estimator = pgjax.reward_to_go(MDP.discount, baseline=pgjax.baselines.leave_one_out)
    return pgjax.gradient(estimator, POLICY, table, rolled(table))


def on_a_mesh(table: jax.Array) -> Trajectory:
    return rolled(table, mesh=mesh(AxisType.Auto))


def on_an_explicit_mesh(table: jax.Array) -> jax.Array:
    spread = NamedSharding(mesh(AxisType.Explicit), P("n"))
    return jnp.sum(2 * jax.reshard(table, spread), axis=1)


def one_row(row: int, table: jax.Array) -> jax.Array:
    """Programs of two rows differ by a parameter of one equation."""
    return jax.lax.slice_in_dim(table, row, row + 1)


def written(program: Callable) -> str:
    return jax.jit(lambda table: program(table)).lower(np.zeros((4, 2))).as_text()


def differing(programs: list[Callable], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Those that are written otherwise where they share than alone, or than a second time."""
    from jax._src import api_util
    from jax._src.interpreters import mlir

    for owner, name in (
        (mlir.ModuleContext, "__init__"),
        (mlir, "source_info_to_location"),
        (api_util, "_non_static_arg_names"),
    ):
        monkeypatch.setattr(owner, name, unwrap(getattr(owner, name)))
    alone = [written(program) for program in programs]
    lowering.share()
    shared = [[written(program) for program in programs] for _ in range(2)]
    return [i for i, text in enumerate(alone) if {text} != {each[i] for each in shared}]


def test_programs_that_share_are_those_that_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [partial(one_row, row) for row in range(2)]
    programs = [gradient, on_a_mesh, on_an_explicit_mesh, *rows]
    assert differing(programs, monkeypatch) == []


def test_an_equation_that_is_taken_for_another_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(self: lowering.Written, key: Any, default: Any = None) -> Any:
        alike = [each for each in self.shared if each.primitive is key.primitive]
        return self.shared[alike[0]] if alike else default

    monkeypatch.setattr(lowering.Written, "get", blind)
    assert differing([partial(one_row, row) for row in range(2)], monkeypatch) == [1]
