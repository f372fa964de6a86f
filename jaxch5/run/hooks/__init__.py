"""The built-in hooks, one per module: each is called with events of `jaxch5.training.events`."""
