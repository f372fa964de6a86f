"""Turns nnx modules into linen modules, with flax's own bridge."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import flax.linen as nn
from flax import nnx
from flax.nnx.bridge import ToLinen
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, PyTree

from jaxch5.models.spec import VariablePath


class FromNnx(ToLinen):
    """Wraps an nnx module so that it can be called with `train`, like this package's modules.

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
    """Returns an nnx module as a linen module, using flax's bridge.

    The linen module starts with the nnx module's weights. On each call, it switches the nnx module
    to training or inference by `module.train()` or `module.eval()`, then passes it the pictures.
    During training, the nnx module's random streams, whatever their names, are seeded from the
    step's key.

    Args:
        module: The nnx module.

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
            nodes = [node for _, node in nnx.iter_graph(copy)]
            own = {node.key.tag for node in nodes if isinstance(node, nnx.RngStream)}
            # nnx gives the name `default` to a stream for which no name was chosen.
            names = ("default", "dropout", *sorted(own - {"default", "dropout"}))
            nnx.reseed(copy, **{name: rngs["dropout"]() for name in names})
        return copy

    # nnx numbers the items of a list, but linen variables, checkpoints and files need names.
    numbered = [path for path, _ in nnx.to_flat_state(nnx.state(module))]
    paths = {tuple(map(str, path)): path for path in numbered}

    def renamed(to: Callable[[VariablePath], Iterable[Any]]) -> Callable[[PyTree], PyTree]:
        def rename(variables: PyTree) -> PyTree:
            flat = flatten_dict(dict(variables))
            return unflatten_dict({(kind, *to(path)): flat[kind, *path] for kind, *path in flat})

        return rename

    inward, outward = renamed(lambda path: paths[tuple(path)]), renamed(lambda path: map(str, path))
    named = nn.map_variables(FromNnx, True, inward, outward, mutable=True)
    return named(copied, arch=type(module).__name__)
