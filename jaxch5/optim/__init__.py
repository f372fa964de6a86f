"""Optimization: schedules, parameter groups and optimizers."""
