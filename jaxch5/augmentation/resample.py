"""Samples pictures that are cropped and scaled, but not distorted, with Pillow's bicubic filter."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from jaxch5.augmentation.sample import borders, brought_inside, share_inside
from jaxch5.framing import Size, colour_beyond, height_and_width


def resample(
    image: UInt8[Array, "batch height width 3"],
    matrix: Float[Array, "batch 3 3"],
    frame: Float[Array, "batch 3 3"],
    size: Size,
    dtype: Any = jnp.float32,
    pad_mode: str = "reflection",
) -> Float[Array, "batch rows columns 3"]:
    """Samples pictures with Keys' cubic kernel, widened by the factor by which a picture shrinks.

    Pillow has the same filter (`Image.Resampling.BICUBIC`), and timm uses it for evaluation.
    Positions beyond a picture's border are handled as `pad_mode` says. The result has values from 0
    to 1.

    Args:
        image: Canvases.
        matrix: Map from an output pixel to a canvas pixel, without shear; a rotation by a
            right angle is allowed.
        frame: Map from the unit square to the canvas, which tells where the picture's border is.
        size: Side of the output, or its height and width, in pixels.
        dtype: Type of the output.
        pad_mode: What is seen beyond a picture's border; see `Framing`.

    Source:
        Keys, Cubic convolution interpolation for digital image processing, 1981.

    Example:
        >>> canvas = jnp.arange(48, dtype=jnp.uint8).reshape(1, 4, 4, 3)
        >>> frame = jnp.diag(jnp.array([4.0, 4.0, 1.0]))[None]
        >>> picture = resample(canvas, jnp.eye(3)[None], frame, size=4)
        >>> bool((jnp.round(picture * 255) == canvas).all())
        True
    """
    rows, columns = height_and_width(size)
    side = max(rows, columns)
    matrix = matrix / matrix[:, 2:, 2:]
    bounds = borders(frame)
    colour = colour_beyond(pad_mode)
    beyond = jnp.asarray(colour or 0, jnp.float32)

    def along(axis: int, pictures: Array) -> Array:
        """Resamples axis 1 of `pictures`: the canvas's x if `axis` is 0, and its y if it is 1."""
        low, high = (bound[:, axis, None, None] for bound in bounds)
        # One of the two entries is zero; which one depends on whether the picture is turned.
        step = (matrix[:, axis, 0] + matrix[:, axis, 1])[:, None, None]
        place = step * (jnp.arange(side) + 0.5)[:, None] + matrix[:, axis, 2, None, None]
        # Unless positions are reflected, those beyond an edge move to the centre of the pixel at
        # the edge.
        edge = 0.0 if pad_mode == "reflection" else 0.5
        at = brought_inside(place, low + edge, high - edge, pad_mode)
        pixel = jnp.arange(pictures.shape[1]) + 0.5
        mirrored = (pixel, 2 * low - pixel, 2 * high - pixel)
        widened = jnp.maximum(jnp.abs(step), 1.0)
        shares = sum(_cubic((each - at) / widened) for each in mirrored)
        shares = jnp.where((low < pixel) & (pixel < high), shares, 0.0)
        shares /= shares.sum(-1, keepdims=True)
        if colour:
            shares *= share_inside(place, low[:, 0, 0], high[:, 0, 0])
        flat = pictures.reshape(*pictures.shape[:2], -1)
        resampled = jnp.matmul(shares, flat, precision="highest")
        return resampled.reshape(pictures.shape[0], side, *pictures.shape[2:])

    # Where `along` does not reflect the picture or repeat its border, it treats pixels beyond the
    # border as zeros. If `pad_mode` gives them another colour, that colour is subtracted from the
    # picture beforehand and added again afterwards.
    down = along(1, image.astype(jnp.float32) - beyond)
    turned = along(0, down.swapaxes(1, 2))
    is_turned = jnp.abs(matrix[:, 0, 1]) > jnp.abs(matrix[:, 0, 0])
    pictures = jnp.where(is_turned[:, None, None, None], turned, turned.swapaxes(1, 2))
    seen = (pictures[:, :rows, :columns] + beyond) / 255
    return jnp.clip(seen, 0.0, 1.0).astype(dtype)


def _cubic(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    x = jnp.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return jnp.where(x < 1, near, jnp.where(x < 2, far, 0.0))
