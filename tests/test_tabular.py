"""Finite MDPs: what the named ones are, how they are saved, and what trees of them are."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest

import pgjax
from pgjax import Problem, TabularMDP, exact, tabular

pytestmark = pytest.mark.usefixtures("strict")
SAME_LOGITS = pgjax.softmax_policy(lambda key, s: 0, lambda params, s: params)


def assert_sound(mdp: TabularMDP) -> None:
    assert mdp.transition.shape == mdp.reward.shape
    assert mdp.transition.shape == (mdp.num_states, mdp.num_actions, mdp.num_states)
    assert mdp.transition.dtype == mdp.reward.dtype == mdp.initial.dtype == np.float64
    assert np.all(mdp.transition >= 0)
    np.testing.assert_allclose(mdp.transition.sum(-1), 1, rtol=0, atol=1e-15)
    np.testing.assert_allclose(mdp.initial.sum(), 1, rtol=0, atol=1e-15)
    np.testing.assert_array_equal(mdp.initial[mdp.terminal], 0)
    assert np.any(mdp.terminal)


@pytest.mark.parametrize("name", tabular.NAMED)
def test_named_mdps_are_sound_and_their_objectives_finite(name: str) -> None:
    mdp = tabular.NAMED[name].make()
    assert_sound(mdp)
    uniform = np.zeros(mdp.num_actions)
    for horizon in (tabular.NAMED[name].horizon, None):
        assert np.isfinite(exact.objective(Problem(mdp, SAME_LOGITS, uniform, horizon)))


@hypothesis.given(
    seed=st.integers(0, 2**31),
    sizes=st.tuples(st.integers(2, 8), st.integers(1, 4), st.integers(1, 8)),
)
@hypothesis.settings(deadline=None, max_examples=50)
def test_random_mdps_are_sound_sparse_and_end_from_everywhere(
    seed: int, sizes: tuple[int, int, int]
) -> None:
    S, A, successors = sizes[0], sizes[1], min(sizes[2], sizes[0])
    mdp = tabular.random_mdp(seed, S, A, successors)
    assert_sound(mdp)
    assert np.all(np.sum(mdp.transition[:-1] > 0, axis=-1) <= successors)
    edge = np.any(mdp.transition > 0, axis=1)
    reach = np.linalg.matrix_power((edge | np.eye(S, dtype=bool)).astype(float), S) > 0
    assert np.all(reach[:, -1]), "every state leads to the terminal one"
    again = tabular.random_mdp(seed, S, A, successors)
    np.testing.assert_array_equal(mdp.transition, again.transition)


def test_random_mdp_is_asymmetric_in_every_way_that_hides_mistakes() -> None:
    mdp = tabular.random_mdp()
    assert mdp.discount < 1
    assert len(np.unique(np.round(mdp.initial[:-1], 3))) == 3
    assert np.any((mdp.transition > 0) & (mdp.transition < 1))
    into_the_end = mdp.reward[:-1, :, -1][mdp.transition[:-1, :, -1] > 0]
    assert np.all(np.abs(into_the_end) > 1e-3)


def test_rows_are_normalised_to_one_exactly_as_given_within_rounding() -> None:
    third = np.float32(1) / 3
    mdp = TabularMDP(
        np.full((3, 1, 3), third), np.zeros((3, 1, 3)), np.full(3, third), [False] * 3, 0.5
    )
    np.testing.assert_allclose(mdp.transition.sum(-1), 1, rtol=0, atol=1e-15)
    np.testing.assert_allclose(mdp.initial.sum(), 1, rtol=0, atol=1e-15)


def test_observations_are_one_hot_by_default_and_may_be_aliased() -> None:
    np.testing.assert_array_equal(tabular.chain().observation, np.eye(7))
    np.testing.assert_array_equal(tabular.short_corridor().observation, np.ones((4, 1)))


def test_chain_and_gridworld_slip_as_they_say() -> None:
    mdp = tabular.chain(length=3, slip=0.25)
    np.testing.assert_array_equal(mdp.transition[2, 1], [0, 0.25, 0, 0.75, 0])
    assert mdp.reward[1, 0, 0] == 0.2
    assert mdp.reward[3, 1, 4] == 1
    grid = tabular.gridworld(2, 2, slip=0.0)
    np.testing.assert_array_equal(np.argmax(grid.transition[0], axis=-1), [0, 1, 2, 0])
    np.testing.assert_array_equal(grid.reward, np.broadcast_to([-0.04, -0.04, -0.04, 1], (4, 4, 4)))
    np.testing.assert_array_equal(grid.initial, [1 / 3, 1 / 3, 1 / 3, 0])
    slippery = tabular.gridworld(2, 2, slip=0.4)
    np.testing.assert_allclose(slippery.transition[0, 1], [0.2, 0.7, 0.1, 0], rtol=1e-14)


@pytest.mark.parametrize("shape", [(2, 2, 3), (3, 2, 2), (2, 2)])
def test_a_transition_that_is_not_of_states_actions_and_states_is_refused(shape: tuple) -> None:
    mdp = tabular.random_mdp(num_states=2)
    with pytest.raises(ValueError, match=r"transition must have shape \[S, A, S\], got"):
        replace(mdp, transition=np.full(shape, 1 / shape[-1]))


@pytest.mark.parametrize("name", ["transition", "reward", "initial", "terminal", "discount"])
def test_an_array_that_is_missing_from_a_file_is_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / "mdp.npz"
    tabular.save(tabular.random_mdp(), path)
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files if key != name}
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=f"missing: {name}; unknown: none"):
        tabular.load(path)


@pytest.mark.parametrize("name", tabular.NAMED)
def test_saving_and_loading_changes_nothing(name: str, tmp_path: Path) -> None:
    mdp = tabular.NAMED[name].make()
    tabular.save(mdp, tmp_path / "mdp.npz")
    found = tabular.load(tmp_path / "mdp.npz")
    for one, other in zip(jax.tree.leaves(mdp), jax.tree.leaves(found), strict=True):
        np.testing.assert_array_equal(one, other)
    assert isinstance(found.discount, float)


def test_loading_says_what_is_wrong_with_the_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        tabular.load(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("not arrays", encoding="utf-8")
    with pytest.raises(ValueError, match=r"text.npz is not a .npz file"):
        tabular.load(tmp_path / "text.npz")
    np.savez(tmp_path / "part.npz", transition=np.ones((1, 1, 1)), rewards=np.ones(1))
    with pytest.raises(ValueError, match=r"missing: reward, initial.*unknown: rewards"):
        tabular.load(tmp_path / "part.npz")
    names = ("transition", "reward", "initial", "terminal")
    arrays: dict[str, Any] = {name: np.asarray(getattr(tabular.chain(), name)) for name in names}
    np.savez(tmp_path / "wide.npz", **arrays, discount=np.ones(2))
    with pytest.raises(ValueError, match=r"discount must be a scalar, got shape \(2,\)"):
        tabular.load(tmp_path / "wide.npz")
    arrays["initial"] = np.ones(7)
    np.savez(tmp_path / "bad.npz", **arrays, discount=0.5)
    with pytest.raises(ValueError, match="initial must"):
        tabular.load(tmp_path / "bad.npz")


def test_an_mdp_is_a_tree_that_jit_and_map_carry() -> None:
    mdp = tabular.random_mdp()
    doubled = jax.jit(lambda mdp: replace(mdp, reward=2 * mdp.reward))(mdp)
    np.testing.assert_array_equal(doubled.reward, 2 * mdp.reward)
    same = jax.device_put(mdp)
    # Rebuilding normalises the rows once more, which may move a last bit.
    np.testing.assert_allclose(same.transition, mdp.transition, rtol=1e-15)
    assert jax.tree.structure(mdp) == jax.tree.structure(same)
