"""A user's own code: the object that `module:name` names, and its errors, each in one line.

Imports no JAX, so that a wrong name is reported at once.
"""

import contextlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def load(target: str) -> Any:
    """The object that `module:name` or `path/to/file.py:name` names.

    Raises:
        ValueError: if there is no such module, file or name, or the module cannot be imported.
    """
    module_name, colon, name = target.rpartition(":")
    if not colon or not module_name or not name:
        raise ValueError(f"the estimator must be given as module:name, got {target}")
    load_module = _load_file if module_name.endswith(".py") else _import
    try:
        module = load_module(module_name)
    except SystemExit as end:
        raise ValueError(
            f"{module_name} ends the process with status {end.code or 0} when it is imported; put "
            'what is for the command line behind `if __name__ == "__main__":`'
        ) from None
    except (ValueError, ImportError):
        raise
    except Exception as error:
        raise ValueError(f"{module_name} cannot be imported: {shown(error)}") from error
    found = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise ValueError(f"module {module_name} has no {name}; check the spelling")
        found = getattr(found, part)
    return found


def shown(error: BaseException) -> str:
    """An error of the user's own code, with the file and line where it was raised."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    file, line = place.filename, place.lineno
    if isinstance(error, SyntaxError) and error.filename:
        file, line = error.filename, error.lineno
    return f"{type(error).__name__}: {error} ({Path(file).name}, line {line})"


@contextlib.contextmanager
def named(target: str) -> Iterator[None]:
    """A context that turns errors of the user's code into a ValueError that names the target."""
    try:
        yield
    except SystemExit as end:
        raise ValueError(
            f"{target} ends the process with status {end.code or 0}; let it return an estimator"
        ) from None
    except (ValueError, TypeError, ImportError) as error:
        raise ValueError(f"{target}: {error}") from error
    except Exception as error:
        raise ValueError(f"{target} fails with {shown(error)}") from error


def _load_file(name: str) -> Any:
    path = Path(name)
    if not path.is_file():
        raise ValueError(f"there is no file {path}; check the path")
    sys.path.insert(0, str(path.resolve().parent))  # as `python path` would
    specification = importlib.util.spec_from_file_location(path.stem, path)
    assert specification is not None  # a .py file always has one
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def _import(name: str) -> Any:
    sys.path.insert(0, "")  # the folder the command is called from, as for `python -m`
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise ValueError(
                f"there is no module {name} here or on Python's path; check the spelling, or give "
                "a path that ends in .py"
            ) from None
        raise ValueError(f"{name} could not be imported: {error}") from error
