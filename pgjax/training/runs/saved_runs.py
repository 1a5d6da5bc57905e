"""Saved runs: the files of a run's directory, which `train` writes and `evaluate` reads.

Imports JAX and gymnax, so a command imports this module only when it runs.
"""

import contextlib
import errno
import hashlib
import importlib.metadata
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import jax
import numpy as np
from flax import linen, serialization

from pgjax import __version__, environments, policies
from pgjax.core.validation import check_policy
from pgjax.environments import Environment
from pgjax.environments.conversion import AnyEnvironment, as_environment
from pgjax.training.networks import initial_params, policy_of
from pgjax.training.runs import trackers
from pgjax.types import Params, Policy, RecurrentPolicy

CONFIG, PARAMS, LOG, CURVE = "config.json", "params.msgpack", "log.jsonl", "learning_curve.png"
FILES = (CONFIG, PARAMS, LOG, CURVE)
CHECKPOINTS = "checkpoints"
DIGEST = "params_sha256"
"""The entry of a finished run's config that tells whether its parameters are what was saved."""

AnyPolicy: TypeAlias = Policy | RecurrentPolicy


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Make the directory, and lock it against other training processes.

    The kernel holds the lock, and releases it when the process ends for any reason.

    Raises:
        ValueError: if another process trains there.
        PermissionError: if nothing can be written there.
    """
    _check_writable(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(directory, error.strerror) from error
    try:
        import fcntl
    except ImportError:  # Windows has no such lock
        yield
        return
    folder = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(folder)
        raise ValueError(f"another process is training in {directory}; stop it first") from None
    except OSError:
        pass  # nor has every network's file system
    try:
        yield
    finally:
        os.close(folder)


def check_place(directory: Path, *, overwrite: bool) -> None:
    """Raise what `locked` and `begin` would raise, before any work; nothing is made or written."""
    _check_writable(directory)
    if os.path.exists(directory):
        with locked(directory):
            pass
    if not overwrite:
        check_vacant(directory)


def _check_writable(directory: Path) -> None:
    """Raise a PermissionError if the directory, or the nearest one above it, takes no file."""
    parents = directory.absolute().parents
    # `Path.exists` raises an error of its own where a folder above may not be looked into.
    nearest = next(path for path in (directory, *parents) if os.path.exists(path))
    if not nearest.is_dir():
        raise _unwritable(directory, os.strerror(errno.ENOTDIR))
    effective = os.access in os.supports_effective_ids
    if not os.access(nearest, os.W_OK | os.X_OK, effective_ids=effective):
        is_there = nearest == directory
        reason = "it is read-only" if is_there else os.strerror(errno.EACCES)
        raise _unwritable(directory, reason)


def _unwritable(directory: Path, reason: str | None) -> PermissionError:
    return PermissionError(
        f"nothing can be written in {directory} ({reason}); choose another directory"
    )


def begin(directory: Path, config: dict, *, overwrite: bool) -> None:
    """Write the config of a new run; a ValueError if there is one already, unless `overwrite`."""
    folders = (CHECKPOINTS, *trackers.FOLDERS)
    present = _present(directory)
    if not overwrite:
        check_vacant(directory)
    # The config goes last: after a kill in between, the old config is that of a run without files,
    # which starts anew.
    for name in folders:
        if name in present:
            shutil.rmtree(directory / name)
    for name in present:
        if name not in (*folders, CONFIG):
            (directory / name).unlink()
    write_config(directory, config)


def check_vacant(directory: Path) -> None:
    """Raise a ValueError if there is a run in the directory."""
    if present := _present(directory):
        raise ValueError(
            f"{directory} already holds {', '.join(present)}; choose another --output, "
            "go on with the run by --resume, or replace it with --overwrite"
        )


def _present(directory: Path) -> list[str]:
    names = (*FILES, CHECKPOINTS, *trackers.FOLDERS)
    return [name for name in names if (directory / name).exists()]


def mark_finished(directory: Path, update: int) -> None:
    """Record in the config the update after which the run ended: its parameters are the result.

    Their digest is recorded with it, because a flipped bit of a number is no error of any format.
    """
    config = json.loads((directory / CONFIG).read_text("utf-8"))
    digest = _digest((directory / PARAMS).read_bytes())
    write_config(directory, config | {"finished": update, DIGEST: digest})


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def describe(environment: str, seed: int, description: dict) -> dict:
    """The content of `config.json`: enough to rebuild the policy and to repeat the run."""
    return {"environment": environment, "seed": seed} | description | {"versions": _versions()}


def _versions() -> dict[str, str]:
    """Versions of everything that may change the last bits of a result."""
    libraries = ("jax", "jaxlib", "flax", "optax", "gymnax")
    found = {library: importlib.metadata.version(library) for library in libraries}
    return {"pgjax": __version__} | found | {"backend": jax.default_backend()}


def read_config(directory: Path) -> dict:
    """The config of a run that can be resumed.

    Raises:
        ValueError: if there is no run, or it cannot be resumed.
    """
    path = directory / CONFIG
    if not path.is_file():
        raise ValueError(
            f"{directory} holds no run to resume: {CONFIG} missing; "
            "pass the --output directory of a `pgjax train`"
        )
    config, _ = _read_config(path)
    if not isinstance(config.get("options"), dict) or "until" not in config["options"]:
        raise ValueError(
            f"{path} does not say with which options the run began, so it cannot be resumed; "
            "start it anew with --overwrite"
        )
    return config


def check_own(directory: Path, config: dict, given: Iterable[str]) -> None:
    """Raise a ValueError if the parts given are not those that a run began with."""
    own, given = config.get("own", []), list(given)
    if missing := [name for name in own if name not in given]:
        words = ", ".join(f"{name}=..." for name in own)
        raise ValueError(
            f"the run in {directory} began with your own {' and '.join(missing)}, which cannot be "
            f"written to a file; give in Python what it began with: {words}"
        )
    if added := [name for name in given if name not in own]:
        raise ValueError(
            f"the run in {directory} began without your own {' and '.join(added)}; omit it, or "
            "start another run in another directory"
        )


def differences(directory: Path, config: dict, description: dict) -> list[str]:
    """Descriptions of the versions that changed since the run began.

    Raises:
        ValueError: if the config describes another training than its options make.
    """
    made = json.loads(json.dumps(description))  # tuples as lists, as the config has them
    changed = [name for name in made if config.get(name) != made[name]]
    if changed:
        raise ValueError(
            f"{directory / CONFIG} was edited, or another version of pgjax wrote it: its options "
            f"give {changed[0]} = {made[changed[0]]}, but it records {config.get(changed[0])}"
        )
    then, now = config.get("versions", {}), _versions()
    return [
        f"the run began with {name} {then.get(name, 'unknown')}, and this is {now[name]}"
        for name in now
        if then.get(name) != now[name]
    ]


def write_config(directory: Path, config: dict) -> None:
    """Write `config.json`, completely or not at all."""
    _write_whole(directory / CONFIG, (json.dumps(config, indent=2) + "\n").encode())


def write_params(directory: Path, params: Params) -> None:
    """Write `params.msgpack`, completely or not at all; an earlier file is replaced at once."""
    _write_whole(directory / PARAMS, serialization.to_bytes(params))


def _write_whole(path: Path, content: bytes) -> None:
    unfinished = path.with_name(path.name + ".tmp")
    try:
        with unfinished.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError:
        unfinished.unlink(missing_ok=True)  # it takes room on a full disk
        raise


def load(
    directory: Path, environment: "AnyEnvironment | None" = None, policy: AnyPolicy | None = None
) -> tuple[dict, Environment, Any, Params]:
    """(config, environment, policy, params) of a saved run.

    Args:
        directory: of the run.
        environment: that it was trained in, if that was no name.
        policy: that was trained, if that was not the default network's.

    Raises:
        ValueError: if there is no run, or its files cannot be read, or they do not fit each other.
    """
    missing = [name for name in (CONFIG, PARAMS) if not (directory / name).is_file()]
    if missing:
        raise ValueError(
            f"{directory} holds no saved run: {' and '.join(missing)} missing; "
            "pass the --output directory of a `pgjax train`"
        )
    config, network = _read_config(directory / CONFIG)
    if environment is None:
        _refuse_without(directory, config, "environment", "environment" in config.get("own", []))
        environment = environments.make(config["environment"])
    if policy is None:
        _refuse_without(directory, config, "policy", network is None)
        policy = policy_of(network)
    environment = as_environment(environment)
    check_policy(policy)
    digest = config.get(DIGEST) if config.get("finished") else None
    params = _read_params(directory / PARAMS, digest)
    expected = jax.eval_shape(
        lambda key: initial_params(policy, environment, key), jax.random.key(0)
    )
    if _shapes(params) != _shapes(expected):
        raise ValueError(
            f"{directory / PARAMS} does not fit the network of {CONFIG}: "
            f"it has {_shapes(params)}, needed are {_shapes(expected)}"
        )
    return config, environment, policy, jax.tree.map(jax.numpy.asarray, params)


def _refuse_without(directory: Path, config: dict, part: str, is_own: bool) -> None:
    if is_own:
        raise ValueError(
            f"the run in {directory} was trained with your own {part}; load it in Python: "
            f"pgjax.load({str(directory)!r}, {part}=...)"
        )


def _read_config(path: Path) -> tuple[dict, Any]:
    """The config, and the network in it; None if the run has its own policy."""
    known = (policies.MLP, policies.ConvNet, policies.GaussianMLP)
    networks: dict[str, Callable[..., linen.Module]] = {net.__name__: net for net in known}
    try:
        config = dict(json.loads(path.read_text("utf-8")))
        if "network" not in config and {"policy", "agent"} & set(config.get("own", [])):
            return {"environment": str(config["environment"])} | config, None
        fields = dict(config["network"])
        network = networks[fields.pop("class")]
        # JSON turns tuples into lists; a module must be hashable.
        fields = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        return {"environment": str(config["environment"])} | config, network(**fields)
    except (ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} is not the config of a saved run ({reason})") from error


def _read_params(path: Path, digest: str | None) -> Params:
    content = path.read_bytes()
    try:
        params = serialization.msgpack_restore(content)
    except Exception as error:  # msgpack has many exceptions for bytes that are not its own
        raise ValueError(f"{path} is not a parameter file ({type(error).__name__})") from error
    if not all(
        np.issubdtype(np.result_type(leaf), np.floating) for leaf in jax.tree.leaves(params)
    ):
        raise ValueError(f"{path} is not a parameter file (an entry is not a floating array)")
    if digest is not None and _digest(content) != digest:
        raise ValueError(f"{path} is damaged: its checksum differs from the one in {CONFIG}")
    return params


def _shapes(params: Params) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path): np.shape(leaf) for path, leaf in leaves}
