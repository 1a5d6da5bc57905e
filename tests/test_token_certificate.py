"""The certificate over tokens agrees with enumeration, and its rows say what is so."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import pgjax
from pgjax import exact, tokens
from pgjax.proof.language_models import models, three_tokens, with_tool
from pgjax.proof.registry import TOKENS, TokenRow
from pgjax.proof.token_certificate import TokenCertificate, certify_tokens, refuted, table
from pgjax.proof.token_moments import group_moments


@pytest.fixture(scope="module")
def found() -> list[TokenCertificate]:
    """Three models whose programs are the same, all rows."""
    chosen = [three_tokens(), models()[3], with_tool()]
    return certify_tokens(language_models=chosen, group_sizes=(4,), acting=("policy", "old"))


def test_statements_of_bias_agree_with_the_exact_numbers(found) -> None:
    assert refuted(found) == []


def test_false_statements_are_refuted(found) -> None:
    for row in (
        TOKENS[0]._replace(bias="biased"),
        next(r for r in TOKENS if r.name == "GRPO")._replace(bias="none"),
    ):
        false = [c._replace(row=row) for c in found if c.row.name == row.name]
        assert len(refuted(false)) == 1


@pytest.mark.parametrize(
    ("codes", "model"),
    [
        (("tokens.grpo()", "tokens.rloo(kl=tokens.kl_in_reward(1.0))"), models()[3]),
        (("tokens.dapo()",), with_tool()),
    ],
)
def test_the_certificate_is_what_enumeration_of_the_gradient_says(codes, model) -> None:
    rows = [TokenRow("any", code, "none", "∇(J − KL)") for code in codes]
    certificates = certify_tokens(rows, [model], group_sizes=[2], acting=["old"])
    full = group_moments(together(codes, model), model, group_size=2, acting="old")
    P = len(full.mean) // len(codes)
    for i, short in enumerate(certificates):
        own = slice(i * P, (i + 1) * P)
        np.testing.assert_allclose(short.moments.mean, full.mean[own], rtol=0, atol=1e-12)
        covariance = full.covariance[own, own]
        np.testing.assert_allclose(short.moments.covariance, covariance, rtol=0, atol=1e-12)


def together(codes: Any, model: Any) -> Any:
    """The gradients of several estimators by one program; an estimator alone as it is."""
    made = [eval(code, {"tokens": tokens}) for code in codes]

    def gradients(params: Any, batch: Any) -> Any:
        return [pgjax.gradient(each, model.problem.policy, params, batch) for each in made]

    return gradients if len(made) > 1 else made[0]


def test_the_known_numbers_of_the_three_token_model(found) -> None:
    known = {"GRPO": (0.2609, 0.2462), "DAPO": (0.2748, 0.0401), "OPO": (0.2248, 0.0508)}
    for c in found:
        if c.model == "three tokens" and c.acting == "policy" and c.row.name in known:
            assert (c.bias, c.residue) == pytest.approx(known[c.row.name], abs=5.1e-5)
    truth = exact.gradient(three_tokens().problem).ravel()
    np.testing.assert_allclose(found[0].truth, truth, rtol=0, atol=1e-12)


def test_a_token_of_a_tool_counts_nowhere(found) -> None:
    model = with_tool()
    at_the_end = model._replace(tool=2)  # the place of the tool's token is padding
    beside = certify_tokens(language_models=[at_the_end], group_sizes=(4,), acting=("old",))
    holes = [c for c in found if c.model == model.name and c.acting == "old"]
    for hole, none in zip(holes, beside, strict=True):
        name, close = hole.row.name, {"rtol": 0, "atol": 1e-13}
        np.testing.assert_allclose(hole.moments.mean, none.moments.mean, **close, err_msg=name)
        covariance = hole.moments.covariance
        np.testing.assert_allclose(covariance, none.moments.covariance, **close, err_msg=name)
    truth = exact.gradient(model.problem).ravel()
    np.testing.assert_allclose(holes[0].truth, truth, rtol=0, atol=1e-13)


def test_a_tool_s_token_that_counts_is_seen(found) -> None:
    model, right = with_tool(), tokens.grpo()

    def counted(batch: Any, log_prob: Any) -> Any:
        mask = batch.mask.at[:, model.tool].set(batch.mask[:, 2])
        return tokens.grpo().weights(replace(batch, mask=mask), log_prob)

    (own,) = [c for c in found if (c.model, c.acting, c.row.name) == (model.name, "policy", "GRPO")]
    wrong = group_moments(replace(right, weights=counted), model, group_size=4)
    assert np.linalg.norm(own.moments.mean - wrong.mean) > 0.05 * np.linalg.norm(own.truth)


def test_the_deviation_turns_the_gradient_where_prompts_differ(found) -> None:
    residue = {c.model: c.residue for c in found if c.row.name == "LUSPO" and c.acting == "policy"}
    assert residue["three tokens"] < 1e-10
    assert residue["two prompts"] > 1e-3


def test_answers_needed_are_enough_and_no_fewer_are(found) -> None:
    assert any(c.needed is None for c in found)
    for c in found:
        if c.needed is not None:
            size = float(np.linalg.norm(c.truth))

            def error(answers: int, c: TokenCertificate = c, size: float = size) -> float:
                variance = c.group_size * float(c.moments.total_variance) / answers
                return float(np.sqrt(c.bias**2 + variance / size**2))

            assert error(c.needed) <= 0.1 + 1e-9
            assert error(c.needed - c.group_size) > 0.1 - 1e-9


def test_the_table_has_a_line_for_each_row(found) -> None:
    lines = table([c for c in found if c.model == "three tokens"]).splitlines()
    assert len(lines) == 2 + len(TOKENS)
    assert lines[3].split() == ["RLOO", "none", "none", "15.8", "15.8", "0.80", "828"]


def test_every_named_estimator_has_a_row() -> None:
    made = {
        name
        for name, item in vars(tokens).items()
        if getattr(item, "__module__", "").startswith("pgjax.tokens.estimators")
    }
    assert {name for name in made if not any(f"tokens.{name}(" in r.code for r in TOKENS)} == set()
    assert pgjax.tokens is tokens
