"""Policy-gradient estimators in pure JAX that prove themselves.

The public names stand on one page, `__init__.pyi`. Each is imported on first use, so `import pgjax`
and `pgjax --help` load no JAX.
"""

import ast
import difflib
import importlib
import sys
from pathlib import Path
from typing import Any

__version__ = "0.2.0"


def _public_names() -> dict[str, tuple[str, str]]:
    """The page's names, each with the module that it is imported from and its name there."""
    page = ast.parse(Path(__file__).with_suffix(".pyi").read_text("utf-8"))
    return {
        alias.asname or alias.name: (f"pgjax.{node.module or ''}".rstrip("."), alias.name)
        for node in page.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


_PUBLIC = _public_names()


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'pgjax' has no attribute {name!r}{_instead_of(name)}")
    module, original = _PUBLIC[name]
    package = importlib.import_module(module)
    if package is sys.modules[__name__] or not hasattr(package, original):
        return importlib.import_module(f"{module}.{original}")
    return getattr(package, original)


_ELSEWHERE = {
    "gae": "pgjax.weights.generalized_advantage, and pgjax.actor_critic for an estimator",
    "ppo": "pgjax.terms.ppo_clip, or `pgjax train --algorithm ppo`",
    "a2c": "pgjax.actor_critic, or `pgjax train --algorithm a2c`",
}


def _instead_of(name: str) -> str:
    """The end of an error message: the public names that are closest to this one."""
    if name.lower() in _ELSEWHERE:
        return f"; see {_ELSEWHERE[name.lower()]}"
    near = difflib.get_close_matches(name.lower(), [*_PUBLIC])
    return f"; did you mean {' or '.join(f'pgjax.{each}' for each in near)}?" if near else ""


def __dir__() -> list[str]:
    return sorted([*_PUBLIC, "__version__"])
