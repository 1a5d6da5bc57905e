"""The parts of a call: records, policies, estimators, optimizers, and pytrees of parameters."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from pgjax.core.validation.numbers import is_real
from pgjax.types import Estimator, Policy, RecurrentPolicy, describe, returned_by


def check_kind(name: str, value: Any, kind: type | tuple[type, ...], fix: str) -> Any:
    """`value`, if it is an instance of the class, or of one of several."""
    if isinstance(value, kind):
        return value
    needed = " or ".join(each.__name__ for each in (kind if isinstance(kind, tuple) else (kind,)))
    raise TypeError(f"{name} must be a {needed}, got {describe(value)}; {fix}")


def check_policy(policy: Any) -> None:
    """Raise if it is not a policy; the error says how to make one of a network."""
    if isinstance(policy, Policy | RecurrentPolicy):
        return
    if isinstance(policy, Estimator):
        raise TypeError(
            "policy must be a pgjax.Policy, got an Estimator; the estimator comes first"
        )
    is_flax = any(kind.__module__.startswith("flax.") for kind in type(policy).__mro__)
    fix = "flax_policy(module)" if is_flax else "softmax_policy(init, logits)"
    raise TypeError(f"policy must be a pgjax.Policy, got {describe(policy)}; pgjax.{fix} makes one")


def check_policy_without_memory(policy: Any) -> None:
    """Raise if it is not a Policy; the error names a RecurrentPolicy as such."""
    check_policy(policy)
    if isinstance(policy, RecurrentPolicy):
        raise TypeError(
            "policy must be a Policy, got a RecurrentPolicy; its memory is carried along the "
            "episode by pgjax.rollout and pgjax.gradient only"
        )


def check_estimator(estimator: Any) -> None:
    """Raise if it is not an Estimator; the error says so if it is a function to be called first."""
    if isinstance(estimator, Estimator):
        return
    name = getattr(estimator, "__name__", None)
    if isinstance(estimator, Policy | RecurrentPolicy):
        name, fix = "a policy", "the policy comes second"
    elif callable(estimator) and name is not None:
        fix = f"call it: {name}(0.99)"
    else:
        fix = "pgjax.reward_to_go(0.99) makes one"
    got = name or describe(estimator)
    raise TypeError(f"estimator must be a pgjax.Estimator, got {got}; {fix}")


def check_members(name: str, values: Any, kind: type, fix: str) -> tuple[Any, ...]:
    """`values` as a tuple, if it is a sequence of instances of the class."""
    needed = f"{name} must be a sequence of {kind.__name__} records"
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"{needed}, got {describe(values)}; {fix}")
    members = tuple(values)
    for each in members:
        if not isinstance(each, kind):
            raise TypeError(f"{needed}, got one that holds {describe(each)}; {fix}")
    return members


def check_module(name: str, module: Any) -> None:
    """Raise if it is not callable, and so neither a Flax module nor a function that makes one."""
    if not callable(module):
        raise TypeError(
            f"{name} must be a Flax module, got {describe(module)}; pgjax.MLP(1) is one"
        )


def check_optimizer(optimizer: Any) -> None:
    """Raise if it has no `init` and `update`, as optax's transformations have."""
    if not all(callable(getattr(optimizer, name, None)) for name in ("init", "update")):
        raise TypeError(
            f"optimizer must be an optax.GradientTransformation, got {describe(optimizer)}; "
            "optax.adam(1e-3) makes one"
        )


def check_estimate(estimator: Any) -> None:
    """Raise if it is neither an Estimator nor a function of parameters and batch."""
    if isinstance(estimator, Estimator):
        return
    makes = returned_by(estimator) is Estimator
    if makes or isinstance(estimator, type) or not callable(estimator):
        fix = f"; call it: {estimator.__name__}(0.99)" if makes else ""
        raise TypeError(
            "estimator must be a pgjax.Estimator or a function (params, batch) -> gradient, got "
            f"{describe(estimator)}{fix}"
        )


def check_params(params: Any, name: str = "params") -> None:
    """Raise if a leaf of the parameters is not floating, and so has no gradient."""
    check_leaves(name, params)
    for path, leaf in jax.tree.leaves_with_path(params):
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(
                f"{name}{jax.tree_util.keystr(path)} must be floating to have a gradient, "
                f"got {dtype}; cast it, or keep it out of the parameters"
            )


def check_leaves(name: str, tree: Any) -> None:
    """Raise if a leaf of a pytree is neither an array nor a number, or a list holds the numbers."""
    if isinstance(tree, Policy | RecurrentPolicy | Estimator):
        raise TypeError(f"{name} must be a pytree of arrays, got {describe(tree)}")
    for path, leaf in jax.tree.leaves_with_path(tree):
        where = name + jax.tree_util.keystr(path)
        if not hasattr(leaf, "dtype") and not isinstance(leaf, int | float | complex):
            raise TypeError(f"{where} must be an array, got {describe(leaf)}")
        if not hasattr(leaf, "dtype") and path and hasattr(path[-1], "idx"):
            raise TypeError(
                f"{where} must be an array, got {leaf} in a list; jnp.asarray makes one of a list"
            )


def check_gradient(name: str, tree: Any, like: tuple[str, Any] | None = None) -> None:
    """Raise if a pytree has no leaf, a leaf is not real, or it is not structured as `like`."""
    check_leaves(name, tree)
    leaves = jax.tree.leaves(tree)
    if not leaves and (like is None or jax.tree.leaves(like[1])):
        raise ValueError(f"{name} must have at least one leaf, got {describe(tree)}")
    for path, leaf in jax.tree.leaves_with_path(tree):
        if not is_real(jnp.result_type(leaf)):
            where = name + jax.tree_util.keystr(path)
            raise TypeError(f"{where} must be real, got {jnp.result_type(leaf)}")
    if like is not None:
        check_like(name, tree, like)


def check_like(name: str, tree: Any, like: tuple[str, Any]) -> None:
    """Raise if a pytree has another structure than `like`, or leaves of other shapes."""
    found, needed = jax.tree.structure(tree), jax.tree.structure(like[1])
    if found != needed:
        raise ValueError(f"{name} must be a pytree like {like[0]}, {needed}, got {found}")
    for (path, x), y in zip(jax.tree.leaves_with_path(tree), jax.tree.leaves(like[1]), strict=True):
        needed = getattr(y, "shape", ())
        if jnp.shape(x) != needed:
            where = jax.tree_util.keystr(path)
            raise ValueError(
                f"{name}{where} must have the shape of {like[0]}{where}, {needed}, "
                f"got {jnp.shape(x)}"
            )
