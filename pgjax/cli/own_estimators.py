"""`--with FILE.py:name`: a user's own estimators, beside those of the library.

The name may stand for an Estimator, for a function without arguments that returns one, or for a
function of a Problem that returns one. `certify` alone also takes a gradient (params, batch).
"""

import argparse
from collections.abc import Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from pgjax.cli import user_code
from pgjax.cli.arguments import nonempty_name

if TYPE_CHECKING:
    from pgjax.enumeration import Function
    from pgjax.exact.problem import Problem
    from pgjax.proof.comparison import Batches
    from pgjax.proof.error_curves import Contender
    from pgjax.proof.registry import Row
    from pgjax.types import Estimator

DRAWN = 64
"""The number of trajectories on which it is tested whether an estimator compares trajectories."""
COUPLED = 2
"""Trajectories in a batch of the certificate, for an estimator that compares them."""
NO_CLAIM = "not claimed"
"""The statement of bias of a user's own row."""


class Own(NamedTuple):
    """A user's own estimator.

    Attributes:
        name: as tables and pictures print it.
        target: the value of the option, for errors.
        candidate: what the user wrote.
    """

    name: str
    target: str
    candidate: Any


def configure(parser: argparse.ArgumentParser, *, also: str = "") -> None:
    """Declare the option.

    Args:
        parser: of the command.
        also: words for what the option takes besides an Estimator or a function that makes one.
    """
    parser.add_argument(
        "--with",
        dest="own",
        action="append",
        type=nonempty_name,
        metavar="FILE.py:NAME",
        help="an estimator of your own beside ours: an Estimator, or a function that returns one, "
        f"without arguments or of a problem{also}; repeat for several",
    )


def load(targets: Sequence[str] | None, taken: Collection[str]) -> list[Own]:
    """The estimators that are asked for.

    Args:
        targets: the values of the option; None if it is not given.
        taken: names of the library's own rows.

    Raises:
        ValueError: if one cannot be loaded, or is neither an Estimator nor a function.
    """
    found: list[Own] = []
    for target in dict.fromkeys(targets or ()):
        with user_code.named(f"--with {target}"):
            candidate = user_code.load(target)
            _check(candidate)
        name = target.rpartition(":")[2]
        if name in taken or name in [own.name for own in found]:
            name = target
        found.append(Own(name, target, candidate))
    return found


def estimator(own: Own, problem: "Problem | None") -> "Estimator":
    """What the user wrote, as an Estimator.

    Args:
        own: the user's estimator.
        problem: the argument of a user's function that takes one; None if none is known.

    Raises:
        ValueError: if the code raises, or makes no Estimator.
    """
    from pgjax.types import Estimator

    with user_code.named(f"--with {own.target}"):
        made = _made(own.candidate, problem)
        if not isinstance(made, Estimator):
            raise TypeError(
                "this command needs an Estimator(weights, term), or a function that returns one, "
                f"got {type(made).__name__}; `pgjax certify` and `pgjax check` take gradients too"
            )
    return made


def contender(own: Own, problem: "Problem") -> "Contender":
    """The estimator for `pgjax converge`, with exact values if all trajectories can be listed.

    An estimator that compares trajectories is given batches of 8, and has no exact values.

    Raises:
        ValueError: if it is no Estimator, or its code raises.
    """
    import numpy as np

    from pgjax import enumeration
    from pgjax.proof.candidates import check_repeats, estimate_on
    from pgjax.proof.error_bands import BLOCK
    from pgjax.proof.error_curves import Contender

    made = estimator(own, problem)
    with user_code.named(f"--with {own.target}"):
        estimate = estimate_on(made, problem)
        batch_size = BLOCK if couples(estimate, *_drawn(problem)) else 1
        check_repeats(estimate, problem, batch_size)
        if batch_size > 1 or enumeration.count(problem) > enumeration.FEW:
            return Contender(own.name, made, None, None, batch_size)
        moments = enumeration.moments(made, problem)
    return Contender(own.name, made, moments.mean, np.diag(moments.covariance).clip(0))


def check_on(own: Own, made: "Estimator", batches: "Batches") -> None:
    """Trace the estimator on batches, for `pgjax compare`.

    Raises:
        ValueError: if its code raises.
    """
    import jax

    from pgjax.estimators import gradient

    def estimate(key: Any) -> Any:
        return gradient(made, batches.policy, batches.params, batches.draw(key))

    with user_code.named(f"--with {own.target}"):
        jax.eval_shape(estimate, jax.random.key(0))


