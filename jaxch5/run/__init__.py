"""Observes training, stores it as a run, and reports its results."""
