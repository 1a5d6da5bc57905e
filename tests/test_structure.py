"""The shape of the house: imports go down, importing is cheap, every public name is documented."""

import ast
import doctest
import importlib
import inspect
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import pgjax

ROOT = Path(pgjax.__file__).parent

# Each level may import the levels above it in this list, never its own or a later one.
LEVELS = [
    {"_version", "types", "devices", "hoisting", "deferral", "compilation"},
    {
        "validation",
        "recurrence",
        "environments.libraries",
        "through_time",
        "policies.networks",
    },
    {
        "returns",
        "groups",
        "checkpoints",
        "environments.surface",
        "policies.distribution",
    },
    {
        "cuts",
        "tabular",
        "environments.actions",
        "environments.from_brax",
        "environments.from_craftax",
        "environments.from_gymnax",
        "environments.from_jumanji",
        "environments.from_navix",
        "environments.from_pgx",
        "policies.softmax",
        "policies.gaussian",
        "baselines",
        "dice",
    },
    {
        "weights",
        "terms",
        "off_policy.ratios",
        "pullback",
        "environments",
        "environments.from_tabular",
        "policies.squashed",
        "policies.product",
        "policies.recurrent",
        "diagnostics.geometry",
        "diagnostics.importance",
        "diagnostics.exactly",
    },
    {"compositions", "environments.sources", "off_policy.importance", "off_policy.traces"},
    {"diagnostics.moments", "critics", "estimators", "off_policy", "policies.modules"},
    {
        "policies",
        "control_variates.fits",
        "control_variates.scores",
        "exact.dynamics",
        "diagnostics.intervals",
        "regularization",
    },
    {"beyond.all_action", "beyond.traces", "beyond.parameter_space"},
    {"control_variates", "exact.values", "exact.recursion", "bridge.laws", "diagnostics", "agents"},
    {"exact.derivatives", "exact.moments", "exact.regularized", "bridge.exploration"},
    {"exact", "bridge.tables", "default_networks"},
    {"enumeration", "rollouts", "suite", "bridge", "beyond.fisher"},
    {"beyond.episodes", "beyond.natural", "beyond.pairs"},
    {"beyond.antithetic", "beyond.pathwise", "beyond.streams"},
    {"beyond"},
    {
        "training",
        "comparison",
        "convergence",
        "registry.row",
        "sampling",
        "streaming",
        "windows",
    },
    {
        "registry.essentials",
        "registry.off_policy",
        "registry.variance",
        "registry.beyond",
        "registry.critics",
        "registry.groups",
        "registry.proximal",
        "registry.regularized",
        "minibatches",
    },
    {"registry", "actor_critic"},
    {"certificate", "unbiased"},
    {"plots"},
]
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}
PATHS = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
    if path != ROOT / "__init__.py" and path.relative_to(ROOT).parts[0] != "cli"
}
MODULES = sorted(PATHS)  # the command line is imported by nobody, and may import anything
LIBRARY = [name for name in MODULES if name != "plots"]


