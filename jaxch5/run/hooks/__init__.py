"""The built-in hooks, one per module; they are called with events of `jaxch5.training.events`."""
