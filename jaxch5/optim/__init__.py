"""Defines schedules, groups of parameters and optimizers."""