def imported(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it, by its full name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            assert node.module is not None
            # `from pgjax import terms` imports a module, and so may `from pgjax.exact import x`.
            if node.module.split(".")[0] == "pgjax":
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
            else:
                found.add(node.module)
    return found


def inner(names: set[str]) -> set[str]:
    """Those of pgjax: `pgjax.exact.values` is "exact.values", `pgjax.exact.gradient` is "exact"."""
    found = set()
    for name in names:
        parts = name.split(".")[1:] if name.startswith("pgjax.") else []
        while parts and ".".join(parts) not in PATHS and parts != ["cli"]:
            parts = parts[:-1]
        found |= {".".join(parts)} - {""}
    return found


def outer(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names} - {"pgjax"} - sys.stdlib_module_names


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_strictly_downward(name: str) -> None:
    assert name in LEVEL, f"pgjax/{name}.py has no level in this test"
    below = {other for other, level in LEVEL.items() if level < LEVEL[name]}
    assert inner(imported(PATHS[name])) <= below


def test_nothing_imports_the_command_line() -> None:
    for name in MODULES:
        assert "cli" not in inner(imported(PATHS[name]))


def test_the_import_check_rejects_an_upward_import(tmp_path: Path) -> None:
    wrong = tmp_path / "returns.py"
    wrong.write_text("def f():\n    from pgjax.estimators import gradient\n    import gymnax.x\n")
    assert inner(imported(wrong)) == {"estimators"}
    assert LEVEL["estimators"] > LEVEL["returns"]
    assert outer(imported(wrong)) == {"gymnax"}


def test_the_oracle_knows_no_estimator() -> None:
    seen, todo = set(), {"exact"}
    while todo:
        name = todo.pop()
        seen.add(name)
        todo |= inner(imported(PATHS[name])) - seen
    assert not seen & {"estimators", "weights", "terms", "baselines", "returns"}


SAMPLED_BEYOND = {f"beyond.{name}" for name in ("antithetic", "episodes", "pathwise", "streams")}


def test_only_its_adapter_and_the_laws_of_environments_import_gymnax() -> None:
    importers = {name for name in MODULES if "gymnax" in outer(imported(PATHS[name]))}
    assert importers == {"environments.from_gymnax", "bridge.laws"}
    users = {name for name in MODULES if "rollouts" in inner(imported(PATHS[name]))}
    sampled = {"training", "windows", "actor_critic", "comparison", *SAMPLED_BEYOND}
    assert users <= sampled | {"convergence", "unbiased", "streaming"}


def test_the_pure_modules_import_arrays_and_little_else() -> None:
    allowed = {"jax", "jaxtyping", "numpy"}
    for name in ("returns", "baselines", "weights", "terms", "estimators",
                 "diagnostics.moments", "diagnostics.geometry", "diagnostics.importance",
                 "enumeration", "exact.values", "validation"):  # fmt: skip
        assert outer(imported(PATHS[name])) <= allowed, name
    for name in (name for name in MODULES if name.startswith("diagnostics")):
        seen = inner(imported(PATHS[name]))
        assert all(other == "types" or other.startswith("diagnostics.") for other in seen), name


def loaded_after(statement: str) -> set[str]:
    """The top-level modules in a fresh interpreter after a statement."""
    code = f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_importing_the_package_imports_no_heavy_library() -> None:
    heavy = {"jax", "flax", "optax", "gymnax", "matplotlib", "numpy", "rich"}
    assert loaded_after("import pgjax; pgjax.__version__") & heavy == set()


def test_estimators_and_oracles_need_neither_gymnax_nor_matplotlib() -> None:
    loaded = loaded_after("import pgjax; pgjax.gradient, pgjax.exact, pgjax.enumeration")
    assert "jax" in loaded
    assert loaded & {"gymnax", "matplotlib", "optax"} == set()


def test_rollouts_need_no_plotting_library_and_leave_none_replaced() -> None:
    loaded = loaded_after("import pgjax; pgjax.rollout")
    assert "gymnax" in loaded
    assert loaded & {"seaborn", "pandas"} == set()
    use = (
        "import pgjax, sys; pgjax.rollout; from gymnax.environments.misc import pong\n"
        "import seaborn, matplotlib.pyplot\n"
        "assert pong.sns.color_palette is seaborn.color_palette\n"
        "assert pong.plt.figure is matplotlib.pyplot.figure\n"
        "assert type(sys.modules['seaborn']) is type(sys)"
    )
    assert "seaborn" in loaded_after(use)


def stub_names() -> dict[str, str]:
    """Each name on the public page and the module it comes from."""
    found = {}
    for node in ast.parse((ROOT / "__init__.pyi").read_text()).body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                assert alias.asname == alias.name, f"{alias.name} is not re-exported as itself"
                found[alias.name] = node.module or alias.name
    return found


def test_every_name_on_the_public_page_exists() -> None:
    assert set(stub_names()) <= set(dir(pgjax))
    for name, module in stub_names().items():
        item = getattr(pgjax, name)
        source = importlib.import_module(f"pgjax.{module}")
        assert item is (source if module == name else getattr(source, name))


def public_functions(module: ModuleType) -> dict[str, object]:
    return {
        name: item
        for name, item in vars(module).items()
        if callable(item)
        and not name.startswith("_")
        and getattr(item, "__module__", "") == module.__name__
        and not (inspect.isclass(item) and issubclass(item, tuple) and name == "Function")
    }


@pytest.mark.parametrize("name", LIBRARY)
def test_every_public_function_and_class_is_documented(name: str) -> None:
    module = importlib.import_module(f"pgjax.{name}")
    if not name.startswith("_"):
        assert module.__doc__
    for key, item in public_functions(module).items():
        doc = inspect.getdoc(item)
        assert doc, f"{name}.{key} has no docstring"
        assert doc.splitlines()[0].endswith((".", ":")), f"{name}.{key}: {doc.splitlines()[0]}"


BIAS_STATED = ["baselines", "weights", "terms", "compositions", "estimators", "returns",
               "exact.values", "exact.derivatives", "exact.moments", "exact.regularized",
               "dice", "regularization", "off_policy.importance", "off_policy.traces",
               "control_variates.fits"]  # fmt: skip
HELPERS = {
    "returns": {"reverse_affine", "accumulation_dtype"},
    "exact.values": {"objective_under"},
}


@pytest.mark.parametrize("name", BIAS_STATED)
def test_every_estimate_states_its_bias(name: str) -> None:
    module = importlib.import_module(f"pgjax.{name}")
    functions = {
        key: item
        for key, item in public_functions(module).items()
        if inspect.isfunction(item) and key not in HELPERS.get(name, set())
    }
    assert functions
    for key, item in functions.items():
        assert "\nBias: " in (inspect.getdoc(item) or ""), f"{name}.{key} states no bias"


@pytest.mark.parametrize("name", [name for name in LIBRARY if name != "_version"])
def test_examples_in_docstrings_run(name: str) -> None:
    result = doctest.testmod(importlib.import_module(f"pgjax.{name}"))
    assert result.failed == 0


def test_there_are_examples_to_run() -> None:
    finder = doctest.DocTestFinder()
    for name in ("returns", "exact.values", "enumeration", "policies.softmax", "rollouts",
                 "diagnostics.moments"):  # fmt: skip
        module = importlib.import_module(f"pgjax.{name}")
        assert sum(len(test.examples) for test in finder.find(module)) > 1, name
