"""Colour: brightness and contrast, by dm-pix.

fastai works on logits, where a change of brightness `b` moves mid-grey from 0.5 to `b` and a change
of contrast multiplies the slope there. The same draws are used here for the plain operations, which
move mid-grey and its slope by just as much and the ends of the range by more; what leaves 0 to 1
is cut off.
"""

from __future__ import annotations

import math

import dm_pix
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

Pictures = Float[Array, "batch height width 3"]
Values = Float[Array, "batch"]


def brightness(pictures: Pictures, change: Values) -> Pictures:
    """Adds `change` to every value."""
    return jax.vmap(dm_pix.adjust_brightness)(pictures, change)


def contrast(pictures: Pictures, factor: Values) -> Pictures:
    """Multiplies each value's distance from its channel's mean by `factor`."""
    return jax.vmap(dm_pix.adjust_contrast)(pictures, factor)


def random_brightness(
    keys: Key[Array, "batch"], pictures: Pictures, max_lighting: float, p: float
) -> Pictures:
    """With probability `p` brighter or darker by up to half of `max_lighting`."""
    draws = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(keys)
    change = 0.5 * max_lighting * (2 * draws[:, 1] - 1)
    return brightness(pictures, jnp.where(draws[:, 0] < p, change, 0.0))


def random_contrast(
    keys: Key[Array, "batch"], pictures: Pictures, max_lighting: float, p: float
) -> Pictures:
    """With probability `p` a factor between `1 - max_lighting` and its inverse."""
    draws = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(keys)
    factor = jnp.exp(math.log(1 - max_lighting) * (2 * draws[:, 1] - 1))
    return contrast(pictures, jnp.where(draws[:, 0] < p, factor, 1.0))
