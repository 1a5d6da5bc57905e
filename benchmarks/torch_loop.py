"""REINFORCE in PyTorch on gymnasium's CartPole: a tutorial's loop, and a vectorised one.

The tutorial's is PyTorch's own example: one environment, one forward pass for each step, the
log-probabilities kept with their graph until the episode is over. The vectorised one steps N
environments as one numpy object; it is the fairer measure of what PyTorch can do.
"""

import time
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch  # pyright: ignore[reportMissingImports]  # a rival, only in requirements.txt
from torch import nn  # pyright: ignore[reportMissingImports]  # as above

DEFAULT_THREADS = torch.get_num_threads()


class Episodes(NamedTuple):
    """What was seen and done: lists of arrays, one an episode."""

    observations: list[np.ndarray]
    actions: list[np.ndarray]
    rewards: list[np.ndarray]


def network(params: Any) -> nn.Sequential:
    """pgjax.MLP's parameters as a PyTorch network."""
    layers: list[nn.Module] = []
    for i in range(3):
        dense = params["params"][f"Dense_{i}"]
        kernel, bias = np.array(dense["kernel"]), np.array(dense["bias"])
        linear = nn.Linear(*kernel.shape)
        linear.weight.data = torch.tensor(kernel.T.copy())
        linear.bias.data = torch.tensor(bias)
        layers += [linear, nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def flax_gradient(network: nn.Sequential) -> Any:
    """The network's gradients under the names and layouts of pgjax.MLP."""
    linears: list[Any] = [layer for layer in network if isinstance(layer, nn.Linear)]
    return {
        "params": {
            f"Dense_{i}": {
                "kernel": linear.weight.grad.numpy().T,
                "bias": linear.bias.grad.numpy(),
            }
            for i, linear in enumerate(linears)
        }
    }


class TutorialLoop:
    """One environment, a Python loop, no baseline."""

    def __init__(self, params: Any, discount: float, num_episodes: int, num_steps: int) -> None:
        self.num_episodes = num_episodes
        self.environment = gymnasium.make("CartPole-v1")
        self.environment.reset(seed=0)
        self.network, self.discount, self.num_steps = network(params), discount, num_steps
        torch.manual_seed(0)

    def gradient(self) -> Episodes:
        """Leave the gradient in the network; return the episodes it came from."""
        self.network.zero_grad()
        records = [self._episode() for _ in range(self.num_episodes)]
        losses = [self._loss(log_probs, rewards) for log_probs, _, _, rewards in records]
        # Ascend, as pgjax does: the sign is the only thing changed from the example.
        torch.stack(losses).mean().backward()
        return Episodes(*([np.array(r[i]) for r in records] for i in (1, 2, 3)))

    def _episode(self) -> tuple[list[Any], list[Any], list[int], list[float]]:
        observation, _ = self.environment.reset()
        log_probs, observations, actions, rewards = [], [], [], []
        for _ in range(self.num_steps):
            logits = self.network(torch.from_numpy(observation))
            distribution = torch.distributions.Categorical(logits=logits)
            action = distribution.sample()
            log_probs.append(distribution.log_prob(action))
            observations.append(observation)
            actions.append(action.item())
            observation, reward, terminated, truncated, _ = self.environment.step(action.item())
            rewards.append(float(reward))
            if terminated or truncated:
                break
        return log_probs, observations, actions, rewards

    def _loss(self, log_probs: list[Any], rewards: list[float]) -> Any:
        following, returns = 0.0, []
        for reward in reversed(rewards):
            following = reward + self.discount * following
            returns.insert(0, following)
        weight = torch.tensor(returns) * self.discount ** torch.arange(len(returns))
        return (torch.stack(log_probs) * weight).sum()


class VectorisedLoop:
    """N environments stepped together, leave-one-out, one batched forward pass a step."""

    def __init__(self, params: Any, discount: float, N: int, num_steps: int) -> None:
        self.environment = gymnasium.make_vec(
            "CartPole-v1", num_envs=N, vectorization_mode="vector_entry_point"
        )
        self.environment.reset(seed=0)
        self.network, self.discount, self.num_steps = network(params), discount, num_steps
        torch.manual_seed(0)

    def gradient(self) -> Episodes:
        """Leave the gradient in the network; return the episodes it came from."""
        self.network.zero_grad()
        observations, actions, rewards, masks = self._rollout()
        weight = torch.from_numpy(self._weights(rewards * masks).astype(np.float32))
        # One forward pass over all live rows at the end, rather than a graph kept for each step.
        live = torch.from_numpy(masks)
        rows = torch.from_numpy(observations)[live]
        distribution = torch.distributions.Categorical(logits=self.network(rows))
        log_probs = distribution.log_prob(torch.from_numpy(actions)[live])
        ((log_probs * weight[live]).sum() / masks.shape[1]).backward()
        lengths = masks.sum(axis=0)
        return Episodes(
            *([x[:n, i] for i, n in enumerate(lengths)] for x in (observations, actions, rewards))
        )

    def _rollout(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        observation, _ = self.environment.reset()
        alive = np.ones(len(observation), bool)
        observations, actions, rewards, masks = [], [], [], []
        with torch.no_grad():
            for _ in range(self.num_steps):
                logits = self.network(torch.from_numpy(observation))
                action = torch.distributions.Categorical(logits=logits).sample().numpy()
                observations.append(observation.copy())
                actions.append(action)
                masks.append(alive)
                observation, reward, terminated, truncated, _ = self.environment.step(action)
                rewards.append(reward)
                alive = alive & ~(terminated | truncated)
                if not alive.any():
                    break
        return np.array(observations), np.array(actions), np.array(rewards), np.array(masks)

    def _weights(self, reward: np.ndarray) -> np.ndarray:
        returns = np.zeros(reward.shape)
        following = np.zeros(reward.shape[1])
        for t in reversed(range(len(reward))):
            following = reward[t] + self.discount * following
            returns[t] = following
        others = (returns.sum(axis=1, keepdims=True) - returns) / (reward.shape[1] - 1)
        return self.discount ** np.arange(len(reward))[:, None] * (returns - others)


def run(loop: Any, threads: int) -> Episodes:
    """One gradient with so many threads."""
    torch.set_num_threads(threads)
    return loop.gradient()


def best_threads(loop: Any) -> int:
    """One thread or every core, whichever ran faster: small steps can drown in thread hand-over."""
    return min({1, DEFAULT_THREADS}, key=lambda threads: _seconds(loop, threads))


def _seconds(loop: Any, threads: int) -> float:
    run(loop, threads)
    start = time.perf_counter()
    run(loop, threads)
    return time.perf_counter() - start
