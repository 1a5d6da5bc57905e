"""Draw the noise and direction of several estimators on one policy, exact values beside them."""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgjax.cli import own_estimators
from pgjax.cli.arguments import (
    ENV_DISCOUNT,
    check_picture_path,
    finite_float,
    nonempty_name,
    nonempty_path,
    positive_int,
    seed,
    unit_interval,
)

if TYPE_CHECKING:
    from pgjax.diagnostics import Interval
    from pgjax.proof.comparison import Batches, Comparison
    from pgjax.types import Estimator

MAX_DEFAULT_STEPS = 500
CRITIC_STEPS = 300
REFERENCE, IMPORTANCE = "reward-to-go, LOO", "per-decision IS"
OURS = (
    *("REINFORCE", "RLOO", "reward-to-go", REFERENCE, "reward-to-go, V(s)", "GAE, λ = 0.95"),
    *("reward-to-go, no γ^t", IMPORTANCE),
)
"""The rows of the table; the last one only off-policy."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments; JAX is not imported here."""
    parser.add_argument(
        "environment",
        type=nonempty_name,
        help="as for `pgjax train`, or a finite MDP (random, chain, ...), or a .npz file",
    )
    parser.add_argument(
        "--policy",
        type=nonempty_path,
        metavar="DIRECTORY",
        help="the directory of a `pgjax train`, to compare on its policy; by default a fresh one",
    )
    parser.add_argument("--batches", type=positive_int, default=32, help="independent estimates, K")
    parser.add_argument(
        "--batch-size", type=positive_int, default=64, help="trajectories in each batch, N"
    )
    parser.add_argument(
        "--num-steps",
        type=positive_int,
        help="cut episodes after N steps (default: as the run was trained; for a fresh "
        f"policy the limit, at most {MAX_DEFAULT_STEPS})",
    )
    parser.add_argument(
        "--discount",
        type=unit_interval,
        help=f"γ (default: the MDP's or the run's own, or {ENV_DISCOUNT})",
    )
    parser.add_argument(
        "--behaviour-scale",
        type=finite_float,
        default=1.0,
        metavar="X",
        help="act with X times the parameters, off-policy; adds a row with importance sampling",
    )
    parser.add_argument("--hidden", type=positive_int, default=8, help="width of a fresh policy")
    own_estimators.configure(parser)
    parser.add_argument("--seed", type=seed, default=0, help="seed of all draws")
    parser.add_argument(
        "--output",
        type=nonempty_path,
        default=Path("comparison.png"),
        help="the file of the picture",
    )


def run(arguments: argparse.Namespace) -> int:
    """Compare, print the table, draw the picture."""
    start = time.perf_counter()
    _check_arguments(arguments)
    import jax
    from rich.console import Console

    from pgjax.cli import plots
    from pgjax.proof.comparison import compare

    console = Console()
    policy_key, critic_key, key = jax.random.split(jax.random.key(arguments.seed), 3)
    with console.status("policy, critic, and what is exactly known"):
        problem = _problem(arguments, policy_key, critic_key)
    console.print(f"[bold]{arguments.environment}[/bold]: {problem.pop('words')}")
    with console.status(f"{arguments.batches} batches of {arguments.batch_size} trajectories"):
        found = compare(key=key, num_batches=arguments.batches, **problem)
    console.print(_table(found))
    if arguments.behaviour_scale != 1:
        share = _range(found.effective_share, _percent)
        console.print(
            f"effective sample size of the trajectories' importance weights: {share} of N"
        )
    title = f"{arguments.environment}, {found.num_batches} batches of {found.batch_size}"
    plots.comparison(found, title=title).savefig(arguments.output, dpi=150)
    console.print(f"picture: {arguments.output}", soft_wrap=True)
    console.print(f"{time.perf_counter() - start:.1f} s")
    return 0


def _check_arguments(arguments: argparse.Namespace) -> None:
    """Check the arguments before any work."""
    check_picture_path(arguments.output)
    if arguments.batches < 3:
        raise ValueError(f"--batches must be at least 3 for an interval, got {arguments.batches}")
    if arguments.batch_size < 2:
        raise ValueError(
            "--batch-size must be at least 2, got 1: leave-one-out needs two trajectories"
        )


