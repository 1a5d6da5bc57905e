"""Watch a trained policy act: write a GIF, or a page for brax."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pgjax.cli.arguments import check_file, declare_acting, nonempty_path, positive_int

if TYPE_CHECKING:
    from pgjax.training.runs.loading import Run

MOST_FRAMES = 400
"""The most frames of a GIF. Of longer episodes it shows every second state, or every third."""
MILLISECONDS = 40
"""How long one frame of a control task is shown; a frame of a game is shown for 100."""
PAUSE = 15
"""How many times longer the last frame of an episode is shown."""
BY_GYMNAX = ("Catch-bsuite", "Pong-misc", "PointRobot-misc", "MetaMaze-misc", "FourRooms-misc")
"""Environments that gymnax's visualizer draws; `drawings` draws others faster."""


class Shown(NamedTuple):
    """An episode to be shown.

    Attributes:
        states: of the environment, before each step and after the last one.
        observations: of these states.
        returns: undiscounted, up to each state.
    """

    states: list[Any]
    observations: list[Any]
    returns: list[float]


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of `pgjax watch`."""
    parser.add_argument(
        "directory", type=nonempty_path, help="the --output directory of a `pgjax train`"
    )
    parser.add_argument("--episodes", type=positive_int, default=1, help="one after the other")
    declare_acting(parser)
    parser.add_argument(
        "--output",
        type=nonempty_path,
        help="a .gif, or an .html for brax (default: watch.gif or watch.html in the directory)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Roll out episodes, draw them, and print their returns."""
    from pgjax.training.runs.loading import load

    run = load(arguments.directory)
    name = run.environment.name
    suffix = ".html" if name.startswith("brax/") else ".gif"
    output = arguments.output or arguments.directory / f"watch{suffix}"
    if output.suffix.lower() != suffix:
        raise ValueError(f"--output must end in {suffix} for {name}, got {output}")
    check_file("--output", output)
    write = _writer(run)
    episodes = _episodes(run, arguments)
    write(output, episodes, name)
    returns = ", ".join(f"{episode.returns[-1]:.5g}" for episode in episodes)
    kind = "greedy" if arguments.greedy else "stochastic"
    print(f"{name}: {kind} policy, return {returns}")
    print(f"picture: {output}")
    return 0


def _writer(run: "Run") -> Any:
    """(path, episodes, name) -> None; a ValueError if nothing draws the environment."""
    import jax

    from pgjax.cli import drawings
    from pgjax.environments.base import seen

    name = run.environment.name
    if name.startswith("brax/"):
        return _write_page
    if name in BY_GYMNAX:
        return _write_by_gymnax
    observation = jax.eval_shape(lambda key: seen(run.environment.init(key)[1]), jax.random.key(0))
    draw = drawings.drawing(name, observation)
    if draw is None:
        known = ", ".join([*drawings.CONTROL, *BY_GYMNAX])
        raise ValueError(
            f"there is no drawing of {name}; known are {known}, the MinAtar games, and brax"
        )
    duration = MILLISECONDS if name in drawings.CONTROL else 100

    def write(path: Path, episodes: list[Shown], name: str) -> None:
        _write_gif(path, episodes, drawings.Painter(draw), duration)

    return write


def _episodes(run: "Run", arguments: argparse.Namespace) -> list[Shown]:
    """The episodes, on the host."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from pgjax.policies.greedy import greedy
    from pgjax.rollouts import stepping

    policy: Any = greedy(run.policy) if arguments.greedy else run.policy  # pyright: ignore
    num_steps = run.num_steps(arguments.num_steps)

    @jax.jit
    def episode(params: Any, key: Any) -> Any:
        start_key, key = jax.random.split(key)
        memory, act = stepping.policy_act(policy, params)

        def step(now: stepping.Episode, keys: Any) -> tuple[stepping.Episode, Any]:
            after, taken = stepping.step(run.environment, act, (keys[0], keys[1]), now)
            after, taken = stepping.freeze(now, after, taken, jnp.bool_(False))
            return after, (after.state, after.observation, taken.reward, now.alive)

        start = stepping.begin(run.environment, memory, start_key)
        keys = jax.random.split(key, (num_steps, 2))
        return start, jax.lax.scan(step, start, keys)[1]

    def shown(key: Any) -> Shown:
        start, (states, observations, rewards, alive) = jax.device_get(episode(run.params, key))
        length = int(np.sum(alive))
        each = range(length)
        return Shown(
            [start.state, *(jax.tree.map(lambda x, i=i: x[i], states) for i in each)],
            [start.observation, *(jax.tree.map(lambda x, i=i: x[i], observations) for i in each)],
            [0.0, *np.cumsum(rewards[:length], dtype=np.float64).tolist()],
        )

    # As for `evaluate`: training splits key(seed), and never uses these.
    key = jax.random.fold_in(jax.random.key(arguments.seed), int.from_bytes(b"look"))
    return [shown(each) for each in jax.random.split(key, arguments.episodes)]


def _write_gif(path: Path, episodes: list[Shown], painter: Any, duration: int) -> None:
    from PIL import Image

    total = sum(len(episode.states) for episode in episodes)
    every = -(-total // MOST_FRAMES)
    frames, durations = [], []
    for number, (states, observations, returns) in enumerate(episodes, 1):
        last = len(states) - 1
        for time in sorted({*range(0, last, every), last}):
            title = f"step {time}, return {returns[time]:.4g}"
            if len(episodes) > 1:
                title = f"episode {number}, {title}"
            picture = painter.frame(states[time], observations[time], title)
            # One palette for all frames would cost a pass over them; few colours are in use.
            frames.append(Image.fromarray(picture).quantize(64))
            durations.append(duration * (PAUSE if time == last else 1))
    frames[0].save(
        path, format="GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0
    )


def _write_by_gymnax(path: Path, episodes: list[Shown], name: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from pgjax.environments.import_gymnax import visualizer

    states = [state for episode in episodes for state in episode.states]
    returns = [x for episode in episodes for x in episode.returns]
    visualizer(name, states, returns).animate(str(path))


def _write_page(path: Path, episodes: list[Shown], name: str) -> None:
    from pgjax.environments.libraries import library

    environment = library("brax.envs").get_environment(name.removeprefix("brax/"))
    # A time limit keeps (state, time); brax's own renderer draws the state of its pipeline.
    states = [state[0].pipeline_state for episode in episodes for state in episode.states]
    page = library("brax.io.html").render(environment.sys, states)
    path.write_text(page, "utf-8")
