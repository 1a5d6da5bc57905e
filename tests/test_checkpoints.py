"""Laws of checkpoints: bit by bit what was saved, or not taken at all; whole, or not there."""

import errno
import logging
import os
import shutil
import subprocess
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from pgjax import checkpoints
from pgjax.training.runs.checkpoints import restore_latest, save, steps


def keys(impl, words):
    """Four different keys."""
    bits = np.arange(4 * words, dtype=np.uint32).reshape(4, words)
    return jax.random.wrap_key_data(jax.device_put(bits), impl=impl)


def state(shift=0.0):
    """Everything that a run may hold: optax's states, typed keys, odd dtypes, plain numbers."""
    kernel = np.arange(12.0).reshape(3, 4) + shift
    params = jax.device_put({"kernel": kernel, "bias": np.zeros(4, jnp.bfloat16)})
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adam(optax.linear_schedule(0.1, 0.0, 7))
    )
    return {
        "training": (params, optimizer.init(params), jax.random.key(3)),
        "streams": keys("rbg", 4),
        "raw key": jax.random.PRNGKey(7),
        "nothing": None,
        "empty": jax.device_put(np.zeros((0, 4))),
        "steps": np.int64(2**40 + 1),
        "float64": np.array([np.nan, -0.0, 1e300]),
        "flag": jax.device_put(np.array(True)),
        "numbers": [3, 2.5, True],
    }


