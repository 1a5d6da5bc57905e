"""Training on windows over several devices, each of which has its own environments."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pgjax.records import Configured, configured
from pgjax.training.algorithm import Algorithm, check_algorithm
from pgjax.training.minibatches import Settings, check_settings
from pgjax.training.on_windows import State

AXIS = "environments"


def over_devices(algorithm: Algorithm, devices: Sequence[Any] | None = None) -> Algorithm:
    """A2C or PPO with its environments spread over devices.

    With D devices each steps N/D environments and cuts its minibatches from their rows. The
    gradient of every step of the optimizer is the mean over the devices. Parameters and optimizer
    are on every device.

    Args:
        algorithm: from `a2c` or `ppo`.
        devices: D of them; None is all of this process, `jax.local_devices()`. With several
            processes, `jax.devices()` are those of all; every process then makes the same calls.

    Returns:
        An Algorithm whose state has the same shapes, and whose streams lie on the devices.

    Raises:
        TypeError: if the algorithm does not learn from windows, as REINFORCE does not.
        ValueError: if there is no device, or if the environments do not divide evenly over the
            devices, or a device's rows into minibatches.

    Bias: that of the algorithm. With one minibatch an update is that of one device, to rounding,
        unless the term couples rows. PPO's minibatches hold other rows than on one device, and it
        standardizes advantages within each device's part of a minibatch.

    References:
        Wijmans et al., DD-PPO (2020), for the mean gradient of devices that learn from rollouts of
        their own.

    Example:
        >>> import jax, pgjax
        >>> from pgjax import training
        >>> agent = pgjax.agents.separate(pgjax.tabular_softmax(4, 2), pgjax.MLP(1, hidden=()))
        >>> learner = training.a2c(pgjax.tabular.random_mdp(), agent=agent)
        >>> run = training.begin(over_devices(learner), jax.random.key(0))
        >>> state, metrics = training.advance(run, run.start, 1)
        >>> int(metrics.steps)
        256
    """
    check_algorithm(algorithm)
    devices = tuple(jax.local_devices() if devices is None else devices)
    step = algorithm.step
    settings = step.settings.get("settings") if isinstance(step, Configured) else None
    if not isinstance(step, Configured) or not isinstance(settings, Settings):
        raise TypeError(
            "algorithm must be A2C or PPO, which learn from windows, got one of whole episodes; "
            "for those pgjax.sampled_gradient takes a mesh"
        )
    if not devices:
        raise ValueError(
            "devices must hold at least one device, got none; None takes all local devices"
        )
    number = settings.num_environments
    if number % len(devices):
        raise ValueError(
            f"devices must divide the {number} environments evenly, got {len(devices)}; take "
            f"{-(-number // len(devices)) * len(devices)} environments"
        )
    own = replace(settings, num_environments=number // len(devices), axis=AXIS)
    check_settings(own)
    local = Configured(step.function, step.settings | {"settings": own})
    return replace(
        algorithm,
        init=configured(_first_state, init=algorithm.init, devices=devices),
        step=configured(_step, step=local, devices=devices),
    )


def _first_state(key: Any, params: Any = None, *, init: Any, devices: tuple) -> State:
    state = init(key, params)
    mesh = Mesh(np.array(devices), (AXIS,))
    where = jax.tree.map(lambda spec: NamedSharding(mesh, spec), _parts(state))
    # Not device_put: it would refuse the devices of other processes.
    return jax.jit(lambda state: state, out_shardings=where)(state)


def _step(state: State, *measure: Any, step: Any, devices: tuple) -> tuple[State, Any]:
    parts, everywhere = _parts(state), PartitionSpec()
    # Replication is not checked: JAX takes a loop's carry of random numbers to vary by device.
    spread = jax.shard_map(
        step,
        mesh=Mesh(np.array(devices), (AXIS,)),
        in_specs=(parts, *(everywhere for _ in measure)),
        out_specs=(parts, everywhere),
        check_vma=False,
    )
    return spread(state, *measure)


def _parts(state: State) -> State:
    """How each leaf is spread: the streams by row, and everything else on every device."""
    rows = jax.tree.map(lambda _: PartitionSpec(AXIS), state.stream)
    everywhere = jax.tree.map(lambda _: PartitionSpec(), state)
    return everywhere._replace(stream=rows._replace(clock=PartitionSpec()))
