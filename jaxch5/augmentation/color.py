"""Changes the lighting, saturation and hue of pictures, or turns them grey.

Pictures have values from 0 to 1, before and after a change. The magnitudes of the changes are
fastai's; dm-pix does the arithmetic, except for contrast.

Brightness and contrast act on logits, as in fastai, so that black stays black, white stays white
and no value leaves the range from 0 to 1. If dm-pix changed the values themselves, it would raise a
value of 0.9 about three times as much as fastai does, and could raise it above 1. Contrast
multiplies differences from mid-grey, as in fastai; dm-pix multiplies differences from the channel's
mean. Saturation is changed in HSV, as in dm-pix; fastai mixes the picture with a grey version of
itself instead.

The functions whose names begin with `random_` turn draws (numbers from 0 to 1) into parameters for
the other functions.
"""

from __future__ import annotations

import math

import dm_pix
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Pictures = Float[Array, "batch height width 3"]
Values = Float[Array, "batch"]


def lighting(pictures: Pictures, brightness: Values, contrast: Values) -> Pictures:
    """Changes brightness, then contrast, with one conversion to logits and back.

    Args:
        pictures: Values from 0 to 1.
        brightness: Value, from 0 to 1, that the change of brightness gives to mid-grey; 0.5 changes
            nothing.
        contrast: Factor by which the logits are multiplied, and thus also the differences between
            values near mid-grey; 1 changes nothing.

    Example:
        >>> grey = jnp.full((1, 1, 1, 3), 0.5)
        >>> round(float(lighting(grey, jnp.array([0.6]), jnp.array([1.0]))[0, 0, 0, 0]), 6)
        0.6
    """
    logits = jax.vmap(dm_pix.adjust_brightness)(_logit(pictures), _logit(brightness))
    return jax.nn.sigmoid(contrast[:, None, None, None] * logits)


def saturation(pictures: Pictures, factor: Values) -> Pictures:
    """Multiplies the HSV saturation by `factor`, and clips the product at full saturation.

    Example:
        >>> pink = jnp.array([[[[1.0, 0.5, 0.5]]]])
        >>> saturation(pink, jnp.array([0.0])).ravel().tolist()
        [1.0, 1.0, 1.0]
    """
    return jax.vmap(dm_pix.adjust_saturation)(pictures, factor)


def hue(pictures: Pictures, turn: Values) -> Pictures:
    """Shifts the HSV hue by `turn`, a fraction of the colour circle.

    Example:
        >>> red = jnp.array([[[[1.0, 0.0, 0.0]]]])
        >>> jnp.round(hue(red, jnp.array([1 / 3])), 4).ravel().tolist()
        [0.0, 1.0, 0.0]
    """
    return jax.vmap(dm_pix.adjust_hue)(pictures, turn)


def gray(pictures: Pictures, chosen: Bool[Array, "batch"]) -> Pictures:
    """Sets all three channels of the `chosen` pictures to their luma (ITU-R 601).

    Example:
        >>> red = jnp.array([[[[1.0, 0.0, 0.0]]]])
        >>> [round(value, 4) for value in gray(red, jnp.array([True])).ravel().tolist()]
        [0.2989, 0.2989, 0.2989]
    """
    luma = dm_pix.rgb_to_grayscale(pictures, keep_dims=True)
    return jnp.where(chosen[:, None, None, None], luma, pictures)


def random_lighting(
    draws: Float[Array, "batch 4"], pictures: Pictures, max_lighting: float, p: float
) -> Pictures:
    """Changes brightness and contrast, each with probability `p`.

    Mid-grey moves by up to half of `max_lighting`. The contrast factor is between
    `1 - max_lighting` and `1 / (1 - max_lighting)`; its logarithm is uniformly distributed.
    """
    brightness = 0.5 + 0.5 * max_lighting * (2 * draws[:, 1] - 1)
    return lighting(
        pictures,
        jnp.where(draws[:, 0] < p, brightness, 0.5),
        jnp.where(draws[:, 2] < p, _factor(draws[:, 3], max_lighting), 1.0),
    )


def random_saturation(
    draws: Float[Array, "batch 2"], pictures: Pictures, max_saturation: float, p: float
) -> Pictures:
    """Multiplies saturation, with probability `p`, by a random factor.

    The factor is between `1 - max_saturation` and `1 / (1 - max_saturation)`.
    """
    factor = _factor(draws[:, 1], max_saturation)
    return saturation(pictures, jnp.where(draws[:, 0] < p, factor, 1.0))


def random_hue(
    draws: Float[Array, "batch 2"], pictures: Pictures, max_hue: float, p: float
) -> Pictures:
    """Shifts the hue, with probability `p`, by a random fraction of the colour circle.

    The fraction is between `-max_hue` and `max_hue / (1 - max_hue)`. fastai draws a factor between
    `1 - max_hue` and `1 / (1 - max_hue)`, and adds it to the hue. The hue is a circle with length
    1, so adding the factor minus one, as this function does, has the same effect.
    """
    turn = _factor(draws[:, 1], max_hue) - 1
    return hue(pictures, jnp.where(draws[:, 0] < p, turn, 0.0))


def random_gray(draws: Float[Array, "batch 1"], pictures: Pictures, p: float) -> Pictures:
    """Turns pictures grey with probability `p`."""
    return gray(pictures, draws[:, 0] < p)


def _logit(values: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    # This form of the logit uses the values only once. If the values come from resampling, the
    # compiler recomputes them for each use, and using them twice doubled the total time.
    return -jnp.log(1 / jnp.clip(values, 0.0, 1.0) - 1)


def _factor(draw: Values, largest_change: float) -> Values:
    return jnp.exp(math.log(1 - largest_change) * (2 * draw - 1))