def _problem(arguments: argparse.Namespace, policy_key: Any, critic_key: Any) -> dict[str, Any]:
    """Arguments of `comparison.compare`, and a line of words; exact if the name has a table."""
    from pgjax.environments import tables
    from pgjax.exact import tabular

    name = arguments.environment
    is_mdp = name in tabular.NAMED or name.endswith(".npz")
    is_exact = is_mdp or (name in tables.BRIDGED and arguments.policy is None)
    if not is_exact:
        return _sampled(arguments, policy_key, critic_key)
    if arguments.policy is not None:
        raise ValueError(f"--policy cannot be given for {name}, which is a finite MDP; omit it")
    return _exact(arguments, policy_key, is_mdp=is_mdp)


def _exact(arguments: argparse.Namespace, policy_key: Any, *, is_mdp: bool) -> dict[str, Any]:
    """Exact values by dynamic programming, including V."""
    from pgjax import exact
    from pgjax.cli import exact_problems
    from pgjax.proof import error_curves
    from pgjax.proof.comparison import Batches

    own = own_estimators.load(arguments.own, OURS)
    make = exact_problems.of_mdp if is_mdp else exact_problems.of_environment
    known, source = make(
        arguments.environment,
        arguments.num_steps,
        arguments.discount,
        arguments.hidden,
        policy_key,
    )
    made = {each: own_estimators.estimator(each, known) for each in own}
    mdp, value = known.mdp, error_curves.observation_values(known)
    batches = Batches(
        known.policy,
        known.params,
        batch_size=arguments.batch_size,
        num_steps=known.finite_horizon,
        prepare=_writing(lambda params, observation: value(observation), None),
        **{"environment": mdp} | source,
    )
    settings = {
        "reference": exact.gradient(known),
        "words": f"{mdp.num_states} states, γ = {mdp.discount:g}, at most {known.horizon} steps;"
        " exact by dynamic programming",
    } | _contenders(arguments, mdp.discount, batches, made)
    if arguments.behaviour_scale == 1:
        rows = error_curves.contenders(known)
        names = {"total return": "REINFORCE"}
        settings["exactly"] = {names.get(row.name, row.name): _spread(row) for row in rows}
    return settings


def _sampled(arguments: argparse.Namespace, policy_key: Any, critic_key: Any) -> dict[str, Any]:
    """A problem without exact values: the reference is reward-to-go, LOO, on separate batches."""
    from pgjax import baselines, environments, estimators
    from pgjax.proof.comparison import Batches
    from pgjax.training.networks import initial_params, network_for, policy_of
    from pgjax.training.runs import saved_runs

    environment = environments.make(arguments.environment)
    own = own_estimators.load(arguments.own, OURS)
    made = {each: own_estimators.estimator(each, None) for each in own}
    config = {}
    if arguments.policy is None:
        policy = policy_of(network_for(environment))
        params = initial_params(policy, environment, policy_key)
        words = "a fresh policy"
    else:
        config, *_, policy, params = saved_runs.load(arguments.policy)
        if config["environment"] != arguments.environment:
            raise ValueError(
                f"--policy {arguments.policy} was trained on {config['environment']}, "
                f"not on {arguments.environment}; give {config['environment']} or another policy"
            )
        words = f"the policy of {arguments.policy}"
    discount, num_steps = _objective(arguments, config, environment.time_limit)
    batches = Batches(policy, params, environment, arguments.batch_size, num_steps)
    settings = {
        "reference": estimators.reward_to_go(discount, baseline=baselines.leave_one_out),
        "words": f"{words}, γ = {discount:g}, at most {num_steps} steps; "
        f"reference: {REFERENCE} on as many batches of its own",
    }
    if arguments.behaviour_scale != 1:
        settings["reference"] = _per_decision(discount)
        settings["words"] += ", importance-weighted"
    batches = replace(batches, prepare=_critic(batches, discount, critic_key))
    return settings | _contenders(arguments, discount, batches, made)


def _objective(
    arguments: argparse.Namespace, config: dict[str, Any], limit: int | None
) -> tuple[float, int]:
    """γ and T: as asked, or those that the run was trained on, or the defaults.

    Args:
        arguments: with `discount` and `num_steps`, which may be None.
        config: of the run; empty for a fresh policy.
        limit: the environment's own.
    """
    settings = config.get("settings", {})
    own = MAX_DEFAULT_STEPS
    if config.get("algorithm") == "reinforce":
        own = settings["num_steps"]
    elif config and limit is not None:  # the steps of a window cut no episode
        own = limit
    discount = settings.get("discount", ENV_DISCOUNT)
    if arguments.discount is not None:
        discount = arguments.discount
    return discount, min(arguments.num_steps or own, limit or arguments.num_steps or own)


