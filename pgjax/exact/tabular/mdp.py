"""TabularMDP: a finite Markov decision process as arrays."""

import struct
import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Shaped

from pgjax.core.validation import check_kind, check_rate, check_real, is_concrete
from pgjax.types import describe

_FIELDS = ("transition", "reward", "initial", "terminal", "discount", "observation")


@dataclass(frozen=True, eq=False)
class TabularMDP:
    """A finite MDP, held in float64 NumPy arrays so that exact mathematics stays exact.

    Entering a terminal state pays its reward and ends the episode; the terminal state's own rows
    play no part. Arguments are checked, and rows of `transition` are normalised to sum to one.

    Attributes:
        transition: [S, A, S] P(s'|s,a).
        reward: [S, A, S] r(s,a,s').
        initial: [S] distribution of the first state; zero on terminal states.
        terminal: [S] boolean.
        discount: γ in [0, 1].
        observation: [S, ...] what a policy sees; one-hot by default. Two states may look alike.

    Raises:
        TypeError: if a field is not an array of numbers.
        ValueError: if a shape is wrong; if a row is not a distribution (the error names its state
            and action); if the discount is outside [0, 1]; if an episode starts in a terminal
            state; if a reward is not finite.

    Example:
        >>> mdp = TabularMDP([[[1.0]]], [[[2.0]]], [1.0], [False], discount=0.5)
        >>> mdp.observation
        array([[1.]])
    """

    transition: Float[Any, "S A S"]
    reward: Float[Any, "S A S"]
    initial: Float[Any, "S"]
    terminal: Bool[Any, "S"]
    discount: float
    observation: Shaped[Any, "S ..."] = None

    def __post_init__(self) -> None:
        if not is_concrete(tuple(getattr(self, name) for name in _FIELDS)):
            return  # built inside a traced function, where no value can be read
        for name, value in _validated(self).items():
            object.__setattr__(self, name, value)

    def replace(self, **fields: Any) -> "TabularMDP":
        """A copy with other fields, validated again."""
        return replace(self, **fields)

    @property
    def num_states(self) -> int:
        """The number of states S, terminal states included."""
        return self.transition.shape[0]

    @property
    def num_actions(self) -> int:
        """The number of actions A."""
        return self.transition.shape[1]


def _flatten(mdp: TabularMDP) -> tuple[tuple[Any, ...], None]:
    return tuple(getattr(mdp, name) for name in _FIELDS), None


def _unflatten(_: None, leaves: Any) -> TabularMDP:
    """Without validation: tree transformations rebuild it around tracers and placeholders."""
    mdp = object.__new__(TabularMDP)
    for name, leaf in zip(_FIELDS, leaves, strict=True):
        object.__setattr__(mdp, name, leaf)
    return mdp


jax.tree_util.register_pytree_node(TabularMDP, _flatten, _unflatten)


def save(mdp: TabularMDP, path: str | Path) -> None:
    """Write an MDP to a .npz file, with one array for each field.

    Raises:
        TypeError: if `mdp` is not a TabularMDP, or `path` is not a path.
    """
    if not isinstance(mdp, TabularMDP):
        raise TypeError(f"mdp must be a TabularMDP, got {describe(mdp)}; the path comes second")
    check_kind("path", path, (str, Path), "the file to write")
    arrays: dict[str, Any] = {name: np.asarray(getattr(mdp, name)) for name in _FIELDS}
    np.savez(path, **arrays)


DAMAGED = (zipfile.BadZipFile, zlib.error, KeyError, struct.error, NotImplementedError)
"""The errors that a cut or altered archive raises."""


def load(path: str | Path) -> TabularMDP:
    """A TabularMDP, read from a .npz file with its arrays; `observation` may be missing.

    Raises:
        ValueError: if an array is missing, unknown or invalid, or the file is incomplete.
        FileNotFoundError: if there is no such file.
    """
    check_kind("path", path, (str, Path), "the file to read")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, AttributeError, TypeError, EOFError, *DAMAGED) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{path} is not a .npz file of arrays: {error}") from error
    missing = [name for name in _FIELDS[:-1] if name not in arrays]
    unknown = sorted(set(arrays) - set(_FIELDS))
    if missing or unknown:
        raise ValueError(
            f"{path} must hold the arrays {', '.join(_FIELDS)} (observation optional); "
            f"missing: {', '.join(missing) or 'none'}; unknown: {', '.join(unknown) or 'none'}"
        )
    if arrays["discount"].size != 1:
        shape = arrays["discount"].shape
        raise ValueError(f"{path}: discount must be a scalar, got shape {shape}")
    try:
        return TabularMDP(**{**arrays, "discount": arrays["discount"].item()})
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


def _validated(mdp: TabularMDP) -> dict[str, Any]:
    transition = np.asarray(check_real("transition", mdp.transition), np.float64)
    if transition.ndim != 3 or transition.shape[0] != transition.shape[2]:
        raise ValueError(f"transition must have shape [S, A, S], got {transition.shape}")
    S, A, _ = transition.shape
    if S == 0 or A == 0:
        raise ValueError(f"transition must have at least one state and action, got {S} and {A}")
    reward = _shaped("reward", mdp.reward, "[S, A, S]", (S, A, S))
    initial = _shaped("initial", mdp.initial, "[S]", (S,))
    terminal = np.asarray(check_real("terminal", mdp.terminal))
    if terminal.shape != (S,) or terminal.dtype != np.bool_:
        raise ValueError(
            f"terminal must be boolean with shape [S] = {(S,)}, "
            f"got {terminal.dtype} with shape {terminal.shape}"
        )
    check_rate("discount", mdp.discount)
    for state, action in np.ndindex(S, A):
        _check_distribution(
            f"transition[{state}, {action}] (state {state}, action {action})",
            transition[state, action],
        )
    _check_distribution("initial", initial)
    if np.any(initial[terminal] > 0):
        raise ValueError(
            f"initial must be zero on terminal states, got {initial[terminal].max():g} in state "
            f"{np.flatnonzero(terminal & (initial > 0))[0]}"
        )
    bad = np.argwhere(~np.isfinite(reward) & (transition > 0) & ~terminal[:, None, None])
    if bad.size:
        place = tuple(map(int, bad[0]))
        raise ValueError(f"reward{list(place)} must be finite, got {reward[place]}")
    observation = np.eye(S) if mdp.observation is None else _observation(mdp.observation)
    if observation.shape[:1] != (S,):
        raise ValueError(
            f"observation must have one row for each of the {S} states, got {observation.shape}"
        )
    return {
        "transition": transition / transition.sum(-1, keepdims=True),
        "reward": np.where(np.isfinite(reward), reward, 0.0),
        "initial": initial / initial.sum(),
        "terminal": terminal,
        "discount": float(mdp.discount),
        "observation": observation,
    }


def _observation(value: Any) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError:
        raise TypeError("observation must be an array, got lists of different lengths") from None
    if array.dtype.kind not in "biufcV":
        raise TypeError(f"observation must be an array of numbers, got {describe(value)}")
    return array


def _shaped(name: str, value: Any, layout: str, shape: tuple[int, ...]) -> np.ndarray:
    array = np.asarray(check_real(name, value), np.float64)
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {layout} = {shape}, got {array.shape}")
    return array


def _check_distribution(name: str, row: np.ndarray) -> None:
    if not np.all(row >= 0):  # also false for NaN
        raise ValueError(f"{name} must be non-negative, got {row.min():g}")
    if abs(row.sum() - 1) > 1e-6:
        raise ValueError(f"{name} must sum to 1, got {row.sum():g}; divide by the sum")
