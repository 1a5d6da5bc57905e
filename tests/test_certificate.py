"""The certificate is exact, no estimator escapes it, and no page shows another number."""

import functools
import inspect
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

from pgjax import Problem, certificate, enumeration, estimators, exact, registry, suite
from pgjax.cli import certificate_pictures as pictures
from pgjax.cli import certificate_tables as tables
from pgjax.cli import main
from pgjax.proof.certificate import TARGET, Certificate, certify, refuted, with_visible_states
from pgjax.proof.registry import ROWS, Row
from pgjax.types import Estimator

ROOT = Path(__file__).parents[1]
PROBLEMS = {problem.name: problem for problem in suite.certified()}
UNBIASED = sum(row.is_unbiased for row in ROWS)
EXACT = 1e-10  # sums of up to 35,000 float64 terms, relative to ‖∇J‖


def named(certificates: list[Certificate], name: str) -> dict[str, Certificate]:
    return {found.problem: found for found in certificates if found.row.name == name}


# The numbers


def test_statements_of_bias_agree_with_the_exact_numbers(certificates):
    assert refuted(certificates) == []
    for name in {row.name for row in ROWS}:
        found = named(certificates, name)
        assert set(found) == set(PROBLEMS)
        largest = max(each.bias for each in found.values())
        is_unbiased = next(row for row in ROWS if row.name == name).is_unbiased
        assert largest < EXACT if is_unbiased else largest > 1e-6


def test_a_false_claim_is_refuted(certificates):
    liar = [
        found._replace(row=found.row._replace(bias="none, says the row"))
        for found in named(certificates, "reward-to-go without γ^t").values()
    ]
    modest = [
        found._replace(row=found.row._replace(bias="biased, says the row"))
        for found in named(certificates, "RLOO").values()
    ]
    first, second = refuted([*liar, *modest])
    assert "none, says the row" in first
    assert "on continuing its exact relative bias is 0.24" in first
    assert "biased, says the row" in second


def test_a_function_is_certified_too_and_found_out():
    problem = PROBLEMS["bandit"]
    estimator = estimators.reward_to_go(problem.mdp.discount)
    twice = Row(
        "twice", "", "", "", "none",
        make=lambda seen: lambda params, batch: (
            2 * estimators.gradient(estimator, seen.policy, params, batch)
        ),
    )  # fmt: skip
    (found,) = certify([twice], [problem])
    assert found.bias == pytest.approx(1, rel=EXACT)
    assert found.variance == pytest.approx(4, rel=EXACT)
    assert found.cosine == pytest.approx(1, rel=EXACT)
    assert found.needed is None
    assert len(refuted([found])) == 1


def test_what_is_certified_is_what_gradient_returns():
    problem, batch = setting()
    rows = [row for row in ROWS[::4] if "moments" not in row.code]  # those are no estimators
    made = [row.estimate(problem) for row in rows]
    composed = [each for each in made if isinstance(each, Estimator)][::2]

    @jax.jit
    def both(params):
        return certificate.gradients(composed, problem.policy, params, batch), [
            estimators.gradient(estimator, problem.policy, params, batch) for estimator in composed
        ]

    for found, alone in zip(*both(jnp.asarray(problem.params)), strict=True):
        np.testing.assert_allclose(found, alone, rtol=1e-6, atol=1e-6)  # in float32 here


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("REINFORCE", exact.TOTAL_RETURN),
        ("reward-to-go", exact.REWARD_TO_GO),
        ("reward-to-go without γ^t", exact.MISMATCHED),
    ],
)
def test_enumeration_agrees_with_dynamic_programming(certificates, name, kind):
    problem = PROBLEMS["random"]
    check(certificates, name, problem, exact.moments(problem, of=kind))


@pytest.mark.parametrize("problem", [PROBLEMS["random"], PROBLEMS["look-alikes"]])
def test_baselines_agree_with_dynamic_programming(certificates, problem):
    best = exact.optimal_state_baseline(problem)
    for name, baseline in (
        ("reward-to-go − J", registry.evaluate("J", problem)),
        ("reward-to-go − best b(s_t)", best),
    ):
        expected = exact.moments(problem, baseline=baseline)
        check(certificates, name, problem, expected)


