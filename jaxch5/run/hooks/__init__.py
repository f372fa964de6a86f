"""Hooks of our own, one a module: each is a callable of an event; see `jaxch5.training.events`."""
