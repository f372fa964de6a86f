"""Runs: what observes training, stores it and reports it."""