def _contenders(
    arguments: argparse.Namespace,
    discount: float,
    batches: "Batches",
    own: "dict[own_estimators.Own, Estimator]",
) -> dict[str, Any]:
    import jax

    from pgjax import baselines, estimators

    ours = (
        estimators.reinforce(discount),
        estimators.rloo(discount),
        estimators.reward_to_go(discount),
        estimators.reward_to_go(discount, baseline=baselines.leave_one_out),
        estimators.reward_to_go(discount, baseline=baselines.recorded_value),
        estimators.actor_critic(discount, 0.95),
        estimators.mismatched_reward_to_go(discount),
        _per_decision(discount),
    )
    rows = dict(zip(OURS, ours, strict=True))
    scale = arguments.behaviour_scale
    if scale == 1:
        del rows[IMPORTANCE]
    else:
        behaviour = jax.tree.map(lambda x: scale * x, batches.params)
        batches = replace(batches, behaviour=behaviour)
    for each, estimator in own.items():
        own_estimators.check_on(each, estimator, batches)
    rows |= {each.name: estimator for each, estimator in own.items()}
    return {"estimators": rows, "batches": batches}


def _per_decision(discount: float) -> "Estimator":
    from pgjax import terms
    from pgjax.types import Estimator
    from pgjax.weights import off_policy

    return Estimator(off_policy.per_decision(discount), terms.score)


def _critic(batches: "Batches", discount: float, key: Any) -> Any:
    """A value function fitted to the returns of episodes that no estimate uses."""
    import jax
    import optax

    from pgjax import MLP, weights
    from pgjax.policies import critics

    rollout_key, init_key = jax.random.split(key)
    batch = replace(batches, batch_size=4 * batches.batch_size).draw(rollout_key)
    module, value = MLP(1), critics.flax_value(MLP(1))
    params = module.init(init_key, jax.tree.map(lambda x: x[0, 0], batch.observation))

    @jax.jit
    def fitted(params: Any, batch: Any) -> Any:
        target = weights.returns_to_go(batch, discount)
        return critics.fit(value, params, batch, target, optax.adam(3e-3), num_steps=CRITIC_STEPS)

    return _writing(value, fitted(params, batch))


def _writing(value: Any, params: Any) -> Any:
    from pgjax.policies import critics

    return lambda batch: critics.with_values(value, params, batch)


def _spread(row: Any) -> Any:
    from pgjax.types import Spread

    return Spread(row.mean, row.variance)


def _table(found: "Comparison") -> Any:
    from rich import box
    from rich.table import Table

    exact = any(row.exact_noise_scale is not None for row in found.rows)
    table = Table(
        caption="B, the noise scale: trajectories at which noise equals signal, tr Σ/‖E ĝ‖²; S/N: "
        "of one trajectory, 1/B; cosine of E ĝ and the reference; intervals of 95%",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    beside = ["exact"] if exact else []
    table.add_column("estimator", no_wrap=True)
    for head in ("B", "95%", *beside, "S/N", "cosine 95%", *beside):
        table.add_column(head, justify="right", no_wrap=True)
    for row in found.rows:
        scale, cosine = row.exact_noise_scale, row.exact_cosine
        table.add_row(
            row.name,
            _short(row.noise_scale.estimate),
            _range(row.noise_scale, _short),
            *([_short(scale) if scale is not None else "–"] if exact else []),
            _short(row.signal_to_noise.estimate),
            _range(row.cosine, lambda x: f"{x:.3f}"),
            *([f"{cosine:.3f}" if cosine is not None else "–"] if exact else []),
        )
    return table


def _range(interval: "Interval", shown: Any) -> str:
    low, high = shown(interval.low), shown(interval.high)
    return f"{low} to {high}" if low.startswith("-") or high.startswith("-") else f"{low}–{high}"


def _short(x: float) -> str:
    if x == float("inf"):
        return "∞"
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if x >= 0.9995 * size:
            return f"{x / size:.3g}{letter}"
    return f"{x:.3g}"


def _percent(x: float) -> str:
    return f"{100 * x:.3g}%"
