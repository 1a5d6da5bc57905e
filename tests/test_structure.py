"""The shape of the house: imports go down, importing is cheap, every public name is documented."""

import ast
import importlib
import inspect
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

import pgjax

ROOT = Path(pgjax.__file__).parent

# A folder or file may import those before it in this list, and none after it.
ORDER = [
    *(
        "records",
        "settings",
        "types",
        "core",
        "diagnostics",
        "returns",
        "baselines",
        "terms",
        "policies",
    ),
    "exact",
    *("weights", "environments", "estimators", "regularization", "tokens", "control_variates"),
    *("enumeration", "rollouts", "beyond", "expectations", "training", "proof", "cli"),
    "__main__",
]
PATHS = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
    if path != ROOT / "__init__.py"
}
MODULES = sorted(PATHS)
LIBRARY = [name for name in MODULES if not name.startswith("cli")]


@cache
def imported(path: Path) -> frozenset[str]:
    """Every module that a file imports, anywhere in it, by its full name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
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
    return frozenset(found)


def inner(names: frozenset[str]) -> set[str]:
    """Those of pgjax: `pgjax.exact.values` is "exact.values", `pgjax.exact.gradient` is "exact"."""
    found = set()
    for name in names:
        parts = name.split(".")[1:] if name.startswith("pgjax.") else []
        while parts and ".".join(parts) not in PATHS:
            parts = parts[:-1]
        found |= {".".join(parts)} - {""}
    return found


def outer(names: frozenset[str]) -> set[str]:
    return {name.split(".")[0] for name in names} - {"pgjax"} - sys.stdlib_module_names


def room(name: str) -> str:
    return name.split(".")[0]


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_down_the_list_of_folders(name: str) -> None:
    allowed = ORDER[: ORDER.index(room(name)) + 1]
    assert {room(other) for other in inner(imported(PATHS[name]))} <= set(allowed)


def in_circles(arrows: dict[str, set[str]]) -> list[str]:
    """Modules on a circle of imports, or between two of them; none if there is no circle."""
    left = set(arrows)
    while free := {
        name
        for name in left
        if not arrows[name] & left or not any(name in arrows[other] for other in left)
    }:
        left -= free
    return sorted(left)


def test_no_modules_import_each_other_in_a_circle() -> None:
    # A package's __init__ collects the names of its modules, which never import it.
    arrows = {name: inner(imported(path)) - {name} for name, path in PATHS.items()}
    assert in_circles(arrows) == []
    assert in_circles({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}) == ["b", "c"]


def test_the_root_holds_few_files() -> None:
    assert len(list(ROOT.glob("*.py"))) <= 8


def test_the_import_check_rejects_an_upward_import(tmp_path: Path) -> None:
    wrong = tmp_path / "returns.py"
    wrong.write_text(
        "def f():\n    from pgjax.estimators import gradient\n    import gymnax.x\n",
        encoding="utf-8",
    )
    assert inner(imported(wrong)) == {"estimators"}
    assert ORDER.index("estimators") > ORDER.index("returns")
    assert outer(imported(wrong)) == {"gymnax"}


def test_the_oracle_knows_no_estimator() -> None:
    seen, todo = set(), {"exact"}
    while todo:
        name = todo.pop()
        seen.add(name)
        todo |= inner(imported(PATHS[name])) - seen
    assert not seen & {"estimators", "weights", "terms", "baselines", "returns"}


def test_only_the_adapters_import_gymnax() -> None:
    importers = {name for name in MODULES if "gymnax" in outer(imported(PATHS[name]))}
    assert importers == {"environments.import_gymnax"}


def test_the_pure_modules_import_arrays_and_little_else() -> None:
    allowed = {"jax", "jaxtyping", "numpy"}
    pure = ("returns", "baselines", "weights", "terms", "estimators", "diagnostics", "enumeration")
    for name in (name for name in MODULES if room(name) in pure):
        assert outer(imported(PATHS[name])) <= allowed | {"scipy"}, name
    for name in (name for name in MODULES if name.startswith("diagnostics")):
        needed = inner(imported(PATHS[name])) - {"core.validation"}
        assert {room(other) for other in needed} <= {"types", "diagnostics"}


def loaded_after(*statements: str, folder: Path) -> list[set[str]]:
    """The modules in a fresh interpreter after each of the statements.

    Modules in the folder are found before those that are installed.
    """
    show = "print(*sys.modules)"
    begin = f"import sys; sys.path.insert(0, {str(folder)!r})"
    code = "\n".join([begin, *(f"{statement}\n{show}" for statement in statements)])
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, encoding="utf-8"
    )
    return [set(line.split()) for line in run.stdout.splitlines()]


def test_names_import_only_what_they_need(tmp_path: Path) -> None:
    # Another seaborn: the real one brings pandas, which takes longer than all the rest.
    (tmp_path / "seaborn.py").write_text("def color_palette(): ...", encoding="utf-8")
    package, oracles, rollouts, proofs, environments, named, plots = loaded_after(
        "import pgjax; pgjax.__version__",
        "pgjax.gradient, pgjax.exact, pgjax.enumeration",
        "pgjax.rollout, pgjax.TabularMDP",
        "pgjax.training.ppo, pgjax.assert_unbiased, pgjax.assert_converges",
        "pgjax.environments.make",
        "pgjax.environments.make('CartPole-v1')",
        "from gymnax.environments.misc import pong\n"
        "import seaborn, matplotlib.pyplot\n"
        "assert pong.sns.color_palette is seaborn.color_palette\n"
        "assert pong.plt.figure is matplotlib.pyplot.figure\n"
        "assert type(sys.modules['seaborn']) is type(sys)",
        folder=tmp_path,
    )
    assert not package & {"jax", "flax", "optax", "gymnax", "matplotlib", "numpy", "rich"}
    assert "jax" in oracles
    assert not oracles & {"gymnax", "matplotlib", "optax"}
    assert "gymnax" not in rollouts
    assert "pgjax.proof.unbiased" in proofs
    assert "scipy.stats" not in proofs  # it takes half a second
    assert not environments & {"gymnax", *pgjax.environments.LIBRARIES}
    # gymnax draws with plotting libraries: they are imported when it does, and are the real ones.
    assert "gymnax" in named
    assert not named & {"seaborn", "pandas"}
    assert "seaborn" in plots


def public_page() -> dict[str, object]:
    """Each name on the public page, and what it stands for."""
    found = {}
    for node in ast.parse((ROOT / "__init__.pyi").read_text("utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                assert alias.asname, f"{alias.name} is not re-exported"
                package = importlib.import_module(f"pgjax.{node.module or ''}".rstrip("."))
                inside = f"{package.__name__}.{alias.name}"
                if not hasattr(package, alias.name):  # a module that nothing has imported yet
                    importlib.import_module(inside)
                found[alias.asname] = getattr(package, alias.name)
    return found


def test_every_name_on_the_public_page_exists() -> None:
    page = public_page()
    assert set(page) <= set(dir(pgjax))
    for name, item in page.items():
        assert getattr(pgjax, name) is item, name
    with pytest.raises(AttributeError, match="nonexistent"):
        _ = pgjax.nonexistent  # pyright: ignore[reportAttributeAccessIssue]


# The public page of version 0.1: its names stay importable whatever moves.
FIRST_PAGE = """
actor_critic agents baselines beyond bridge certificate checkpoints control_variates critics
diagnostics enumeration environments estimators exact groups off_policy policies registry
regularization rollouts sampling suite tabular terms training weights windows Certificate certify
dr_grpo gradient grpo mismatched_reward_to_go per_trajectory_gradients reinforce reward_to_go rloo
surrogate MLP ConvNet GaussianMLP factored_policy flax_gaussian_policy flax_policy
flax_recurrent_policy gaussian_policy multi_discrete_policy recurrent_policy softmax_policy
squashed_gaussian_policy tabular_softmax log_probs discounted_returns generalized_advantages
lambda_returns n_step_returns td_errors rollout sampled_gradient sampled_moments TabularMDP
Estimator MaskedObservation Moments Policy RecurrentPolicy Spread Trajectory assert_unbiased checked
"""


def test_no_name_of_the_first_public_page_is_lost() -> None:
    assert set(FIRST_PAGE.split()) <= set(public_page())


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


BIAS_STATED = [
    *("baselines.constants", "baselines.by_time", "baselines.by_state", "baselines.from_batch"),
    *("baselines.by_group", "weights.on_policy", "weights.normalised", "estimators"),
    *("terms.score_function", "terms.ratios", "terms.clips", "terms.dice"),
    *("returns", "exact.values", "exact.derivatives", "exact.moments", "exact.regularized"),
    *("regularization", "weights.off_policy.importance", "weights.off_policy.traces"),
    "control_variates.baselines",
    *("expectations.biased", "expectations.coupled", "expectations.vimco"),
    "expectations.estimates",
]


@pytest.mark.parametrize("name", BIAS_STATED)
def test_every_estimate_states_its_bias(name: str) -> None:
    module = importlib.import_module(f"pgjax.{name}")
    functions = {
        key: item for key, item in public_functions(module).items() if inspect.isfunction(item)
    }
    assert functions
    for key, item in functions.items():
        assert "\nBias: " in (inspect.getdoc(item) or ""), f"{name}.{key} states no bias"
