"""Runs that survive: the loop with its log, checkpoints, signals and saved results."""
