"""Bad arguments of the first page: one sentence with the argument, what it was, and the fix."""

from typing import Any

import jax
import numpy as np
import pytest
from flax import linen

import pgjax
from pgjax import tabular
from tests.bad_values import BATCH, MDP, POLICY
from tests.bad_values import PARAMS as TABLE

ESTIMATOR = pgjax.reinforce(0.9)


def roll(policy=POLICY, params: Any = TABLE, environment: Any = MDP):
    return pgjax.rollout(
        policy, params, environment, jax.random.key(0), num_trajectories=4, num_steps=4
    )


def zeros_for(init: Any) -> Any:
    """Parameters in the shape of those that a policy or an agent draws."""
    drawn = jax.eval_shape(init, jax.random.key(0), np.zeros(4))
    return jax.device_put(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), drawn))


DERIVED = [pgjax.gradient, pgjax.per_trajectory_gradients, pgjax.surrogate]


@pytest.mark.parametrize("function", DERIVED)
@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (None, r"must be a pgjax\.Estimator, got None"),
        ("reinforce", r"must be a pgjax\.Estimator, got 'reinforce'"),
        (pgjax.reinforce, r"got reinforce; call it: reinforce\(0\.99\)"),
        (POLICY, "got a policy; the policy comes second"),
    ],
)
def test_what_is_no_estimator_is_refused(function, estimator, message):
    with pytest.raises(TypeError, match=message):
        function(estimator, POLICY, TABLE, BATCH)


@pytest.mark.parametrize("function", [*DERIVED, lambda estimator, *rest: pgjax.log_probs(*rest)])
@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (pgjax.MLP(2), r"got a MLP; pgjax\.flax_policy\(module\) makes one"),
        (ESTIMATOR, "got an Estimator; the estimator comes first"),
        (None, r"got None; pgjax\.softmax_policy"),
        (lambda params, x: x, r"got the function <lambda>; pgjax\.softmax_policy"),
    ],
)
def test_what_is_no_policy_is_refused(function, policy, message):
    with pytest.raises(TypeError, match=message):
        function(ESTIMATOR, policy, TABLE, BATCH)


def test_a_policy_with_more_actions_than_the_environment_is_refused_and_one_with_fewer_is_not():
    message = "the policy has 3 actions, and .* takes Discrete"
    with pytest.raises(TypeError, match=message):
        roll(pgjax.tabular_softmax(4, 3), np.zeros((4, 3)))
    with pytest.raises(TypeError, match=message):
        pgjax.checked(lambda table: roll(pgjax.tabular_softmax(4, 3), table))(np.zeros((4, 3)))
    assert not np.any(roll(pgjax.tabular_softmax(4, 1), np.zeros((4, 1))).action)

    cartpole = pgjax.environments.make("CartPole-v1")
    policy = pgjax.flax_policy(pgjax.MLP(5, ()))
    params = zeros_for(policy.init)
    with pytest.raises(TypeError, match=r"has 5 actions, and CartPole-v1 takes Discrete"):
        roll(policy, params, cartpole)