def check(certificates, name, problem, expected):
    found = named(certificates, name)[problem.name]
    scale = float(np.linalg.norm(found.truth))
    covariance = found.moments.covariance
    total = float(found.moments.total_variance)
    np.testing.assert_allclose(found.moments.mean, expected.mean, rtol=0, atol=EXACT * scale)
    np.testing.assert_allclose(covariance, expected.covariance, rtol=0, atol=EXACT * total)


def test_batch_mean_is_leave_one_out_shrunk_by_half(certificates):
    whole = named(certificates, "RLOO")
    for problem, found in named(certificates, "REINFORCE − batch mean").items():
        assert found.bias == pytest.approx(1 / 2, rel=EXACT)
        assert found.cosine == pytest.approx(1, rel=EXACT)
        assert found.variance == pytest.approx(whole[problem].variance / 4, rel=EXACT)


def test_the_best_function_of_the_state_beats_every_other_one(certificates):
    # J is a function of the state; E[G_t] and V_t(s_t) depend on time as well, and may do better.
    best = named(certificates, "reward-to-go − best b(s_t)")
    for name in ("reward-to-go", "reward-to-go − J"):
        for problem, found in named(certificates, name).items():
            assert best[problem].variance < found.variance


def test_the_mean_return_is_the_objective_and_the_first_return_to_go():
    problem = PROBLEMS["random"]
    J = exact.objective(problem)
    with jax.enable_x64(True):
        assert registry.evaluate("J", problem) == pytest.approx(J, rel=EXACT)
        assert float(registry.evaluate("G[0]", problem)) == pytest.approx(J, rel=EXACT)


def test_trajectories_needed_are_enough_and_no_fewer_are(certificates):
    def relative_square_error(found: Certificate, batches: float) -> float:
        variance = np.trace(found.moments.covariance) / np.sum(found.truth**2)
        return found.bias**2 + variance / batches

    for found in certificates:
        if found.needed is None:
            assert relative_square_error(found, np.inf) > TARGET**2
            continue
        K = found.row.batch_size
        assert found.needed % K == 0
        assert relative_square_error(found, found.needed / K) <= TARGET**2 * (1 + EXACT)
        if found.needed > K:
            assert relative_square_error(found, found.needed / K - 1) > TARGET**2


def test_a_problem_without_a_gradient_is_refused():
    problem = PROBLEMS["bandit"]
    flat = replace(problem, mdp=replace(problem.mdp, reward=0 * problem.mdp.reward))
    with pytest.raises(ValueError, match="bandit with ∇J = 0"):
        certify(ROWS[:1], [flat])


# The registry


def unregistered(module: Any, rows: tuple[Row, ...]) -> set[str]:
    """Public functions of a module that return an Estimator and that no row is composed with."""
    public = {
        name
        for name, item in vars(module).items()
        if inspect.isfunction(item)
        and not name.startswith("_")
        and inspect.signature(item).return_annotation is Estimator
    }
    assert public
    return public - {name for row in rows for name in re.findall(r"\.(\w+)\(γ", row.code)}


def test_every_public_estimator_has_a_row():
    assert unregistered(estimators, ROWS) == set()
    assert len({row.name for row in ROWS}) == len(ROWS)


def test_an_estimator_without_a_row_is_noticed():
    rest = tuple(row for row in ROWS if "pgjax.rloo(" not in row.code)
    assert unregistered(estimators, rest) == {"rloo"}


@functools.cache
def setting() -> tuple[Problem, Any]:
    """A problem, and a batch of two of its episodes."""
    problem = suite.off_policy(with_visible_states(PROBLEMS["random"]))
    batch, _ = enumeration.trajectories(replace(problem, behaviour=None))
    batch = jax.tree.map(lambda x: jnp.asarray(x[np.array([-1, 70])]), batch)
    value = np.asarray(batch.observation) @ np.arange(4, dtype=np.float32)
    return problem, replace(batch, value=value, action_value=value + 0.5)


def test_code_with_a_name_that_has_no_meaning_is_refused():
    problem, _ = setting()
    with pytest.raises(NameError, match="reinforce"):
        registry.evaluate("reinforce(γ)", problem)
    with pytest.raises(AttributeError, match="actor_critic"):
        registry.evaluate("pgjax.estimators.actor_criticc(γ, 0.95)", problem)
    assert registry.evaluate("pgjax.reinforce(γ)", problem) is not None


