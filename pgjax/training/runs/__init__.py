"""Training runs that can be stopped and resumed: loop, log, checkpoints, signals, saved results."""
