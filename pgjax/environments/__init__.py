"""Environments: one small surface of pure functions, and adapters to it."""
