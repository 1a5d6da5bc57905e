"""CartPole-v1 by REINFORCE with its defaults, seed after seed: does every one learn it?

Prints a table and fails if a seed's evaluated mean return is below 475. Run it as

    python -m benchmarks.cartpole_seeds --seeds 5

Each seed is trained and evaluated by the command line itself, in processes of their own, so the
time is what a user waits: imports and compilation included.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

THRESHOLD = 475
COMMAND = [sys.executable, "-c", "import sys; from pgjax.cli import main; sys.exit(main())"]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="how many, counted from --first")
    parser.add_argument("--first", type=int, default=0)
    arguments = parser.parse_args()
    print("seed  evaluated mean  standard error  min  median  max  train seconds")
    means = []
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        with tempfile.TemporaryDirectory() as directory:
            numbers, seconds = measure(seed, Path(directory) / "run")
        means.append(numbers["mean"])
        print(
            f"{seed:>4}  {numbers['mean']:>14.2f}  {numbers['standard error']:>14.2f}  "
            f"{numbers['min']:>3g}  {numbers['median']:>6g}  {numbers['max']:>3g}  "
            f"{seconds:>13.1f}",
            flush=True,
        )
    reached = sum(mean >= THRESHOLD for mean in means)
    print(f"{reached} of {len(means)} seeds reach {THRESHOLD} over 128 fresh episodes")
    return int(reached < len(means))


def measure(seed: int, directory: Path) -> tuple[dict[str, float], float]:
    """What `pgjax evaluate` prints, and the seconds that `pgjax train` took."""
    start = time.perf_counter()
    train = ["train", "CartPole-v1", "--algorithm", "reinforce", "--seed", str(seed)]
    train += ["--output", str(directory)]
    subprocess.run([*COMMAND, *train], check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    answer = subprocess.run(
        [*COMMAND, "evaluate", str(directory)],
        check=True,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    found = re.findall(r"(mean|standard error|min|median|max) (-?[\d.]+)", answer.stdout)
    return {name: float(number) for name, number in found}, seconds


if __name__ == "__main__":
    sys.exit(main())
