"""Exact judgement of other libraries' losses over tokens: bias, scale, residue and variance.

A loss makes the estimate −Σ ∂loss/∂log π · ∇log π, summed over a batch's tokens. Its exact mean and
covariance need nothing of the loss but ∂loss/∂log π, an array [N, T], for every group of answers of
a tiny language model.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from pgjax import enumeration, exact
from pgjax.core.compilation import jit_once
from pgjax.core.float64 import in_float64
from pgjax.core.scores import log_probs
from pgjax.core.validation import check_kind, check_positive
from pgjax.exact.problem import Problem
from pgjax.proof.language_models import LanguageModel, three_tokens
from pgjax.proof.token_moments import bias_scale_residue, moments_over_prompts
from pgjax.types import Moments, Params, Trajectory, signature_of

FIELDS = (
    *("log_prob", "old_log_prob", "sampler_log_prob", "reference_log_prob", "mask"),
    *("rewards", "groups", "advantages", "value"),
)
"""The arrays that a loss gets if its parameters have these names; see `judge_loss`."""

Loss = Callable[..., Any]
Fields = dict[str, np.ndarray]

_REPAIR = (
    "return the scalar loss of JAX, or ∂loss/∂log_prob [N, T] as a NumPy array; "
    "`pgjax.judge_loss` shows the four lines for PyTorch"
)


class Verdict(NamedTuple):
    """How far a loss's estimate is from the gradient ∇J, exactly; `print` shows it in seven lines.

    Attributes:
        name: of the loss.
        setting: the model, the group size and the policy that drew the answers.
        bias: ‖E ĝ − ∇J‖ / ‖∇J‖. Its square is (scale − 1)² + residue².
        scale: c of E ĝ = c ∇J + residue: a step size undoes it. Negative if the loss descends J.
        residue: ‖E ĝ − c ∇J‖ / ‖∇J‖, the part across ∇J, which no step size undoes.
        cosine: of E ĝ and ∇J; NaN if E ĝ = 0.
        variance: the trace of the covariance, in units of that of REINFORCE without a baseline from
            as many answers of the policy. Divided by scale², it compares at equal length.
        padding: the largest |∂loss/∂log_prob| where no token is live; infinite if it is NaN there.
        moments: of the estimate, over the flattened parameters.
    """

    name: str
    setting: str
    bias: float
    scale: float
    residue: float
    cosine: float
    variance: float
    padding: float
    moments: Moments

    def __str__(self) -> str:
        way = "a step size undoes it" if self.scale > 0 else "it does not climb: check the sign"
        leak = f"a derivative of up to {self.padding:.2g}" if self.padding else "no derivative"
        return "\n".join([
            f"{self.name} on {self.setting}",
            f"  bias      {self.bias:8.4f} of ‖∇J‖",
            f"  scale     {self.scale:8.4f} ({way})",
            f"  residue   {self.residue:8.4f} of ‖∇J‖ (no step size undoes it)",
            f"  cosine    {self.cosine:8.4f} with ∇J",
            f"  variance  {self.variance:8.4f} of REINFORCE's, from as many answers",
            f"  padding   {leak} where no token is live",
        ])  # fmt: skip


@in_float64
def judge_loss(
    loss: Loss, model: LanguageModel | None = None, *, group_size: int = 2, acting: str = "policy"
) -> Verdict:
    """The exact bias and variance of any loss over tokens, of JAX, NumPy or PyTorch.

    The loss is called with one group of G answers, and descends. It gets by keyword those of these
    arrays that its parameters name, float64 and with N = G rows:

    - `log_prob` [N, T] under the policy to improve; the loss is differentiated by it;
    - `old_log_prob` [N, T] of the policy that the ratio holds fixed: the policy itself, or the old
      one if that acts; `sampler_log_prob` and `reference_log_prob` [N, T];
    - `mask` [N, T] boolean, true at live tokens; elsewhere the other arrays hold finite numbers;
    - `rewards` [N]; `groups` [N], all zero; `value`, the exact J;
    - `advantages` [N] of GRPO, (R − mean) / (standard deviation with Bessel's correction + 1e-4).

    The order of the answers in a batch must not matter, because each set of answers is summed in
    one order only.

    Args:
        loss: a function to a scalar that JAX can differentiate; or to ∂loss/∂log_prob [N, T] as a
            NumPy array, for any other framework.
        model: a tiny language model of `pgjax.proof.language_models`; `three_tokens()` if None.
        group_size: G, how many answers a batch has.
        acting: the policy that draws the answers: "policy", "old" or "sampler", a top-two sampler.

    Returns:
        Verdict against ∇J of the policy.

    Raises:
        TypeError: if the loss has a parameter of another name, or returns neither a scalar of JAX
            nor ∂loss/∂log_prob.
        ValueError: if the result has another shape, is not finite at a live token, or depends on
            the order of the answers; if there are too many groups to sum over, or `acting` has
            another value.

    Bias: exact.

    Example:
        >>> import jax.numpy as jnp
        >>> def token_mean(log_prob, mask, advantages):
        ...     return -jnp.sum(jnp.where(mask, advantages[:, None] * log_prob, 0)) / jnp.sum(mask)
        >>> print(judge_loss(token_mean))
        token_mean on three tokens, groups of 2 drawn by the policy
          bias        0.6153 of ‖∇J‖
          scale       0.3859 (a step size undoes it)
          residue     0.0387 of ‖∇J‖ (no step size undoes it)
          cosine      0.9950 with ∇J
          variance    0.1513 of REINFORCE's, from as many answers
          padding   no derivative where no token is live

        A loss of PyTorch, `their_loss(log_prob, old_log_prob, advantages, mask)`, takes four lines:

        >>> def derivative(log_prob, old_log_prob, advantages, mask):
        ...     x, *rest = map(torch.tensor, (log_prob, old_log_prob, advantages, mask))
        ...     their_loss(x.requires_grad_(), *rest).backward()
        ...     return x.grad.numpy()
    """
    model = three_tokens() if model is None else model
    check_kind("model", model, LanguageModel, "pgjax.language_models has some")
    N = check_positive("group_size", group_size)
    names = _asked_for(loss, N)
    value = float(exact.objective(model.problem))
    held = model.old if acting == "old" else model.problem.params
    derivative = _derivative_of(loss, names, (N, model.places))
    padding = []

    def moments_of(asked: Problem) -> Moments:
        answers = _answers(model, asked, held)
        members, weight = enumeration.multisets(answers.probability, N)
        some, order = _other_orders(members)
        reordered = np.take_along_axis(members[some], order, axis=1)
        every = np.concatenate([members, reordered])
        slope, of_reordered = np.split(
            derivative(_groups(answers, every, value, names)), [len(members)]
        )
        live = answers.fields["mask"][members]
        _check_finite(slope, live, answers.fields["rewards"][members])
        _check_order(np.take_along_axis(slope[some], order[:, :, None], axis=1), of_reordered)
        dead = np.nan_to_num(np.abs(slope[~live]), nan=np.inf)
        padding.append(float(np.max(dead, initial=0.0)))
        return _moments(slope, weight, answers.score[members])

    def reinforce(asked: Problem) -> Moments:
        answers = _answers(model, asked, held)
        slope = -np.where(answers.fields["mask"], answers.fields["rewards"][:, None], 0)
        one = _moments(slope[:, None], answers.probability, answers.score[:, None])
        return Moments(one.mean, one.covariance / N)

    found = moments_over_prompts(model, acting, moments_of)
    usual = moments_over_prompts(model, "policy", reinforce)
    truth = ravel_pytree(exact.gradient(model.problem))[0]
    length, size = np.linalg.norm(truth), np.linalg.norm(found.mean)
    bias, scale, residue = bias_scale_residue(found.mean, np.asarray(truth))
    return Verdict(
        name=getattr(loss, "__name__", type(loss).__name__),
        setting=f"{model.name}, groups of {N} drawn by the {acting}",
        bias=bias,
        scale=scale,
        residue=residue,
        cosine=float(scale * length / size) if size else float("nan"),
        variance=float(found.total_variance / usual.total_variance),
        padding=max(padding),
        moments=found,
    )


class _Answers(NamedTuple):
    """Every answer to one prompt."""

    fields: Fields  # [M, T] or [M] each
    score: np.ndarray  # [M, T, P], ∇log π of each token
    probability: np.ndarray  # [M]


def _answers(model: LanguageModel, asked: Problem, held: Params) -> _Answers:
    batch, probability = enumeration.trajectories(asked)
    read = _log_probs_and_scores(asked.policy, asked.params, held, model.reference, batch)
    score, now, old, reference = (model.spread(np.asarray(x)) for x in read)
    batch = model.laid_out(batch)
    fields = {
        "log_prob": now,
        "old_log_prob": old,
        "sampler_log_prob": np.asarray(batch.log_prob),
        "reference_log_prob": reference,
    }
    # Where no token is live stand numbers such as a network gives for padding, unequal ones.
    elsewhere = {name: -1.0 - 0.2 * i for i, name in enumerate(fields)}
    fields = {name: np.where(batch.mask, x, elsewhere[name]) for name, x in fields.items()}
    fields |= {"mask": np.asarray(batch.mask), "rewards": np.sum(batch.reward, 1, where=batch.mask)}
    return _Answers(fields, score, probability)


@jit_once
def _log_probs_and_scores(
    policy: Any, params: Params, held: Params, reference: Params, batch: Trajectory
) -> Any:
    flat, restore = ravel_pytree(params)
    score = jax.jacobian(lambda flat: log_probs(policy, restore(flat), batch))(flat)
    return score, *(log_probs(policy, each, batch) for each in (params, held, reference))


def _groups(answers: _Answers, members: np.ndarray, value: float, names: list[str]) -> Fields:
    """What a loss asks for, for each batch of members [B, N]."""
    found = {name: x[members] for name, x in answers.fields.items()}
    found["groups"] = np.zeros(members.shape, np.int64)
    found["value"] = np.full(len(members), value)
    if "advantages" in names:
        rewards = found["rewards"]
        deviation = rewards.std(axis=1, ddof=1, keepdims=True)
        found["advantages"] = (rewards - rewards.mean(axis=1, keepdims=True)) / (deviation + 1e-4)
    return {name: found[name] for name in names}


def _asked_for(loss: Loss, group_size: int) -> list[str]:
    """The names of FIELDS that the parameters of a loss name."""
    if not callable(loss):
        raise TypeError(f"loss must be a function, got {type(loss).__name__}")
    parameters = signature_of(loss).parameters.values()
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        names = [name for name in FIELDS if name != "advantages" or group_size > 1]
    else:
        needed = [each for each in parameters if each.default is each.empty]
        names = [each.name for each in parameters if each.name in FIELDS]
        unknown = [each.name for each in needed if each.name not in FIELDS]
        if unknown:
            raise TypeError(
                f"loss asks for {', '.join(unknown)}; it may ask for {', '.join(FIELDS)}, "
                "so wrap it in a function with parameters of these names"
            )
    if "advantages" in names and group_size == 1:
        raise ValueError(
            "group_size must be at least 2 for advantages relative to a group, got 1; "
            "a loss that asks for rewards and value can make its own"
        )
    return names


def _derivative_of(
    loss: Loss, names: list[str], shape: tuple[int, int]
) -> Callable[[Fields], np.ndarray]:
    """∂loss/∂log_prob [B, N, T] of the fields of B batches."""
    of_fields = jax.jit(lambda fields: loss(**fields))  # traced once, to look at and to run
    if _is_scalar_of_jax(of_fields, names, shape):
        if "log_prob" not in names:
            raise TypeError("loss must ask for log_prob, by which it is differentiated")

        def slope_of(fields: Fields) -> Any:
            return jax.grad(lambda x: of_fields(fields | {"log_prob": x}))(fields["log_prob"])

        run = jit_once(jax.vmap(slope_of))
        return lambda fields: np.asarray(run(fields))

    def derivative(fields: Fields) -> np.ndarray:
        found = [loss(**each) for each in _split(fields)]
        for each in found:
            if not isinstance(each, np.ndarray):
                kind = f"{type(each).__module__}.{type(each).__name__}"
                raise TypeError(f"loss returned {kind} of shape {np.shape(each)}; {_REPAIR}")
            if each.shape != shape:
                raise ValueError(f"∂loss/∂log_prob must be [N, T] = {shape}, got {each.shape}")
        return np.stack(found).astype(float)

    return derivative


def _split(fields: Fields) -> list[Fields]:
    """One batch after another; arrays of their own, which a loss may overwrite."""
    return [
        dict(zip(fields, (x.copy() for x in row), strict=True))
        for row in zip(*fields.values(), strict=True)
    ]


def _is_scalar_of_jax(
    of_fields: Callable[[Fields], Any], names: list[str], shape: tuple[int, int]
) -> bool:
    """Whether JAX can trace the loss to one floating number."""
    shapes = {"rewards": shape[:1], "groups": shape[:1], "advantages": shape[:1], "value": ()}
    kinds = {"mask": bool, "groups": np.int64}
    example = {
        name: jax.ShapeDtypeStruct(shapes.get(name, shape), kinds.get(name, np.float64))
        for name in names
    }
    try:
        found = jax.eval_shape(of_fields, example)
    except Exception:  # of another framework, or faulty: a call with NumPy arrays tells
        return False
    return (
        isinstance(found, jax.ShapeDtypeStruct)
        and found.shape == ()
        and jnp.issubdtype(found.dtype, jnp.floating)
    )


def _check_finite(slope: np.ndarray, live: np.ndarray, rewards: np.ndarray) -> None:
    bad = np.any(~np.isfinite(slope) & live, axis=(1, 2))
    if np.any(bad):
        first = rewards[bad][0].tolist()
        raise ValueError(
            f"∂loss/∂log_prob is not finite at live tokens of {bad.sum()} of {len(bad)} groups; "
            f"the first has rewards {first}"
        )


def _other_orders(members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Some of the batches [B, N], by their indices, and another order [., N] of each."""
    random = np.random.default_rng(0)
    some = random.choice(len(members), size=min(32, len(members)), replace=False)
    return some, random.permuted(np.tile(np.arange(members.shape[1]), (len(some), 1)), axis=1)


def _check_order(slope: np.ndarray, of_reordered: np.ndarray) -> None:
    """Raise if batches in another order have another derivative."""
    if not np.allclose(of_reordered, slope, rtol=1e-5, atol=1e-6, equal_nan=True):
        raise ValueError(
            "loss must not depend on the order of the answers in a batch; "
            "the sum runs over batches up to order"
        )


def _moments(slope: np.ndarray, weight: np.ndarray, score: np.ndarray) -> Moments:
    """Of −Σ slope · score, for slopes [B, N, T], probabilities [B] and scores [B, N, T, P]."""
    estimate = -np.einsum("bnt,bntp->bp", slope, score)
    mean = weight @ estimate
    centered = estimate - mean
    return Moments(mean, (weight[:, None] * centered).T @ centered)
