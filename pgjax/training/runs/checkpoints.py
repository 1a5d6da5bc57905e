"""Atomic checkpoints with checksums.

A step's folder holds `state/`, written by orbax, and `leaves.json`, which describes every leaf. It
also holds `SHA256SUMS`, the digest of every other file (`sha256sum -c` reads it), because orbax
alone restores a flipped byte silently. The folder gets its name by one rename, so that a process
killed at any moment leaves it complete or absent.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from pgjax.core.validation import check_kind, check_positive
from pgjax.types import describe

STATE, LEAVES, SUMS = "state", "leaves.json", "SHA256SUMS"
UNFINISHED, REPLACED = ".unfinished", ".replaced"


class Checkpoint(NamedTuple):
    """A checkpoint that `restore_latest` found.

    Attributes:
        path: its folder.
        step: the number it was saved under.
        state: a pytree like the one asked for, with the saved bits.
    """

    path: Path
    step: int
    state: Any


Leaf: TypeAlias = dict[str, Any]
"""A leaf's entry in `leaves.json`: its `name`, the path in the pytree, such as "[0]['weight']"; its
`shape`; its `dtype`, such as "float32", or "key<fry>" for typed keys; and for these their
`implementation`, such as "threefry2x32", else None."""


def save(directory: Path | str, step: int, state: Any, *, keep: int = 3) -> Path:
    """Write a state under the number `step`, completely or not at all, and keep the newest few.

    An earlier checkpoint of the same number is replaced. Of the others up to `step`, the newest
    `keep − 1` are kept; later ones are not touched. Only one process may write to a directory.

    Args:
        directory: of all the checkpoints of a run; made if it does not exist.
        step: a number, zero or more, that grows as the run continues.
        state: a pytree of arrays, typed keys, optax states and numbers.
        keep: the number of checkpoints to keep, this one included.

    Returns:
        The checkpoint's folder.

    Raises:
        OSError: if it cannot be written (a full disk); earlier checkpoints are not touched.
        ValueError: if `step` is negative, `keep` below one, or the state without a leaf.
        TypeError: if a leaf is neither an array nor a number.

    Example:
        >>> import tempfile, jax, jax.numpy as jnp
        >>> directory, state = tempfile.mkdtemp(), (jnp.arange(3.0), jax.random.key(0))
        >>> save(directory, 50, state).name
        '0000000050'
        >>> restore_latest(directory, state).state[0].tolist()
        [0.0, 1.0, 2.0]
    """
    check_kind("directory", directory, (str, Path), "of all the run's checkpoints")
    if isinstance(step, bool) or not isinstance(step, int | np.integer):
        raise TypeError(f"step must be an integer, got {describe(step)}; count updates from 1")
    directory = Path(directory)
    leaves, arrays = _described(state)
    if step < 0:
        raise ValueError(f"step must be at least 0, got {step}; count updates from 1")
    check_positive("keep", keep)
    unfinished = directory / UNFINISHED
    try:
        for left_over in (unfinished, directory / REPLACED):
            if left_over.exists():  # of a process that was killed
                shutil.rmtree(left_over)
        unfinished.mkdir(parents=True)
        _write(unfinished, leaves, arrays)
        path = _rename(unfinished, directory / _name(step))
    except Exception as error:
        shutil.rmtree(unfinished, ignore_errors=True)  # a full disk has no room for it either
        raise _system_error(error, unfinished) from error
    for old in [other for other in steps(directory) if other <= step][:-keep]:
        shutil.rmtree(directory / _name(old), ignore_errors=True)
    return path


def restore_latest(directory: Path | str, like: Any) -> Checkpoint:
    """The newest checkpoint whose checksum holds.

    A damaged checkpoint (a flipped byte, a short or missing file) is skipped with a warning that
    names it and the one that is used instead.

    Args:
        directory: the one that `save` wrote to.
        like: a state of the same structure, shapes and dtypes, e.g. that of a run's start. Arrays
            are restored on its devices; its values are not used.

    Returns:
        The checkpoint; its state holds the saved bits.

    Raises:
        FileNotFoundError: if there is no checkpoint.
        ValueError: if all are damaged, or the leaves of an undamaged one are not those of `like`;
            the first that differs is named.

    Example:
        >>> import tempfile, jax.numpy as jnp
        >>> directory = tempfile.mkdtemp()
        >>> _ = save(directory, 50, {"weight": jnp.ones(3)})
        >>> restore_latest(directory, {"weight": jnp.zeros(4)})  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: .../0000000050 does not fit: ['weight'] is float32[3], and must be float32[4]
    """
    check_kind("directory", directory, (str, Path), "of all the run's checkpoints")
    directory = Path(directory)
    found = steps(directory)
    if not found:
        raise FileNotFoundError(f"{directory} holds no checkpoint")
    faults: list[str] = []
    for step in reversed(found):
        path = directory / _name(step)
        try:
            state = _read(path, like)
        except _DamagedError as fault:
            faults.append(f"{path.name}: {fault}")
            continue
        if faults:
            warnings.warn(
                f"checkpoint {path.name} in {directory} is used, because newer ones are damaged "
                f"({'; '.join(faults)})",
                stacklevel=2,
            )
        return Checkpoint(path, step, state)
    raise ValueError(
        f"every checkpoint in {directory} is damaged ({'; '.join(faults)}); "
        "remove the directory to start from the beginning"
    )


def steps(directory: Path | str) -> list[int]:
    """The numbers of all checkpoints in a directory, damaged ones included, ascending.

    Example:
        >>> steps("nowhere")
        []
    """
    check_kind("directory", directory, (str, Path), "of all the run's checkpoints")
    directory = Path(directory)
    if not directory.is_dir():
        return []
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdecimal())


class _DamagedError(Exception):
    """A checkpoint differs from what was saved."""


def _name(step: int) -> str:
    return f"{step:010d}"


def _described(state: Any) -> tuple[list[Leaf], list[np.ndarray]]:
    """Each leaf's description, and its bits as an array on the host."""
    described = [
        _leaf(jax.tree_util.keystr(path), x)
        for path, x in jax.tree_util.tree_leaves_with_path(state)
    ]
    if not described:
        raise ValueError(f"the state has no leaf, so there is nothing to save: {describe(state)}")
    bits = [
        jax.random.key_data(x) if leaf["implementation"] else x
        for leaf, x in zip(described, jax.tree.leaves(state), strict=True)
    ]
    return described, [np.asarray(x) for x in jax.device_get(bits)]