# The pages


def test_the_page_shows_what_is_computed(certificates):
    page = "docs/estimators.md"
    text = (ROOT / page).read_text("utf-8")
    fresh = tables.updated(text, tables.generated(certificates, suite.certified()))
    assert text == fresh, (
        f"{page} is out of date; run "
        "pgjax certify --update docs/estimators.md --output docs/certificate.png"
    )


def test_every_section_of_the_registry_is_on_the_page(certificates):
    text = (ROOT / "docs/estimators.md").read_text("utf-8")
    for name in tables.generated(certificates, suite.certified()):
        assert name.startswith("compositions") or f"certificate:begin {name} -->" in text


def test_a_stale_page_is_noticed(certificates):
    text = (ROOT / "docs/estimators.md").read_text("utf-8")
    stale = text.replace("| 50% |", "| 49% |")
    assert stale != text
    assert tables.updated(stale, tables.generated(certificates, suite.certified())) == text


def test_no_printed_number_stands_on_the_edge_of_rounding(certificates):
    # Another machine rounds its float64 sums differently, far below this.
    def printed(found: Certificate, factor: float) -> list[str]:
        moments = found.moments._replace(covariance=found.moments.covariance * factor)
        moved = found._replace(moments=moments)
        cells = [cell(moved, digits) for cell in CELLS for digits in (2, 3)]
        bias = [f"{100 * found.bias * factor:.{digits}g}" for digits in (2, 3)]
        return [*cells, *(bias if found.is_biased else [])]

    for found in certificates:
        assert printed(found, 1 - 1e-9) == printed(found, 1 + 1e-9)
        if found.cosine != 0:  # zero is what a mean of nothing but rounding has by definition
            assert f"{found.cosine - 1e-9:.4f}" == f"{min(found.cosine + 1e-9, 1):.4f}"


CELLS = (tables._variance_of, tables._needed_of)


@pytest.mark.parametrize(
    ("number", "digits", "text"),
    [(1.0, 3, "1.00"), (950.4, 2, "950"), (0.9996, 3, "1.00"), (0.00288, 2, "0.0029")],
)
def test_numbers_are_printed_to_their_digits(number, digits, text):
    assert tables.significant(number, digits) == text


@pytest.mark.parametrize(
    ("share", "digits", "text"),
    [(0.5, 3, "50%"), (1.0, 2, "100%"), (0.000123, 2, "0.012%"), (12.34, 3, "1230%")],
)
def test_biases_are_printed_without_powers_of_ten(share, digits, text):
    assert tables.percent(share, digits) == text


# The command


@pytest.fixture
def computed(certificates, monkeypatch):
    """The command without its half minute: certificates that are there, and empty pictures."""
    monkeypatch.setattr(pictures, "family", lambda found, title: Figure())
    monkeypatch.setattr(
        "pgjax.certificate.certify",
        lambda problems, rows=ROWS: [
            found
            for found in certificates
            if found.row in rows and found.problem in {each.name for each in problems}
        ],
    )


@pytest.mark.usefixtures("computed")
def test_the_command_prints_writes_and_updates(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- certificate:begin summary-essentials -->\nold\n<!-- certificate:end -->\nrest\n",
        encoding="utf-8",
    )
    picture, numbers = tmp_path / "certificate.png", tmp_path / "certificate.json"
    arguments = ["--output", str(picture), "--json", str(numbers), "--update", str(page)]
    assert main(["certify", *arguments]) == 0
    printed = capsys.readouterr().out
    assert all(row.name in printed for row in ROWS)
    assert f"PASS: {len(ROWS)} of {len(ROWS)} statements of bias hold" in printed
    for title in registry.SECTIONS:
        path = tmp_path / f"certificate-{title.replace(' ', '-')}.png"
        assert path.read_bytes().startswith(b"\x89PNG")
        assert (ROOT / "docs" / path.name).exists()
    assert not picture.exists()
    records = json.loads(numbers.read_text("utf-8"))
    assert len(records) == len(ROWS) * len(PROBLEMS)
    assert {record["needed"] for record in records} >= {None}
    assert "old" not in page.read_text("utf-8")
    assert page.read_text("utf-8").endswith("<!-- certificate:end -->\nrest\n")


