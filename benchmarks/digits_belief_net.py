"""A sigmoid belief net learns scikit-learn's digits: VIMCO against REINFORCE with leave-one-out.

    python -m benchmarks.digits_belief_net --output digits-belief-net.png

The model has 20 hidden coins z with a learnt prior, and 64 pixels that are coins given z. The
encoder q(z|x) is a second such layer. Both estimators draw K = 5 z for each image. REINFORCE
ascends the evidence bound E[log p(x, z) − log q(z|x)], VIMCO the bound of K draws. What is compared
is the same for both: the bound of 50 draws on 297 images that were not trained on, and the variance
of the encoder's gradient.

scikit-learn holds the digits: `pip install scikit-learn`.
"""

import argparse
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pgjax import baselines, expectations

HIDDEN, PIXELS, DRAWS, TRAINED = 20, 64, 5, 1500
ESTIMATORS = {
    "REINFORCE, leave-one-out": (
        expectations.score_function(baseline=baselines.leave_one_out),
        DRAWS,
    ),
    "VIMCO": (expectations.vimco(DRAWS), 1),
}
COIN = expectations.bernoulli()


def digits() -> tuple[jax.Array, jax.Array]:
    """[1500, 64] and [297, 64] images of ones and zeros, to train on and to test on."""
    images = import_module("sklearn.datasets").load_digits().data > 7.5
    order = np.random.default_rng(0).permutation(len(images))
    images = jnp.asarray(images[order], jnp.float32)
    return images[:TRAINED], images[TRAINED:]


def initial_params(key: jax.Array, images: jax.Array) -> dict[str, Any]:
    """The pixels' biases are those of the mean image; weights are small."""
    down, up = jax.random.split(key)
    share = jnp.clip(jnp.mean(images, axis=0), 0.02, 0.98)
    return {
        "prior": jnp.zeros(HIDDEN),
        "down": 0.1 * jax.random.normal(down, (HIDDEN, PIXELS)),
        "pixels": jnp.log(share) - jnp.log1p(-share),
        "encoder": {
            "up": 0.1 * jax.random.normal(up, (PIXELS, HIDDEN)),
            "hidden": jnp.zeros(HIDDEN),
        },
    }


def posterior(image: jax.Array) -> expectations.Distribution:
    """q(z|x) for one image, as a distribution that depends on the parameters."""
    return expectations.bernoulli(
        lambda params: (image - 0.5) @ params["encoder"]["up"] + params["encoder"]["hidden"]
    )


def log_weight(image: jax.Array) -> Any:
    """(params, z) -> log p(x, z) − log q(z|x)."""

    def f(params: Any, z: jax.Array) -> jax.Array:
        pixels = COIN.log_prob(z @ params["down"] + params["pixels"], image)
        return COIN.log_prob(params["prior"], z) + pixels - posterior(image).log_prob(params, z)

    return f


def gradient(name: str, params: Any, images: jax.Array, key: jax.Array) -> Any:
    """The estimate for the mean over images, to ascend."""
    estimator, num_samples = ESTIMATORS[name]

    def of_image(params: Any, image: jax.Array, key: jax.Array) -> jax.Array:
        given = estimator, log_weight(image), posterior(image), params, key
        return expectations.objective(*given, num_samples=num_samples)

    keys = jax.random.split(key, len(images))

    def mean(params: Any) -> jax.Array:
        return jnp.mean(jax.vmap(of_image, (None, 0, 0))(params, images, keys))

    return jax.grad(mean)(params)


def bound(params: Any, images: jax.Array, key: jax.Array, draws: int = 50) -> jax.Array:
    """The mean over images of log (1/draws) Σ p(x, z)/q(z|x), in nats."""

    def of_image(image: jax.Array, key: jax.Array) -> jax.Array:
        keys = jax.random.split(key, draws)
        z = jax.vmap(posterior(image).sample, (None, 0))(params, keys)
        weights = jax.vmap(log_weight(image), (None, 0))(params, z)
        return jax.nn.logsumexp(weights) - jnp.log(draws)

    return jnp.mean(jax.vmap(of_image)(images, jax.random.split(key, len(images))))


def train(name: str, seed: int, steps: int, every: int) -> dict[str, list[float]]:
    """The bound on test images and the variance of the encoder's gradient, as training goes on."""
    images, unseen = digits()
    optimizer = optax.adam(3e-3)
    params = initial_params(jax.random.key(seed), images)

    @jax.jit
    def several(params: Any, state: Any, key: jax.Array) -> tuple[Any, Any]:
        def update(carry: tuple[Any, Any], key: jax.Array) -> tuple[tuple[Any, Any], None]:
            params, state = carry
            rows, draws = jax.random.split(key)
            batch = images[jax.random.randint(rows, (100,), 0, TRAINED)]
            found = gradient(name, params, batch, draws)
            change, state = optimizer.update(jax.tree.map(jnp.negative, found), state)
            return (optax.apply_updates(params, change), state), None

        return jax.lax.scan(update, (params, state), jax.random.split(key, every))[0]

    @jax.jit
    def measure(params: Any, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        held, keys = images[:100], jax.random.split(key, 30)
        found = jax.lax.map(lambda key: gradient(name, params, held, key)["encoder"], keys)
        variance = sum(jnp.sum(jnp.var(x, axis=0, ddof=1)) for x in jax.tree.leaves(found))
        return bound(params, unseen, key), jnp.asarray(variance)

    state, key = optimizer.init(params), jax.random.key(seed + 100)
    curve: dict[str, list[float]] = {"step": [], "bound": [], "variance": []}
    for step in range(0, steps + 1, every):
        for measured, value in zip(("bound", "variance"), measure(params, key), strict=True):
            curve[measured].append(float(value))
        curve["step"].append(step)
        key, now = jax.random.split(key)
        params, state = several(params, state, now)
    return curve


def main() -> None:
    """Train with both estimators, print the last figures, and draw the curves."""
    parser = argparse.ArgumentParser(description="A sigmoid belief net learns digits.")
    parser.add_argument("--output", type=Path, default=Path("digits-belief-net.png"))
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=2)
    chosen = parser.parse_args()
    curves: dict[str, list[dict[str, list[float]]]] = {}
    for name in ESTIMATORS:
        start = time.perf_counter()
        curves[name] = [train(name, s, chosen.steps, chosen.every) for s in range(chosen.seeds)]
        last = np.mean([run["bound"][-1] for run in curves[name]])
        variance = np.mean([run["variance"][-1] for run in curves[name]])
        seconds = time.perf_counter() - start
        print(
            f"{name}: bound {last:.2f} nats, variance {variance:.3g} ({seconds:.0f} s)", flush=True
        )
    draw(curves, chosen.output)


def draw(curves: dict[str, list[dict[str, list[float]]]], path: Path) -> None:
    """Bound and variance against updates, a line for each run."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    for color, (name, runs) in zip(("C0", "C1"), curves.items(), strict=True):
        for place, run in enumerate(runs):
            label = name if place == 0 else None
            axes[0].plot(run["step"], run["bound"], color=color, label=label, alpha=0.8)
            axes[1].plot(run["step"], run["variance"], color=color, alpha=0.8)
    axes[0].set(xlabel="update of 100 images", ylabel="nats")
    axes[0].set_title("bound of 50 draws, test images", fontsize=10)
    axes[1].set(xlabel="update of 100 images", yscale="log")
    axes[1].set_title("total variance of the encoder's gradient", fontsize=10)
    axes[0].legend(frameon=False, loc="lower right")
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    print(f"picture: {path}")


if __name__ == "__main__":
    main()