def _leaf(name: str, x: Any) -> Leaf:
    """The description of a leaf: an array, a typed key, a number, or a ShapeDtypeStruct."""
    if not hasattr(x, "dtype") and not isinstance(x, int | float | complex):
        raise TypeError(f"the state must hold arrays and numbers, got {describe(x)} at {name}")
    dtype = x.dtype if isinstance(x, jax.ShapeDtypeStruct) else jax.dtypes.result_type(x)
    implementation = None
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        implementation = str(jax.random.key_impl(x)) if isinstance(x, jax.Array) else None
    elif isinstance(x, np.ndarray | np.generic):
        dtype = x.dtype  # result_type would call NumPy's float64 float32 if x64 is off
    entry = {"name": name, "shape": np.shape(x), "dtype": str(dtype)}
    return entry | {"implementation": implementation}


def _write(folder: Path, leaves: list[Leaf], arrays: list[np.ndarray]) -> None:
    import orbax.checkpoint as ocp  # takes a third of a second

    # Numbered, because orbax's names drop a node's type; and it takes no array of size zero.
    numbered = {f"{i:05d}": x for i, x in enumerate(arrays) if x.size}
    if numbered:
        with _quiet(), contextlib.closing(ocp.PyTreeCheckpointer()) as checkpointer:
            checkpointer.save((folder / STATE).absolute(), numbered)
    _write_durably(folder / LEAVES, json.dumps(leaves, indent=1))
    sums = "".join(f"{digest}  {name}\n" for name, digest in _digests(folder).items())
    _write_durably(folder / SUMS, sums)


