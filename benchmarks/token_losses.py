"""Other libraries' losses over tokens, each with its exact bias on a tiny language model.

    python -m venv judged && . judged/bin/activate    # an environment of its own
    pip install -e . -r benchmarks/token_losses_requirements.txt
    pip install --no-deps verl==0.9.1 google-tunix==0.1.7   # what they ask for contradicts
    python -m benchmarks.token_losses                 # or: --only verl

A library that is absent, or does not import, is named with the reason. Each loss runs with its
library's defaults, unless its name says otherwise, and gets GRPO's advantages from outside, unless
its library makes its own. "on-policy" is a group of four answers of the policy; "stale" a group of
two answers of an older policy. "apart" is the distance of its mean from that of the estimator of
pgjax for that formula, in both settings, relative to the gradient: 0 if they agree to rounding.
"""

import argparse
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from benchmarks import foreign_losses
from pgjax import exact, judge_loss, tokens
from pgjax.proof.language_models import three_tokens
from pgjax.proof.token_losses import Verdict
from pgjax.types import Estimator

SETTINGS = {"group_size": 4}, {"group_size": 2, "acting": "old"}

LIBRARIES = {
    "trl": ("trl", foreign_losses.trl_losses),
    "verl": ("verl", foreign_losses.verl_losses),
    "polgrad": ("polgrad", foreign_losses.polgrad_losses),
    "tunix": ("google-tunix", foreign_losses.tunix_losses),
}


@cache
def verdicts_of(estimator: Estimator) -> list[Verdict]:
    """Of one of pgjax's own, as a loss."""

    def loss(log_prob: Any, old_log_prob: Any, mask: Any, rewards: Any, groups: Any) -> Any:
        batch = tokens.Batch(old_log_prob, mask, rewards, groups)
        return tokens.loss(estimator, log_prob, batch)

    return [judge_loss(loss, **setting) for setting in SETTINGS]


def line(case: foreign_losses.Case) -> str:
    """Its row of the table."""
    found = [judge_loss(case.loss, **setting) for setting in SETTINGS]
    numbers = [x for v in found for x in (v.bias, v.scale, v.residue, v.variance)]
    shown = "".join(f"{x:9.4f}" for x in numbers)
    if case.ours is None:
        return f"  {case.name:30s}{shown}"
    size = np.linalg.norm(exact.gradient(three_tokens().problem))
    pairs = zip(found, verdicts_of(case.ours), strict=True)
    apart = [np.linalg.norm(a.moments.mean - b.moments.mean) / size for a, b in pairs]
    return f"  {case.name:30s}{shown}" + "".join(f"{x:9.1e}" for x in apart)


def main(arguments: list[str]) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--only", choices=[*LIBRARIES], action="append")
    chosen = parser.parse_args(arguments).only or [*LIBRARIES]
    heading = "".join(f"{x:>9s}" for x in 2 * ("bias", "scale", "residue", "variance"))
    print(f"{'':32s}{'on-policy, groups of 4':^36s}{'stale, groups of 2':^36s}{'apart':^18s}")
    print(f"{'':32s}{heading}{'on-policy':>9s}{'stale':>9s}")
    for name in chosen:
        package, losses = LIBRARIES[name]
        try:
            print(f"{package} {version(package)}")
            for case in losses():
                print(line(case), flush=True)
        except PackageNotFoundError:
            print(f"{package}: absent")
        except ImportError as error:
            print(f"  does not import: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
