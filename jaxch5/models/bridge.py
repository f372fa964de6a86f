"""Modules of nnx as linen modules, by flax's own bridge."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
from flax import nnx
from flax.nnx.bridge import ToLinen
from jaxtyping import Array, Float


class FromNnx(ToLinen):
    """A module of nnx, called as linen modules are here: trains or evaluates as `train` says.

    Attributes:
        arch: Name of the module's class.
    """

    arch: str = ""

    def __call__(  # type: ignore[override]
        self, x: Float[Array, "batch height width 3"], train: bool
    ) -> Float[Array, "batch num_classes"]:
        return super().__call__(x, train, nnx_method=_call)


def _call(module: Any, x: Array, train: bool) -> Array:
    (module.train if train else module.eval)()
    return module(x)


def as_linen(module: nnx.Module) -> nn.Module:
    """Returns the linen module that flax's bridge makes of an nnx module.

    It begins with the weights that the nnx module has, which is called with pictures alone, and is
    set to train and to evaluate by its own `train()` and `eval()`. Its dropout draws from the
    step's key.

    Args:
        module: Module of nnx.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> class Tiny(nnx.Module):
        ...     def __init__(self, rngs):
        ...         self.norm = nnx.BatchNorm(3, rngs=rngs)
        ...         self.head = nnx.Linear(3, 2, rngs=rngs)
        ...
        ...     def __call__(self, x):
        ...         return self.head(self.norm(x).mean((1, 2)))
        >>> linen = as_linen(Tiny(nnx.Rngs(0)))
        >>> variables = linen.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)
        >>> sorted(variables), sorted(variables["params"])
        (['batch_stats', 'params'], ['head', 'norm'])
    """

    def copied(rngs: nnx.Rngs) -> nnx.Module:
        copy = nnx.clone(module)
        if "dropout" in rngs:
            # Streams for which a module was given no names are called default.
            nnx.reseed(copy, default=rngs["dropout"](), dropout=rngs["dropout"]())
        return copy

    return FromNnx(copied, arch=type(module).__name__)