def _write_durably(path: Path, text: str) -> None:
    """Write a file, and flush it to the disk before the rename: power may fail too."""
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _rename(unfinished: Path, path: Path) -> Path:
    """Give a complete checkpoint its name; a folder cannot be renamed onto a full one."""
    replaced = path.parent / REPLACED
    if path.exists():
        path.rename(replaced)
    unfinished.rename(path)
    _flush_folder(path.parent)
    shutil.rmtree(replaced, ignore_errors=True)
    return path


def _flush_folder(path: Path) -> None:
    """Flush the names in a folder to the disk, where the system opens folders: Windows does not."""
    try:
        folder = os.open(path, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file except the sums, by its path within the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path != folder / SUMS
    }


def _read(path: Path, like: Any) -> Any:
    """The state of one checkpoint, after checks that it is undamaged and that it fits."""
    import orbax.checkpoint as ocp

    _check_whole(path)
    leaves = json.loads((path / LEAVES).read_text("utf-8"))
    _check_fits(path, leaves, like)
    numbered: dict[str, np.ndarray] = {}
    if (path / STATE).exists():
        try:
            with _quiet(), contextlib.closing(ocp.PyTreeCheckpointer()) as checkpointer:
                numbered = checkpointer.restore((path / STATE).absolute())
        except Exception as error:  # the bytes are right, and this orbax cannot read them
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise _DamagedError(reason) from error
    found = [
        _placed(numbered.get(f"{i:05d}"), leaf, x)
        for i, (leaf, x) in enumerate(zip(leaves, jax.tree.leaves(like), strict=True))
    ]
    return jax.tree.unflatten(jax.tree.structure(like), found)


def _check_whole(path: Path) -> None:
    try:
        lines = (path / SUMS).read_text("utf-8").splitlines()
        found = _digests(path)
    except (OSError, UnicodeDecodeError) as error:
        raise _DamagedError(f"cannot be read ({error})") from error
    saved = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    missing, added = saved.keys() - found.keys(), found.keys() - saved.keys()
    changed = {name for name in saved.keys() & found.keys() if saved[name] != found[name]}
    kinds = (("missing", missing), ("not saved with it", added), ("checksum differs", changed))
    faults = [f"{what}: {', '.join(sorted(names))}" for what, names in kinds if names]
    if faults:
        raise _DamagedError(", ".join(faults))


def _check_fits(path: Path, leaves: list[Leaf], like: Any) -> None:
    wanted = jax.tree_util.tree_leaves_with_path(like)
    here = [_leaf(jax.tree_util.keystr(where), x) for where, x in wanted]
    saved, needed = ({leaf["name"]: _kind(leaf) for leaf in side} for side in (leaves, here))
    for name in [*needed, *saved]:
        if saved.get(name) != needed.get(name):
            raise ValueError(
                f"{path} does not fit: {name or 'the state'} is {saved.get(name, 'absent')}, "
                f"and must be {needed.get(name, 'absent')}"
            )


def _kind(leaf: Leaf) -> str:
    return f"{leaf['dtype']}[{','.join(map(str, leaf['shape']))}]"


def _placed(bits: np.ndarray | None, leaf: Leaf, like: Any) -> Any:
    """The leaf, of the same kind and in the same place as `like`."""
    value: Any = np.zeros(leaf["shape"], like.dtype) if bits is None else bits
    if leaf["implementation"]:
        value = jax.random.wrap_key_data(jnp.asarray(value), impl=leaf["implementation"])
    if isinstance(like, jax.Array | jax.ShapeDtypeStruct):
        committed = isinstance(like, jax.Array) and like.committed
        return jax.device_put(value, like.sharding) if committed else jnp.asarray(value)
    return value if isinstance(like, np.ndarray) else type(like)(value[()])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence orbax, which logs a full disk with pages of tracebacks beside its exception."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


def _system_error(error: Exception, path: Path) -> Exception:
    """The OSError behind a failed system call, which TensorStore reports as a ValueError."""
    number = re.search(r"os_error_code='(\d+)'", str(error))
    if number is None or isinstance(error, OSError):
        return error
    return OSError(int(number[1]), os.strerror(int(number[1])), str(path))
