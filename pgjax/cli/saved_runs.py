"""Saved runs: what `train` leaves in a directory and `evaluate` reads back.

Imports JAX and gymnax, so a command imports this module only when it runs.
"""

import dataclasses
import difflib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen, serialization

from pgjax import flax_policy, policies
from pgjax._version import __version__
from pgjax.deferral import plotting_deferred
from pgjax.training import initial_params
from pgjax.types import Params, Policy

with plotting_deferred():
    import gymnax
    from gymnax.registration import registered_envs

CONFIG, PARAMS, LOG, CURVE = "config.json", "params.msgpack", "log.jsonl", "learning_curve.png"
FILES = (CONFIG, PARAMS, LOG, CURVE)

DOWNLOADS = frozenset({"MNISTBandit-bsuite"})
"""Environments that fetch a data set when made; training must not depend on a network."""


def make_environment(name: str) -> tuple[Any, Any]:
    """The gymnax environment of that id and its parameters, or a ValueError with near matches."""
    if name in DOWNLOADS:
        raise ValueError(
            f"{name} downloads a data set when it is made, which pgjax does not do; "
            "try SimpleBandit-bsuite"
        )
    known = [other for other in registered_envs if other not in DOWNLOADS]
    if name not in known:
        # Case and suffix are the usual slips: cartpole-v1, CartPole, Breakout.
        lower = {other.lower(): other for other in known}
        near = difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.5)
        near += [short for short in lower if name and short.startswith(name.lower())]
        names = [lower[short] for short in dict.fromkeys(near)]
        hint = f"did you mean {' or '.join(names)}?" if names else f"known: {', '.join(known)}"
        raise ValueError(f"unknown environment {name!r}; {hint}")
    return gymnax.make(name)


def time_limit(environment_params: Any) -> int:
    """The environment's own limit in steps (one environment states it as a float)."""
    return int(environment_params.max_steps_in_episode)


def prepare(directory: Path, *, overwrite: bool) -> None:
    """Make the directory; lose no earlier run unless told to."""
    present = [name for name in FILES if (directory / name).exists()]
    if present and not overwrite:
        raise ValueError(
            f"{directory} already holds {', '.join(present)}; "
            "choose another --output, or replace the run with --overwrite"
        )
    directory.mkdir(parents=True, exist_ok=True)
    for name in present:
        (directory / name).unlink()


def describe(environment: str, network: linen.Module, seed: int, settings: dict) -> dict:
    """What `config.json` holds: enough to rebuild the policy and to repeat the run."""
    fields = {
        field.name: getattr(network, field.name)
        for field in dataclasses.fields(network)
        if field.name not in ("parent", "name")
    }
    libraries = ("jax", "jaxlib", "flax", "optax", "gymnax")
    return {
        "environment": environment,
        "network": {"class": type(network).__name__} | fields,
        "seed": seed,
        "settings": settings,
        "versions": {"pgjax": __version__}
        | {library: importlib.metadata.version(library) for library in libraries},
    }


def write_config(directory: Path, config: dict) -> None:
    """Write `config.json`."""
    (directory / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def write_params(directory: Path, params: Params) -> None:
    """Write `params.msgpack`, whole or not at all: an earlier file stays until the new is there."""
    unfinished = directory / (PARAMS + ".tmp")
    unfinished.write_bytes(serialization.to_bytes(params))
    unfinished.replace(directory / PARAMS)


def load(directory: Path) -> tuple[dict, Any, Any, Policy, Params]:
    """(config, environment, environment_params, policy, params) of a saved run.

    Raises:
        ValueError: no run there, or files that cannot be read, or that do not fit each other.
    """
    missing = [name for name in (CONFIG, PARAMS) if not (directory / name).is_file()]
    if missing:
        raise ValueError(
            f"{directory} holds no saved run: {' and '.join(missing)} missing; "
            "pass the --output directory of a `pgjax train`"
        )
    config, network = _read_config(directory / CONFIG)
    environment, environment_params = make_environment(config["environment"])
    policy = flax_policy(network)
    params = _read_params(directory / PARAMS)
    expected = jax.eval_shape(
        lambda key: initial_params(policy, environment, key, environment_params), jax.random.key(0)
    )
    if _shapes(params) != _shapes(expected):
        raise ValueError(
            f"{directory / PARAMS} does not fit the network of {CONFIG}: "
            f"it has {_shapes(params)}, needed are {_shapes(expected)}"
        )
    return config, environment, environment_params, policy, jax.tree.map(jax.numpy.asarray, params)


def _read_config(path: Path) -> tuple[dict, linen.Module]:
    networks = {"MLP": policies.MLP, "ConvNet": policies.ConvNet}
    try:
        config = json.loads(path.read_text())
        fields = dict(config["network"])
        network = networks[fields.pop("class")]
        # JSON turns tuples into lists; a module must be hashable.
        fields = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        return {"environment": str(config["environment"])} | config, network(**fields)
    except (ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} is not the config of a saved run ({reason})") from error


def _read_params(path: Path) -> Params:
    try:
        params = serialization.msgpack_restore(path.read_bytes())
    except Exception as error:  # msgpack has many exceptions for bytes that are not its own
        raise ValueError(f"{path} is not a parameter file ({type(error).__name__})") from error
    if not all(
        np.issubdtype(np.result_type(leaf), np.floating) for leaf in jax.tree.leaves(params)
    ):
        raise ValueError(f"{path} is not a parameter file (an entry is not a floating array)")
    return params


def _shapes(params: Params) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path): np.shape(leaf) for path, leaf in leaves}
