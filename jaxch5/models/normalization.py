"""Normalization of pictures: mean and deviation of each colour channel."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float


class Normalization(NamedTuple):
    """Mean and deviation of each colour channel, of values 0 to 1; they travel with the weights."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def normalize(
    pictures: Float[Array, "batch height width 3"], normalization: Normalization
) -> Float[Array, "batch height width 3"]:
    """Pictures whose channels have about mean 0 and deviation 1.

    Example:
        >>> grey = Normalization((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
        >>> float(normalize(jnp.ones((1, 1, 1, 3)), grey)[0, 0, 0, 0])
        2.0
    """
    mean = jnp.asarray(normalization.mean, pictures.dtype)
    std = jnp.asarray(normalization.std, pictures.dtype)
    return (pictures - mean) / std
