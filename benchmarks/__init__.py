"""Speed of pgjax beside its rivals: `python -m benchmarks`, from the repository's root."""
