"""Mutants: each is one change of one place, and a child that runs one ends with what it started."""

import ast
import os
import select
import subprocess
import sys

import pytest

pytest.importorskip("resource", reason="processes and limits as Unix has them")
from tests.mutants import AREAS, area_of, in_child, known_equivalent, summary
from tests.mutations import PACKAGE, mutants_of, sample


def test_each_mutant_is_one_change_of_one_place_that_python_takes():
    for path in ("returns.py", "terms/clips.py", "exact/values.py"):
        before = ast.dump(ast.parse((PACKAGE / path).read_bytes()))
        mutants = mutants_of(path)
        assert len({mutant.name for mutant in mutants}) == len(mutants) > 10
        for mutant in mutants[::7]:
            assert ast.dump(ast.parse(mutant.source())) != before, mutant


TOY = """
def f(x, mask):
    \"\"\"1 + 1.\"\"\"
    if x.ndim != 7:
        raise ValueError(f"{x.ndim + 1}")
    check(x)
    return jnp.where(mask, x[1:], 0) * jax.lax.stop_gradient(jnp.max(x, axis=4))
"""


def test_the_kinds_are_those_of_the_faults_that_people_make(tmp_path):
    (tmp_path / "toy.py").write_text(TOY, encoding="utf-8")
    found = {(mutant.kind, mutant.new) for mutant in mutants_of(str(tmp_path / "toy.py"))}
    peak, masked = "jax.lax.stop_gradient(jnp.max(x, axis=4))", "jnp.where(mask, x[1:], 0)"
    assert found == {
        ("comparison", "x.ndim == 7"),
        ("constant", "8"),
        ("constant", "6"),
        ("statement dropped", "pass"),
        ("arithmetic", f"{masked} / {peak}"),
        ("operand dropped", f"({masked})"),
        ("operand dropped", f"({peak})"),
        ("where", "jnp.where(mask, 0, x[1:])"),
        ("where", "(x[1:])"),
        ("slice", "2"),
        ("slice", "0"),
        ("constant", "1"),
        ("constant", "-1"),
        ("stop_gradient", "(jnp.max(x, axis=4))"),
        ("function", "jnp.min(x, axis=4)"),
        ("axis", "5"),
    }


def test_a_sample_takes_turns_and_a_larger_one_begins_with_it():
    areas = [["returns.py"], ["terms/clips.py", "terms/dice.py"]]
    first = [mutant.path for _, mutant in zip(range(40), sample(areas, 0), strict=False)]
    assert first.count("returns.py") == 20
    assert first.count("terms/clips.py") == first.count("terms/dice.py") == 10
    assert next(sample(areas, 0)) != next(sample(areas, 1))


def test_every_area_has_files_and_tests():
    paths = [str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py")]
    for area, names in AREAS.items():
        assert any(area_of(path) == area for path in paths)
        for name in names.split():
            assert (PACKAGE.parent / "tests" / f"test_{name}.py").exists(), name


def test_a_child_answers_or_is_ended_with_what_it_started():
    reader, writer = os.pipe()

    def never() -> None:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], pass_fds=[writer])
        while True:
            pass

    assert in_child(lambda: [1, "two"], 60) == [1, "two"]
    assert in_child(lambda: os._exit(1), 60) is None
    assert in_child(never, 0.5) is None
    os.close(writer)
    assert select.select([reader], [], [], 60)[0]  # no process holds the other end
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_the_summary_counts_each_mutant_by_area_and_by_kind():
    results = [
        {"name": f"terms/dice.py:f: {outcome}", "path": "terms/dice.py", "line": 3, "kind": "axis"}
        | {"outcome": outcome}
        for outcome in ("killed", "survived", "equivalent", "killed")
    ]
    lines = summary(results).splitlines()
    assert lines[1].split() == ["terms", "4", "2", "0", "1", "1"]
    assert lines[4].split() == ["axis", "4", "2", "0", "1", "1"]
    assert lines[-1] == "alive, line 3: terms/dice.py:f: survived"
    assert isinstance(known_equivalent(), set)
