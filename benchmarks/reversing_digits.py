"""A small transformer learns to reverse digits, with GRPO, RLOO and Dr. GRPO.

    python -m benchmarks.reversing_digits --output reversing-digits.png

The model is written in Flax NNX, the loss is `pgjax.tokens.loss`, and everything else is here: the
sampler, the reward, and the train step, which is one `jax.jit` and runs unchanged on a mesh of
several devices (`--devices 8` simulates them; N answers are spread over them).

A prompt is three digits. The answer should be the same digits in reverse, and then the end. The
reward is the share of the four places that are right. An answer may have up to six tokens.
"""

import argparse
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

PROMPT, LONGEST, DIGITS = 3, 6, 6
END, START = DIGITS, DIGITS + 1
VOCABULARY, LENGTH = DIGITS + 2, PROMPT + 1 + LONGEST


class Settings(NamedTuple):
    """Of a run."""

    prompts: int = 32
    answers: int = 8
    steps: int = 80
    learning_rate: float = 2e-3
    width: int = 64


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A transformer learns to reverse digits.")
    parser.add_argument("--output", type=Path, default=Path("reversing-digits.png"))
    parser.add_argument("--steps", type=int, default=Settings().steps)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--devices", type=int, default=1, help="simulated, on a CPU")
    return parser.parse_args()


def main() -> None:
    """Train with each estimator, print the last rewards, and draw the learning curves."""
    chosen = arguments()
    if chosen.devices > 1:
        flag = f" --xla_force_host_platform_device_count={chosen.devices}"
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + flag
    import numpy as np

    from pgjax import tokens

    settings = Settings(steps=chosen.steps)
    estimators = {"GRPO": tokens.grpo(), "RLOO": tokens.rloo(), "Dr. GRPO": tokens.dr_grpo()}
    curves = {}
    for name, estimator in estimators.items():
        start = time.perf_counter()
        runs = [train(estimator, settings, seed, chosen.devices) for seed in range(chosen.seeds)]
        curves[name] = np.array(runs)
        last = curves[name][:, -20:].mean()
        seconds = time.perf_counter() - start
        print(f"{name}: reward {last:.3f} in the last 20 updates ({seconds:.0f} s)", flush=True)
    draw(curves, chosen.output)


def train(estimator: Any, settings: Settings, seed: int, devices: int = 1) -> list[float]:
    """The mean reward of each update's answers."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from pgjax import tokens

    graph, params = nnx.split(transformer(settings.width, nnx.Rngs(seed)), nnx.Param)
    optimizer = optax.adam(settings.learning_rate)
    mesh = Mesh(jax.devices()[:devices], ("data",))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    group = jnp.repeat(jnp.arange(settings.prompts), settings.answers)

    def log_probs(params: Any, text: jax.Array) -> jax.Array:
        """[N, LONGEST] of the answer's tokens."""
        logits = jax.nn.log_softmax(nnx.merge(graph, params)(text[:, :-1]))[:, PROMPT:]
        return jnp.take_along_axis(logits, text[:, PROMPT + 1 :, None], axis=2)[..., 0]

    def sample(params: Any, key: jax.Array) -> jax.Array:
        """[N, LENGTH] texts: prompt, start, answer."""
        draw, *keys = jax.random.split(key, 1 + LONGEST)
        digits = jax.random.randint(draw, (settings.prompts, PROMPT), 0, DIGITS)
        text = jnp.full((settings.prompts, LENGTH), START).at[:, :PROMPT].set(digits)
        text = jax.lax.with_sharding_constraint(jnp.repeat(text, settings.answers, axis=0), rows)
        for place, key in enumerate(keys, PROMPT + 1):
            logits = nnx.merge(graph, params)(text[:, :-1])[:, place - 1]
            text = text.at[:, place].set(jax.random.categorical(key, logits))
        return text

    @jax.jit
    def update(params: Any, state: Any, key: jax.Array) -> tuple[Any, Any, jax.Array]:
        text = sample(params, key)
        prompt, answer = text[:, :PROMPT], text[:, PROMPT + 1 :]
        ended = jnp.cumsum(answer == END, axis=1)
        mask = (ended == 0) | ((answer == END) & (ended == 1))
        right = jnp.concatenate([prompt[:, ::-1], jnp.full((len(text), 1), END)], axis=1)
        reward = jnp.mean(mask[:, :4] & (answer[:, :4] == right), axis=1)
        old = jax.lax.stop_gradient(log_probs(params, text))
        batch = tokens.Batch(old, mask, reward, group)
        gradient = jax.grad(lambda p: tokens.loss(estimator, log_probs(p, text), batch))(params)
        change, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, change), state, jnp.mean(reward)

    state, curve = optimizer.init(params), []
    for key in jax.random.split(jax.random.key(seed), settings.steps):
        params, state, reward = update(params, state, key)
        curve.append(reward)
    return [float(reward) for reward in curve]


def transformer(width: int, rngs: Any) -> Any:
    """Two layers of causal attention, as a Flax NNX module: [N, L] tokens -> [N, L, V] logits."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    class Block(nnx.Module):
        def __init__(self) -> None:
            self.attention = nnx.MultiHeadAttention(4, width, decode=False, rngs=rngs)
            self.norms = nnx.List([nnx.LayerNorm(width, rngs=rngs) for _ in range(2)])
            self.inner = nnx.Linear(width, 4 * width, rngs=rngs)
            self.outer = nnx.Linear(4 * width, width, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            causal = jnp.tril(jnp.ones((x.shape[1], x.shape[1]), bool))
            x = x + self.attention(self.norms[0](x), mask=causal)
            return x + self.outer(jax.nn.gelu(self.inner(self.norms[1](x))))

    class Transformer(nnx.Module):
        def __init__(self) -> None:
            self.token = nnx.Embed(VOCABULARY, width, rngs=rngs)
            self.place = nnx.Embed(LENGTH, width, rngs=rngs)
            self.blocks = nnx.List([Block() for _ in range(2)])
            self.norm = nnx.LayerNorm(width, rngs=rngs)
            self.head = nnx.Linear(width, VOCABULARY, rngs=rngs)

        def __call__(self, text: jax.Array) -> jax.Array:
            x = self.token(text) + self.place(jnp.arange(text.shape[1]))
            for block in self.blocks:
                x = block(x)
            return self.head(self.norm(x))

    return Transformer()


def draw(curves: dict[str, Any], path: Path) -> None:
    """Mean reward against updates, smoothed over ten, a line for each run."""
    import matplotlib as mpl
    import numpy as np

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    smooth = np.ones(10) / 10
    styles = ("C0", "-"), ("C1", "-"), ("C2", (0, (3, 3)))
    for (name, runs), (color, dash) in zip(curves.items(), styles, strict=True):
        for run in runs:
            axes.plot(np.convolve(run, smooth, "valid"), color=color, ls=dash, alpha=0.4, lw=1)
        mean = np.convolve(runs.mean(axis=0), smooth, "valid")
        label = f"{name}: {runs.mean():.2f}"
        axes.plot(mean, color=color, ls=dash, lw=2.5, label=label)
    axes.set(xlabel="update of 256 answers", ylabel="share of right tokens", ylim=(0, 1.02))
    axes.set_title("Under Adam, Dr. GRPO is RLOO: they differ by a factor. GRPO takes longer.")
    axes.legend(title="mean over all updates", frameon=False, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    print(f"picture: {path}")


if __name__ == "__main__":
    main()