class TwoHeads(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(2)(x), linen.Dense(1)(x)


def test_a_module_that_returns_logits_and_a_value_is_told_what_makes_two_of_it():
    policy = pgjax.flax_policy(TwoHeads())
    params = zeros_for(policy.init)
    for call in (
        lambda: policy.log_prob(params, np.zeros(4), 0),
        lambda: roll(policy, params),
        lambda: pgjax.gradient(ESTIMATOR, policy, params, BATCH),
        lambda: pgjax.log_probs(policy, params, BATCH),
    ):
        with pytest.raises(TypeError, match=r"logits must be one array, got a tuple.*shared\("):
            call()
    agent = pgjax.agents.shared(TwoHeads())  # the control: the way that the message names
    found = pgjax.log_probs(agent.policy, zeros_for(agent.init), BATCH)
    assert np.all(np.isfinite(np.asarray(found)))


class Heads(linen.Module):
    """A module that returns as many outputs as there are widths; the first alone if not a tuple."""

    widths: tuple[int, ...] = ()
    as_tuple: bool = True

    @linen.compact
    def __call__(self, x):
        found = tuple(linen.Dense(width)(x) for width in self.widths)
        return found if self.as_tuple else found[0]


@pytest.mark.parametrize(
    ("module", "error", "words"),
    [
        (
            Heads((2,), as_tuple=False),
            TypeError,
            r"must return a pair .*got float32\[2\]; agents.sep",
        ),
        (Heads((2, 1, 1)), TypeError, "must return a pair .*got 3 outputs; agents.separate"),
        (Heads((1, 2)), ValueError, r"give one number, got shape \(2,\); the module's second"),
    ],
)
def test_a_module_that_cannot_be_shared_is_refused(module, error, words) -> None:
    agent = pgjax.agents.shared(module)
    params = zeros_for(agent.init)
    with pytest.raises(error, match=words):
        agent.value(params, np.zeros(4))


DAMAGE = {
    "cut": lambda raw: raw[: len(raw) // 2],
    "garbage": lambda raw: b"no archive at all" * 20,
    "empty": lambda raw: b"",
    "one flipped byte": lambda raw: raw[:200] + bytes([raw[200] ^ 255]) + raw[201:],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_a_value_error_that_names_it(damage, tmp_path, capsys):
    path = tmp_path / "mdp.npz"
    tabular.save(MDP, path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"mdp\.npz is not a \.npz file of arrays"):
        tabular.load(path)
    from pgjax.cli import main

    assert main(["converge", "--mdp", str(path)]) != 0
    error = capsys.readouterr().err
    assert "mdp.npz" in error
    assert "Traceback" not in error


def test_every_flipped_bit_of_a_file_changes_nothing_or_is_an_error_that_names_it(tmp_path):
    path, spoilt = tmp_path / "mdp.npz", tmp_path / "spoilt.npz"
    tabular.save(MDP, path)
    raw, whole = path.read_bytes(), jax.tree.leaves(tabular.load(path))
    messages = []
    for place in range(0, len(raw), 3):
        spoilt.write_bytes(raw[:place] + bytes([raw[place] ^ 1 << place % 8]) + raw[place + 1 :])
        try:
            found = jax.tree.leaves(tabular.load(spoilt))
        except ValueError as error:
            messages.append(str(error))
        else:
            assert all(np.array_equal(x, y) for x, y in zip(found, whole, strict=True))
    assert len(messages) > len(raw) / 5
    assert all("spoilt.npz" in message for message in messages)


@pytest.mark.parametrize(
    ("field", "content"),
    [
        ("transition", np.array(["a"])),
        ("reward", np.zeros(3)),
        ("initial", np.ones(4)),
        ("terminal", np.zeros(4)),
        ("discount", np.float64(2.0)),
        ("discount", np.array("x")),
        ("discount", np.ones(2)),
    ],
)
def test_a_file_whose_arrays_make_no_mdp_is_named_too(field, content, tmp_path):
    arrays: dict[str, Any] = dict(vars(MDP))
    np.savez(tmp_path / "mdp.npz", **arrays | {field: content})
    with pytest.raises(ValueError, match=r"mdp\.npz: "):
        tabular.load(tmp_path / "mdp.npz")


def test_arguments_of_save_in_the_other_order_are_told_so(tmp_path):
    with pytest.raises(TypeError, match=r"mdp must be a TabularMDP.*the path comes second"):
        tabular.save(tmp_path / "mdp.npz", MDP)  # pyright: ignore[reportArgumentType]


def test_a_network_without_outputs_and_complex_rewards_are_refused():
    with pytest.raises(ValueError, match="num_actions must be at least 1, got 0"):
        pgjax.MLP(0)
    with pytest.raises(
        TypeError, match=r"reward must be an array of real numbers, got complex64\[3\]"
    ):
        pgjax.discounted_returns(jax.device_put(np.ones(3, np.complex64)), 0.9)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("gae", r"pgjax\.weights\.generalized_advantage"),
        ("ppo", r"pgjax\.terms\.ppo_clip"),
        ("A2C", r"pgjax\.actor_critic"),
        ("rollut", r"did you mean pgjax\.rollout"),
    ],
)
def test_a_missing_name_is_answered_with_near_ones(name, meant):
    with pytest.raises(AttributeError, match=meant):
        getattr(pgjax, name)


def test_names_that_are_suggested_exist():
    named = " ".join(vars(pgjax)["_ELSEWHERE"].values()).replace(",", " ").split()
    for path in (word for word in named if word.startswith("pgjax.")):
        found = pgjax
        for part in path.split(".")[1:]:
            found = getattr(found, part)
