"""Trajectories spread over devices, by one program for any number of devices.

All axes of a mesh split the trajectories. Parameters are replicated.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pgjax.core.validation import check_kind


def check_mesh(mesh: Any) -> None:
    """Raise a TypeError if `mesh` is neither a device mesh nor None."""
    if mesh is not None:
        check_kind("mesh", mesh, Mesh, 'jax.make_mesh((8,), ("devices",)) makes one')


def over_devices(function: Callable[..., Any], mesh: Mesh | None, whole: Any, rows: Any) -> Any:
    """`function(whole, rows)`, each device with its share of the rows and of the result.

    Args:
        function: (whole, rows) -> pytree of [N, ...], each row of which depends on one row alone.
        mesh: the devices; None runs where the data is.
        whole: pytree that every device needs whole, such as parameters.
        rows: pytree of [N, ...].

    Raises:
        ValueError: if N is not a multiple of the number of devices.
    """
    if mesh is None:
        return without_explicit_axes(function, PartitionSpec())(whole, rows)
    for leaf in jax.tree.leaves(rows):
        if leaf.shape[0] % mesh.size:
            raise ValueError(
                f"the {leaf.shape[0]} trajectories must divide evenly over the {mesh.size} devices "
                f"of the mesh; take {-(-leaf.shape[0] // mesh.size) * mesh.size}"
            )
    split = PartitionSpec(mesh.axis_names)
    # Replication is not checked: a loop that ends with its own episodes looks as if it varied.
    spread = jax.shard_map(
        function,
        mesh=Mesh(mesh.devices, mesh.axis_names),  # axes that shard_map may take over
        in_specs=(PartitionSpec(), split),
        out_specs=split,
        check_vma=False,
    )
    return without_explicit_axes(spread, split)(whole, rows)


def without_explicit_axes(
    function: Callable[..., Any], result: PartitionSpec
) -> Callable[..., Any]:
    """`function`, within which the compiler alone decides how arrays are spread.

    On a mesh with explicit axes, JAX's default, an array's type says how the array is spread. An
    operation that cannot infer how its result is spread is then an error, unless the code says it.
    Estimators do not say it.

    Args:
        function: of pytrees, whose leaves need not be arrays.
        result: how every leaf of its result is spread on such a mesh.
    """

    def run(*arguments: Any) -> Any:
        leaves, structure = jax.tree.flatten(arguments)
        arrays = {i: x for i, x in enumerate(leaves) if isinstance(x, jax.Array)}

        def on_arrays(arrays: dict[int, Any]) -> Any:
            filled = [arrays.get(i, x) for i, x in enumerate(leaves)]
            return function(*jax.tree.unflatten(structure, filled))

        of_arrays = [jax.typeof(x).sharding.mesh for x in arrays.values()]
        for mesh in [jax.sharding.get_abstract_mesh(), *of_arrays]:
            if axes := mesh.explicit_axes:
                out = NamedSharding(mesh, _within(result, axes))
                return jax.sharding.auto_axes(on_arrays, axes=axes, out_sharding=out)(arrays)
        return function(*arguments)

    return run


def varying(tree: Any, like: Any) -> Any:
    """The tree, marked within `shard_map` as varying over devices wherever a leaf of `like` varies.

    A loop's carry must be marked from its start. Parameters must be marked before differentiation:
    JAX sums the derivative with respect to unmarked parameters over the devices, but each device
    needs the estimate from its own trajectories. Outside `shard_map` nothing changes.
    """
    axes = frozenset().union(*map(_varies_over, jax.tree.leaves(like)))

    def vary(x: Any) -> Any:
        missing = tuple(axes - _varies_over(x))
        return jax.lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(vary, tree)


def _within(result: PartitionSpec, axes: tuple[str, ...]) -> PartitionSpec:
    """A partition, restricted to some of the axes."""

    def part(names: Any) -> tuple[str, ...]:
        names = (names,) if isinstance(names, str) else names or ()
        return tuple(name for name in names if name in axes)

    return PartitionSpec(*map(part, result))


def _varies_over(x: Any) -> frozenset[str]:
    """The mesh axes of a surrounding `shard_map` along which x varies; none outside `shard_map`."""
    return jax.typeof(x).manual_axis_type.varying
