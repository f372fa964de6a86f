"""Computes the features of pictures that a network's body passes to its head."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxch5.errors import ConfigError
from jaxch5.models.spec import HEAD


def pooled_features(
    model: nn.Module,
    variables: Mapping[str, PyTree],
    pictures: Float[Array, "batch height width 3"],
) -> Float[Array, "batch channels"]:
    """Computes features of pictures, which are the head's input, averaged over positions.

    Args:
        model: Module, called as `model.apply(variables, pictures, train=False)`.
        variables: The module's variables.
        pictures: Normalized pictures.

    Raises:
        ConfigError: The module has no linen module `head`; an nnx network has none.

    Example:
        >>> import jax
        >>> class Tiny(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x, train):
        ...         return nn.Dense(2, name="head")(x.mean((1, 2)))
        >>> ones = jnp.ones((5, 8, 8, 3))
        >>> variables = Tiny().init(jax.random.key(0), ones, train=False)
        >>> pooled_features(Tiny(), variables, ones).shape
        (5, 3)
    """
    given: list[Array] = []

    def look(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        if context.module.path == (HEAD,) and context.method_name == "__call__":
            given.append(args[0])
        return call(*args, **kwargs)

    with nn.intercept_methods(look):
        model.apply(variables, pictures, train=False)
    if not given:
        raise ConfigError(
            f"{type(model).__name__} has no linen module {HEAD}, whose input would be the features"
        )
    features = given[0].astype(jnp.float32)
    return features.mean(axis=tuple(range(1, features.ndim - 1)))