def bits(leaf):
    """Type, dtype, shape and bytes: −0 is not 0, and NaN is itself."""
    dtype = getattr(leaf, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return (str(dtype), bits(jax.random.key_data(leaf)))
    array = np.asarray(leaf)
    return (type(leaf), str(array.dtype), array.shape, array.tobytes())


def identical(first, second):
    same = jax.tree.structure(first) == jax.tree.structure(second)
    return same and [*map(bits, jax.tree.leaves(first))] == [*map(bits, jax.tree.leaves(second))]


def files(path):
    return sorted(name for name in path.rglob("*") if name.is_file())


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Steps 10 and 20, to be copied."""
    directory = tmp_path_factory.mktemp("saved")
    for step in (10, 20):
        save(directory, step, state(step))
    return directory


@pytest.fixture
def directory(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "checkpoints")


def test_every_leaf_comes_back_with_the_bits_that_were_saved(directory):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path, step, found = restore_latest(directory, state())
    assert (path.name, step) == ("0000000020", 20)
    assert identical(found, state(20))
    assert not identical(found, state(10))


def test_shapes_alone_say_what_is_expected(directory):
    def arrays(shift):
        return {key: state(shift)[key] for key in ("training", "streams", "flag")}

    save(directory, 30, arrays(30))
    found = restore_latest(directory, jax.eval_shape(lambda: arrays(0))).state
    assert identical(found, arrays(30))


def test_the_newest_few_stay_and_later_ones_are_left_alone(tmp_path):
    for step in (1, 2, 3, 4, 9, 5):
        save(tmp_path, step, {"step": step}, keep=2)
    assert steps(tmp_path) == [4, 5, 9]
    assert {path.name for path in tmp_path.iterdir()} == {f"{step:010d}" for step in (4, 5, 9)}


def test_saving_a_step_again_replaces_it(tmp_path):
    for value in (1, 2):
        save(tmp_path, 7, {"value": value})
    assert restore_latest(tmp_path, {"value": 0}).state == {"value": 2}
    assert len(list(tmp_path.iterdir())) == 1


def test_where_the_system_opens_no_folder_as_on_windows_saving_works(tmp_path, monkeypatch):
    opened = os.open

    def refuse(path, *rest, **options):
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *rest, **options)

    monkeypatch.setattr(os, "open", refuse)
    save(tmp_path, 1, {"weight": jnp.ones(3)})
    assert restore_latest(tmp_path, {"weight": jnp.zeros(3)}).state["weight"].tolist() == [1, 1, 1]


def test_the_sums_are_those_of_sha256sum(directory):
    if shutil.which("sha256sum") is None:
        pytest.skip("no sha256sum here")
    command = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
    assert subprocess.run(command, cwd=directory / "0000000020").returncode == 0


def test_a_flipped_bit_in_any_file_of_the_newest_falls_back_and_says_so(directory):
    newest = directory / "0000000020"
    assert len(files(newest)) > 5
    for path in files(newest):
        content = path.read_bytes()
        middle = len(content) // 2
        flipped = bytes([content[middle] ^ 1])
        path.write_bytes(content[:middle] + flipped + content[middle + 1 :])
        with pytest.warns(UserWarning, match="checkpoint 0000000010 in .* is used.*0000000020: "):
            assert identical(restore_latest(directory, state()).state, state(10)), path
        path.write_bytes(content)
    assert restore_latest(directory, state()).step == 20


def test_orbax_alone_restores_a_flipped_bit_silently(tmp_path):
    # The control of the test before: without a checksum, this is what a run would go on from.
    noise = {"noise": np.random.default_rng(0).normal(size=(64, 64))}
    folder = save(tmp_path, 1, noise) / checkpoints.STATE
    path = max(files(folder), key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    (found,) = ocp.PyTreeCheckpointer().restore(folder).values()
    assert found.shape == (64, 64)
    assert not np.array_equal(found, noise["noise"])
    with pytest.raises(ValueError, match="checksum differs"):
        restore_latest(tmp_path, noise)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda path: os.truncate(path, path.stat().st_size // 2), "checksum differs: state/"),
        (lambda path: os.truncate(path, 0), "checksum differs: state/"),
        (lambda path: path.unlink(), "missing: state/"),
        (
            lambda path: path.with_name("more").write_text("x", encoding="utf-8"),
            "not saved with it: state/",
        ),
        (lambda path: (path.parents[2] / "SHA256SUMS").unlink(), "cannot be read"),
        (lambda path: shutil.rmtree(path.parents[2] / "state"), "missing: state/"),
    ],
)
def test_what_is_cut_short_or_gone_or_added_is_told(spoil, told, directory):
    spoil(
        max(files(directory / "0000000020" / "state" / "d"), key=lambda path: path.stat().st_size)
    )
    with pytest.warns(UserWarning, match=f"0000000010 in .* is used.*0000000020: .*{told}"):
        assert restore_latest(directory, state()).step == 10


def test_none_that_is_whole_and_none_at_all_are_errors(directory, tmp_path):
    for name in ("0000000010", "0000000020"):
        (directory / name / "leaves.json").write_text("[]", encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"every checkpoint in .* is damaged \(0000000020: .*; 0000000010: "
    ):
        restore_latest(directory, state())
    with pytest.raises(FileNotFoundError, match="nowhere holds no checkpoint"):
        restore_latest(tmp_path / "nowhere", state())


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"flag": np.zeros(2, bool)}, r"\['flag'\] is bool\[\], and must be bool\[2\]"),
        ({"raw key": np.zeros(2, int)}, r"\['raw key'\] is uint32\[2\], and must be int64\[2\]"),
        (
            {"streams": keys("threefry2x32", 2)},
            r"key<rbg>\[4\], and must be key<fry>\[4\]",
        ),
        ({"nothing": np.ones(1, np.float32)}, r"\['nothing'\] is absent, and must be float32\[1\]"),
        ({"numbers": [3, 2.5]}, r"\['numbers'\]\[2\] is bool\[\], and must be absent"),
    ],
)
def test_a_state_of_another_shape_is_refused_by_the_name_of_its_leaf(change, expected, directory):
    with pytest.raises(ValueError, match=f"0000000020 does not fit: .*{expected}"):
        restore_latest(directory, state() | change)


@pytest.mark.parametrize(
    ("step", "value", "keep", "error", "expected"),
    [
        (-1, 1, 3, ValueError, "step must be at least 0, got -1"),
        (1, 1, 0, ValueError, "keep must be at least 1, got 0"),
        (1, None, 3, ValueError, "the state has no leaf"),
        (1, "words", 3, TypeError, "words"),
    ],
)
def test_bad_arguments_are_named_and_write_nothing(step, value, keep, error, expected, tmp_path):
    with pytest.raises(error, match=expected):
        save(tmp_path, step, value, keep=keep)
    assert list(tmp_path.iterdir()) == []


class Killed(BaseException):
    """Passes every `except Exception`, as a process that is killed runs no handler at all."""


@pytest.mark.parametrize("moment", ["orbax", "leaves", "sums", "replaced", "named", "pruned"])
def test_killed_at_any_moment_of_a_save_the_last_one_stands(moment, directory, monkeypatch):
    def at(owner, name, when):
        original = getattr(owner, name)

        def killed(*args, **kwargs):
            if when(*args):
                raise Killed
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, killed)

    # The same step again, for the moment in which the old one is moved away.
    again = moment in ("replaced", "named")
    {
        "orbax": lambda: at(ocp.PyTreeCheckpointer, "close", lambda *_: True),
        "leaves": lambda: at(
            checkpoints, "_write_durably", lambda path, _: path.name == "leaves.json"
        ),
        "sums": lambda: at(
            checkpoints, "_write_durably", lambda path, _: path.name == "SHA256SUMS"
        ),
        "replaced": lambda: at(
            type(directory), "rename", lambda path, _: path.name == "0000000020"
        ),
        "named": lambda: at(type(directory), "rename", lambda path, _: path.name == ".unfinished"),
        "pruned": lambda: at(shutil, "rmtree", lambda path, *_: path.name == "0000000010"),
    }[moment]()
    with pytest.raises(Killed):
        save(directory, 20 if again else 30, state(30), keep=1 if moment == "pruned" else 3)
    monkeypatch.undo()
    step = {"named": 10, "pruned": 30}.get(moment, 20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert identical(restore_latest(directory, state()).state, state(step))
    save(directory, 40, state(40))
    assert restore_latest(directory, state()).step == 40
    assert all(path.name.isdecimal() for path in directory.iterdir())


# orbax leaves an event loop behind when a write fails, and says so when it is collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("limit", [40, 3000])
def test_a_file_that_cannot_be_written_is_a_system_error_and_costs_nothing(
    limit, directory, capfd, caplog
):
    # A limit on a file's size fails in the same system call as a full disk does: in orbax's small
    # files, or in the data, which TensorStore writes.
    resource = pytest.importorskip("resource", reason="limits as Unix has them")
    large = {"noise": jax.device_put(np.random.default_rng(0).normal(size=(64, 64)))}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as failed:
            save(directory, 30, large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert failed.value.errno == errno.EFBIG
    assert identical(restore_latest(directory, state()).state, state(20))
    assert {path.name for path in directory.iterdir()} == {"0000000010", "0000000020"}
    assert "Traceback" not in capfd.readouterr().err
    assert logging.getLogger("absl").isEnabledFor(logging.WARNING)
    save(directory, 30, large)
    assert restore_latest(directory, large).step == 30