def row(own: Own, problems: "Sequence[Problem]") -> "Row":
    """The estimator for `pgjax certify`.

    Args:
        own: the user's estimator.
        problems: to certify it on; the batch size is `COUPLED` if it compares trajectories on any.
    """
    from pgjax.proof.candidates import check_repeats
    from pgjax.proof.certificate import with_visible_states
    from pgjax.proof.problems import off_policy
    from pgjax.proof.registry import Row

    batch_size = 1
    for problem in problems:
        visible = with_visible_states(off_policy(problem))
        estimate = _function(own, visible)
        with user_code.named(f"--with {own.target}"):
            params, batch = _drawn(visible)
            if couples(estimate, params, _with_values(batch, visible)):
                batch_size = COUPLED
            check_repeats(estimate, visible, batch_size)
    return Row(
        own.name,
        code=own.target,
        weights="–",
        term="–",
        bias=NO_CLAIM,
        batch_size=batch_size,
        make=partial(_function, own),
    )


def couples(estimate: "Function", params: Any, batch: Any) -> bool:
    """Whether a batch's estimate differs from the mean of the estimates of its trajectories.

    Args:
        estimate: (params, batch) -> gradient.
        params: of the policy.
        batch: [N, T] trajectories.
    """
    import jax
    import numpy as np

    from pgjax.core.float64 import flatten

    @jax.jit
    def both(params: Any, batch: Any) -> tuple[Any, Any]:
        """The batch's estimate, and those of its trajectories; None where one is too few."""
        whole = estimate(params, batch)
        each = jax.tree.map(lambda x: x[:, None], batch)
        try:
            return whole, jax.vmap(estimate, (None, 0))(params, each)
        except ValueError:  # leave-one-out, say, needs at least two
            return whole, None

    whole, each = both(params, batch)
    if each is None:
        return True
    whole = flatten(whole)
    mean = flatten(jax.tree.map(lambda x: np.mean(np.asarray(x, np.float64), axis=0), each))
    return not np.allclose(whole, mean, rtol=1e-3, atol=1e-4 * np.abs(mean).max())


def _drawn(problem: "Problem") -> tuple[Any, Any]:
    """The parameters, and a batch of the policy's trajectories."""
    import jax
    import jax.numpy as jnp

    from pgjax.proof.candidates import library_rollout

    params = jax.tree.map(lambda x: jnp.asarray(x, float), problem.params)
    return params, library_rollout(problem, DRAWN)(params, jax.random.key(0))


def _with_values(batch: Any, problem: "Problem") -> Any:
    """The batch with exact values, as the certificate has it; its observations are one-hot."""
    from dataclasses import replace

    import numpy as np

    from pgjax import exact

    state, action = np.argmax(batch.observation, axis=-1), np.asarray(batch.action)
    time = np.arange(state.shape[1])
    values = exact.state_values(problem)[time, state]
    action_values = exact.action_values(problem)[time, state, action]
    return replace(batch, value=values, action_value=action_values)


def _function(own: Own, problem: "Problem") -> "Function":
    """(params, batch) -> gradient; errors of the user's code name the target."""
    from pgjax.proof.candidates import estimate_on

    with user_code.named(f"--with {own.target}"):
        estimate = estimate_on(_made(own.candidate, problem), problem)

    def explained(params: Any, batch: Any) -> Any:
        with user_code.named(f"--with {own.target}"):
            return estimate(params, batch)

    return explained


def _check(candidate: Any) -> None:
    from pgjax.types import Estimator

    if not (isinstance(candidate, Estimator) or callable(candidate)):
        raise TypeError(
            "the name must stand for an Estimator, or a function that returns one, got "
            f"{type(candidate).__name__}"
        )


def _made(candidate: Any, problem: "Problem | None") -> Any:
    """What a factory without arguments gives, or a function of a problem; else the candidate."""
    from pgjax.proof.candidates import resolve
    from pgjax.types import Estimator, signature_of

    if isinstance(candidate, Estimator):
        return candidate
    if problem is not None:
        return resolve(candidate, problem)
    try:
        signature_of(candidate).bind()
    except TypeError:
        raise TypeError(
            "the function must take no argument, because this environment has no exact problem; "
            "write a function without arguments that returns an Estimator"
        ) from None
    return candidate()
