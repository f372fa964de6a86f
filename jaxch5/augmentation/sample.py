"""The one interpolation: from canvases of uint8 to the network's input."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

# Above this many canvas pixels an output pixel, one bilinear sample would skip pixels: there, the
# mean of four sub-samples stands for the area of an output pixel.
SHRINKS_ABOVE = 1.4

# Positions are kept to this fraction of a pixel. It is far finer than an eye or a network sees,
# and wipes out rounding: an identity, a flip or a quarter turn hits pixel centres exactly.
SUBPIXELS = 1024


def sample(
    image: UInt8[Array, "batch height width 3"],
    matrix: Float[Array, "batch 3 3"],
    frame: Float[Array, "batch 3 3"],
    size: int,
    dtype: Any = jnp.float32,
) -> Float[Array, "batch size size 3"]:
    """Pictures of `size` by `size`, in 0 to 1, by one bilinear interpolation.

    What lies beyond a picture's border is reflected at it; the canvas beyond the picture is never
    seen. Where a matrix shrinks its picture, each output pixel is the mean of 2x2 sub-samples.

    Args:
        image: canvases.
        matrix: from an output pixel to a canvas pixel, both with centres at half integers.
        frame: from the unit square to the canvas, which tells where the picture's border is.
        size: side of the output, pixels.
        dtype: of the output.

    Example:
        >>> canvas = jnp.arange(48, dtype=jnp.uint8).reshape(1, 4, 4, 3)
        >>> frame = jnp.diag(jnp.array([4.0, 4.0, 1.0]))[None]
        >>> picture = sample(canvas, jnp.eye(3)[None], frame, size=4)
        >>> bool((jnp.round(picture * 255) == canvas).all())
        True
    """
    corners = frame @ jnp.array([[0.0, 1.0], [0.0, 1.0], [1.0, 1.0]])
    low, high = jnp.min(corners, axis=2)[:, :2], jnp.max(corners, axis=2)[:, :2]
    shrinks = local_scale(matrix, size / 2) > SHRINKS_ABOVE

    def at(offset_x: float, offset_y: float) -> Float[Array, "batch size size 3"]:
        # Where nothing shrinks, all four sub-samples are taken at the centre and agree.
        offset = jnp.where(shrinks[:, None], jnp.array([offset_x, offset_y]), 0.0)
        return _bilinear(image, _sources(matrix, offset, size), low, high)

    def four() -> Float[Array, "batch size size 3"]:
        upper = at(-0.25, -0.25) + at(0.25, -0.25)
        return (upper + (at(-0.25, 0.25) + at(0.25, 0.25))) / 4

    pixels = jax.lax.cond(jnp.any(shrinks), four, lambda: at(0.0, 0.0))
    return (pixels / 255).astype(dtype)


def local_scale(matrix: Float[Array, "batch 3 3"], at: float) -> Float[Array, "batch"]:
    """Canvas pixels an output pixel, along a side, near the output pixel (`at`, `at`)."""
    x, y, w = jnp.moveaxis(matrix @ jnp.array([at, at, 1.0]), -1, 0)
    of_x, of_y, of_w = jnp.moveaxis(matrix[:, :, :2], 1, 0)
    gradient_x = (of_x - (x / w)[:, None] * of_w) / w[:, None]
    gradient_y = (of_y - (y / w)[:, None] * of_w) / w[:, None]
    area = gradient_x[:, 0] * gradient_y[:, 1] - gradient_x[:, 1] * gradient_y[:, 0]
    return jnp.sqrt(jnp.abs(area))


def _sources(
    matrix: Float[Array, "batch 3 3"], offset: Float[Array, "batch 2"], size: int
) -> Float[Array, "batch size size 2"]:
    """Where each output pixel comes from, x and y."""
    centres = jnp.arange(size) + 0.5
    x = (centres + offset[:, :1])[:, None, :, None]
    y = (centres + offset[:, 1:])[:, :, None, None]
    of_x, of_y, of_one = (matrix[:, None, None, :, column] for column in range(3))
    point = of_x * x + of_y * y + of_one
    return point[..., :2] / point[..., 2:]


def _bilinear(
    image: UInt8[Array, "batch height width 3"],
    points: Float[Array, "batch rows columns 2"],
    low: Float[Array, "batch 2"],
    high: Float[Array, "batch 2"],
) -> Float[Array, "batch rows columns 3"]:
    """Pixels at points, 0 to 255, reflected into the box from `low` to `high`."""
    low, high = low[:, None, None], high[:, None, None]
    period = 2 * (high - low)
    inside = jnp.mod(points - low, period)
    inside = low + jnp.minimum(inside, period - inside)
    place = jnp.round((inside - 0.5) * SUBPIXELS) / SUBPIXELS

    first = jnp.floor(place)
    (right, down) = jnp.moveaxis(place - first, -1, 0)[..., None]
    nearest = [jnp.clip(corner, low, high - 1).astype(jnp.int32) for corner in (first, first + 1)]
    (left_x, top_y), (right_x, bottom_y) = (jnp.moveaxis(corner, -1, 0) for corner in nearest)
    batch = jnp.arange(image.shape[0])[:, None, None]

    def pixel(y: Array, x: Array) -> Array:
        return image.at[batch, y, x].get(mode="promise_in_bounds").astype(jnp.float32)

    upper = pixel(top_y, left_x) * (1 - right) + pixel(top_y, right_x) * right
    lower = pixel(bottom_y, left_x) * (1 - right) + pixel(bottom_y, right_x) * right
    return upper * (1 - down) + lower * down