def test_a_picture_tells_biased_from_unbiased_by_colour_and_shape(certificates):
    found = [each for each in certificates if each.row in registry.SECTIONS["essentials"]]
    figure = pictures.family(found, title="essentials")
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    for axes in figure.axes:
        marks = [line for line in axes.lines if line.get_marker() in ("o", "s")]
        assert len(marks) == len(names)
        wrong = {name for name, line in zip(names, marks, strict=True) if line.get_marker() == "s"}
        assert wrong == {"REINFORCE − batch mean  (K = 2)", "reward-to-go without γᵗ"}
        assert len({(line.get_marker(), line.get_color()) for line in marks}) == 2
    assert "Essentials: 9 of 11 without bias on all 5 problems" in figure.get_suptitle()


@pytest.mark.usefixtures("computed")
def test_one_problem_is_shown_in_full_and_refutes_no_claim_of_bias(tmp_path, capsys):
    picture = str(tmp_path / "certificate.svg")
    assert main(["certify", "--problem", "bandit", "--output", picture]) == 0
    printed = capsys.readouterr().out
    assert "bandit: 3 states, 2 actions, γ = 1, at most 1 step" in printed
    assert f"{UNBIASED} of {UNBIASED} statements" in printed


@pytest.mark.usefixtures("computed")
def test_one_row_is_recomputed_and_all_others_stay(tmp_path, capsys):
    page, picture = tmp_path / "page.md", str(tmp_path / "certificate.svg")
    text = (ROOT / "docs/estimators.md").read_text("utf-8")
    lines = text.splitlines(keepends=True)
    rows = [line for line in lines if line.startswith(("| RLOO |", "| `pgjax.rloo(γ)` |"))]
    others = [line for line in lines if line.startswith("| GRPO |")]
    assert len(rows) == 2 + len(PROBLEMS)
    stale = text.replace(others[-1], others[-1].replace("never", "stale"))
    for row in rows[:-1]:
        stale = stale.replace(row, row.replace("none", "false"))
    page.write_text(stale.replace(rows[-1], ""), "utf-8")  # a new row has no line yet
    arguments = ["--only", "RLOO", "--update", str(page), "--output", picture]
    assert main(["certify", *arguments]) == 0
    assert page.read_text("utf-8") == text.replace(others[-1], others[-1].replace("never", "stale"))
    printed = capsys.readouterr().out
    assert "PASS: 1 of 1 statements of bias hold" in printed
    assert "GRPO" not in printed


def test_a_row_with_an_unknown_name_is_refused_with_a_near_one(capsys):
    assert main(["certify", "--only", "RLO"]) == 2
    assert "--only RLO is unknown; did you mean RLOO?" in capsys.readouterr().err


def test_the_tables_of_a_page_are_known_before_they_are_computed(certificates):
    assert list(tables.generated(certificates, suite.certified())) == tables.known_names()


def test_a_false_row_fails_the_command(certificates, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(pictures, "family", lambda found, title: Figure())
    liars = [found._replace(row=found.row._replace(bias="none")) for found in certificates]
    monkeypatch.setattr("pgjax.certificate.certify", lambda problems: liars)
    picture = str(tmp_path / "certificate.png")
    assert main(["certify", "--problem", "random", "--output", picture]) == 1
    assert f"FAIL: {UNBIASED} of {len(ROWS)} statements of bias hold" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--problem", "unknown"], "--problem unknown is unknown; known are bandit"),
        (["--output", "picture.txt"], "--output must end in .png"),
        (["--output", "nowhere/picture.png"], "--output must lie in a folder that exists"),
        (["--json", "nowhere/numbers.json"], "--json must lie in a folder that exists"),
        (["--update", "nowhere.md"], "--update needs files that exist"),
        (["--problem", "bandit", "--update", "x.md"], "--update writes results of the whole suite"),
    ],
)
def test_bad_arguments_are_answered_in_one_line(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["certify", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "text", ["no markers\n", "<!-- certificate:begin other -->\n<!-- certificate:end -->\n"]
)
def test_a_page_without_its_markers_is_refused_before_any_work(text, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("pgjax.certificate.certify", None)
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    picture = str(tmp_path / "certificate.png")
    assert main(["certify", "--update", str(page), "--output", picture]) == 2
    assert "NAME one of problems, compositions-essentials" in capsys.readouterr().err
    assert page.read_text("utf-8") == text
