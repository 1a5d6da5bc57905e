"""A faster way for JAX to write down the many small programs of these tests."""

from functools import cache

from jax._src.interpreters import mlir


def share_context() -> None:
    """Write all programs of this process into one MLIR context.

    JAX makes a context for each program, so that it can forget the program. The loading of its
    dialects and its removal take a ninth of the tests' time, and the memory stays in use. This is
    a private name of JAX: without it the tests are slower, and otherwise the same.
    """
    if hasattr(mlir, "make_ir_context"):
        mlir.make_ir_context = cache(mlir.make_ir_context)
