"""The laws of the draws of measure-valued gradients."""

import math
from itertools import permutations, product
from typing import Any

import numpy as np
from scipy.special import softmax

from pgjax.expectations.natural import BERNOULLI, CATEGORICAL, NORMAL, ONE_HOT, Natural
from pgjax.proof.expectation_sums import (
    Law,
    Outcomes,
    UnknownLawError,
    coordinates_of,
    half_line,
    repeated,
    together,
)


def coupled(estimator: Any, outcomes: Outcomes, N: int, natural: Any) -> Law:
    """N samples whose two draws of each parameter are coupled."""
    return repeated(*_weak_draws(outcomes, natural, True), N)


def independent(estimator: Any, outcomes: Outcomes, N: int, natural: Any) -> Law:
    """N samples whose draws are all independent."""
    return repeated(*_weak_draws(outcomes, natural, False), N)


def _weak_draws(outcomes: Outcomes, natural: Any, coupled: bool) -> Law:
    """The numbers of a measure-valued gradient, of one coordinate, or of several coins."""
    if natural is None or (natural.family != BERNOULLI and math.prod(coordinates_of(natural)) > 1):
        raise UnknownLawError("distribution must have one coordinate for these draws to be listed")
    if natural.family == NORMAL:
        return _weak_normal(natural, coupled)
    if natural.family in (CATEGORICAL, ONE_HOT):
        return _weak_choices(natural, coupled)
    x, probability = outcomes()
    x = np.asarray(x).reshape(len(probability), -1)
    if natural.family == BERNOULLI:
        return {"x": x}, probability
    if coupled:
        return {"x": x, "other": x}, probability
    places = np.array(list(product(range(len(x)), repeat=2)))
    both = probability[places[:, 0]] * probability[places[:, 1]]
    return {"x": x[places[:, 0]], "other": x[places[:, 1]]}, both


def _weak_normal(natural: Natural, coupled: bool) -> Law:
    """W is Rayleigh, M has the normal's density times its square; f must be a polynomial."""
    few = 8  # nodes a number: exact up to degree 15
    w, of_w = half_line(lambda w: w * np.exp(-(w**2) / 2), few)
    z, of_z = np.polynomial.hermite_e.hermegauss(few)
    of_z = of_z / of_z.sum()
    of_m = of_z * z**2
    u, of_u = np.polynomial.legendre.leggauss(few)
    u, of_u = (u + 1) / 2, of_u / 2
    rules = {"normal": (z, of_z), "plus": (w, of_w), "maxwell": (z, of_m)}
    rules |= {"u": (u, of_u)} if coupled else {"minus": (w, of_w), "scale": (z, of_z)}
    nodes, weight = together(list(rules.values()), (len(rules),))
    draws = {name: nodes[:, [place]] for place, name in enumerate(rules)}
    if coupled:
        draws |= {"minus": draws["plus"], "scale": draws["maxwell"] * draws.pop("u")}
    return draws, weight


def _weak_choices(natural: Natural, coupled: bool) -> Law:
    """x, and for each category k a choice that is not k: from one common order, if coupled."""
    p = softmax(np.asarray(natural.values), axis=-1).ravel()
    K = len(p)
    if coupled:
        pairs = list(permutations(range(K), 2))
        others = np.array([[b if k == a else a for k in range(K)] for a, b in pairs])
        chance = np.array([p[a] * p[b] / (1 - p[a]) for a, b in pairs])
    else:
        listed = product(*([j for j in range(K) if j != k] for k in range(K)))
        others = np.array(list(listed))
        chance = np.array([np.prod([p[j] / (1 - p[k]) for k, j in enumerate(o)]) for o in others])
    places = np.array(list(product(range(K), range(len(others)))))
    weight = p[places[:, 0]] * chance[places[:, 1]]
    return {"x": places[:, :1], "other": others[places[:, 1]][:, None, :]}, weight
