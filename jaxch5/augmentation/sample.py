"""Makes the network's input from uint8 canvases by a single interpolation."""

from __future__ import annotations

import itertools
import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from jaxch5.framing import Size, colour_beyond, height_and_width

# With more than SHRINKS_ABOVE canvas pixels per output pixel, a single bilinear sample would skip
# pixels, so an output pixel is the mean of n x n sub-samples, which are at most COARSEST canvas
# pixels apart. With fewer, sub-samples would lose more by blurring the picture than they gain.
SHRINKS_ABOVE = 1.4
COARSEST = 1.5

# How far a bilinear sample spreads along an axis, as a variance in squared canvas pixels. The
# variance is a sixth where the picture changes slowly, and less where it changes fast. Values from
# a twelfth to a sixth were tried, and for the majority of scales and shears, 1/8 gave the smallest
# error on photographs.
SPREAD = 1 / 8

# Positions are rounded to this many steps per pixel, which is finer than a network can notice (the
# PSNR is 83 dB). Rounding removes numerical errors, so that an identity, flip or quarter turn hits
# pixel centres exactly. It also makes interpolation between uint8 values exact in float32, whatever
# the order of its sums.
SUBPIXELS = 256


def sample(
    image: UInt8[Array, "batch height width 3"],
    matrix: Float[Array, "batch 3 3"],
    frame: Float[Array, "batch 3 3"],
    size: Size,
    dtype: Any = jnp.float32,
    subsamples: int | None = None,
    pad_mode: str = "reflection",
    gathered: bool = False,
) -> Float[Array, "batch rows columns 3"]:
    """Samples pictures at the given size by one bilinear interpolation, with values from 0 to 1.

    Positions beyond a picture's border are handled as `pad_mode` says; the canvas beyond the
    picture is never seen. If a matrix shrinks its picture markedly, several sub-samples are taken
    for each output pixel and averaged.

    Args:
        image: Canvases.
        matrix: Map from an output pixel to a canvas pixel, both with centres at half integers. It
            may include a change of perspective.
        frame: Map from the unit square to the canvas, which tells where the picture's border is.
        size: Side of the output, or its height and width, in pixels.
        dtype: Type of the output.
        subsamples: Number of sub-samples along a side of an output pixel; if None, it is the
            number that `subsamples_for` returns for the canvas and the output. The number is fixed
            when the function is compiled, so it cannot depend on the matrices. For a picture
            that does not shrink, all sub-samples are at the pixel's centre, and thus equal.
        pad_mode: What is seen beyond a picture's border; see `Framing`.
        gathered: Whether sub-samples are placed as `gathering` says, rather than evenly over the
            output pixel. The result is then more exact, above all if the matrix contains a shear
            (docs/benchmarks.md).

    Example:
        >>> canvas = jnp.arange(48, dtype=jnp.uint8).reshape(1, 4, 4, 3)
        >>> frame = jnp.diag(jnp.array([4.0, 4.0, 1.0]))[None]
        >>> picture = sample(canvas, jnp.eye(3)[None], frame, size=4)
        >>> bool((jnp.round(picture * 255) == canvas).all())
        True
    """
    batch, height, width, _ = image.shape
    rows, columns = height_and_width(size)
    n = subsamples or subsamples_for(min(height, width) / min(rows, columns))
    low, high = borders(frame)
    # Each pixel is looked up by one flat index; using three indices took four times as long.
    pixels = image.reshape(-1, 3)
    start = jnp.arange(batch)[:, None, None] * (height * width)
    middle = rows / 2, columns / 2
    gathered = gathered and n > 1
    if gathered:
        spread = gathering(derivative(matrix, *middle), n)
    else:
        shrinks = local_scale(matrix, *middle) > SHRINKS_ABOVE
        spread = jnp.where(shrinks[:, None, None], jnp.eye(2), 0.0)

    colour = colour_beyond(pad_mode)
    total = jnp.zeros(())
    for i, j in itertools.product(range(n), repeat=2):
        offset = spread[:, :, 0] * ((j + 0.5) / n - 0.5) + spread[:, :, 1] * ((i + 0.5) / n - 0.5)
        x, y = _sources(matrix, offset[:, 0], offset[:, 1], rows, columns)
        left, right, across = _neighbours(x, low[:, 0], high[:, 0], pad_mode)
        top, bottom, down = _neighbours(y, low[:, 1], high[:, 1], pad_mode)
        upper, lower = start + top * width, start + bottom * width
        seen = _mix(
            _mix(_pixels(pixels, upper + left), _pixels(pixels, upper + right), across),
            _mix(_pixels(pixels, lower + left), _pixels(pixels, lower + right), across),
            down,
        )
        if colour:
            inside = share_inside(x, low[:, 0], high[:, 0])
            inside *= share_inside(y, low[:, 1], high[:, 1])
            seen *= inside[..., None]
            if any(colour):
                seen += (1 - inside)[..., None] * jnp.asarray(colour, jnp.float32)
        total += seen
    # This is rounded as a true division by 255 is. For `/ 255` alone, the compiler would multiply
    # by a rounded inverse.
    part = total / (256 * n**2)
    return (part + part / 255).astype(dtype)


def subsamples_for(scale: float) -> int:
    """Returns how many sub-samples are taken along the side of an output pixel.

    Args:
        scale: Length of that side, in canvas pixels.

    Example:
        >>> [subsamples_for(scale) for scale in (1.0, 1.4, 1.5, 2.05, 4.0)]
        [1, 1, 2, 2, 3]
    """
    return 1 if scale <= SHRINKS_ABOVE else max(2, math.ceil(scale / COARSEST))


def gathering(slopes: Float[Array, "batch 2 2"], subsamples: int) -> Float[Array, "batch 2 2"]:
    """Returns matrices that move an output pixel's sub-samples closer together.

    The matrices apply to output coordinates.

    Evenly spaced sub-samples cover a little less than the output pixel, but each interpolation
    blurs by about a canvas pixel. In a direction in which the output pixel covers few canvas
    pixels, the two together would cover more than the output pixel, so the sub-samples are moved
    closer together in that direction.

    Args:
        slopes: Derivative of canvas positions, as `derivative` returns it.
        subsamples: Number of sub-samples along a side of an output pixel, 2 or more.

    Example:
        >>> long = jnp.array([[[4.0, 0.0], [0.0, 1.5]]])
        >>> (3 * gathering(long, 2)[0]).round(2).tolist()
        [[3.0, 0.0], [0.0, 2.0]]
    """
    first, second = jnp.moveaxis(slopes, 2, 0)
    xx, xy, yy = ((a * b).sum(1) for a, b in ((first, first), (first, second), (second, second)))
    mean, root = (xx + yy) / 2, jnp.hypot((xx - yy) / 2, xy)
    even = (1 - 1 / subsamples**2) / 12

    def along(squared: Array) -> Array:
        """Returns the factor for a direction, given the square of its scale.

        The scale is the number of canvas pixels per output pixel in this direction.
        """
        return jnp.sqrt(jnp.clip((1 / 12 - SPREAD / jnp.maximum(squared, 1e-6)) / even, 0, 1))

    # Any function of a symmetric 2x2 matrix is `slope` times the matrix plus `level` times the
    # identity matrix.
    least, most = along(mean - root), along(mean + root)
    slope = jnp.where(root > 1e-3 * mean, (most - least) / (2 * jnp.maximum(root, 1e-6)), 0.0)
    level = (least + most) / 2 - slope * mean
    return jnp.stack([level + slope * xx, slope * xy, slope * xy, level + slope * yy], 1).reshape(
        -1, 2, 2
    )


def derivative(
    matrix: Float[Array, "batch 3 3"], row: float, column: float
) -> Float[Array, "batch 2 2"]:
    """Returns the derivative of canvas positions with respect to output positions, at a point."""
    at = (matrix[:, :, 0] * (column / row) + matrix[:, :, 1]) * row + matrix[:, :, 2]
    x, y, w = jnp.moveaxis(at, 1, 0)
    of_x, of_y, of_w = jnp.moveaxis(matrix[:, :, :2], 1, 0)
    gradient_x = (of_x - (x / w)[:, None] * of_w) / w[:, None]
    gradient_y = (of_y - (y / w)[:, None] * of_w) / w[:, None]
    return jnp.stack([gradient_x, gradient_y], 1)


def local_scale(
    matrix: Float[Array, "batch 3 3"], row: float, column: float | None = None
) -> Float[Array, "batch"]:
    """Returns how many canvas pixels an output pixel's side spans; `column` defaults to `row`.

    Example:
        >>> round(float(local_scale(jnp.diag(jnp.array([2.0, 2.0, 1.0]))[None], 8.0)[0]), 6)
        2.0
    """
    gradient_x, gradient_y = jnp.moveaxis(
        derivative(matrix, row, row if column is None else column), 1, 0
    )
    area = gradient_x[:, 0] * gradient_y[:, 1] - gradient_x[:, 1] * gradient_y[:, 0]
    return jnp.sqrt(jnp.abs(area))


def borders(
    frame: Float[Array, "batch 3 3"],
) -> tuple[Float[Array, "batch 2"], Float[Array, "batch 2"]]:
    """Returns the smallest and the largest canvas coordinates, x and y, of each picture."""
    # Borders are whole numbers, but the division for a squished picture may not be exact.
    right, down, origin = jnp.round(jnp.moveaxis(frame[:, :2] / frame[:, 2:, 2:], 2, 0))
    low = origin + jnp.minimum(right, 0) + jnp.minimum(down, 0)
    high = origin + jnp.maximum(right, 0) + jnp.maximum(down, 0)
    return low, high


def _sources(
    matrix: Float[Array, "batch 3 3"],
    offset_x: Float[Array, "batch"],
    offset_y: Float[Array, "batch"],
    rows: int,
    columns: int,
) -> tuple[Float[Array, "batch {rows} {columns}"], Float[Array, "batch {rows} {columns}"]]:
    """Returns the canvas positions, x and y, of output pixels that are moved by an offset."""
    x = (jnp.arange(columns) + 0.5 + offset_x[:, None])[:, None, :]
    y = (jnp.arange(rows) + 0.5 + offset_y[:, None])[:, :, None]

    def row(k: int) -> Array:
        of_x, of_y, of_one = (matrix[:, k, column, None, None] for column in range(3))
        return of_x * x + of_y * y + of_one

    return row(0) / row(2), row(1) / row(2)


def _neighbours(
    place: Float[Array, "batch rows columns"],
    low: Float[Array, "batch"],
    high: Float[Array, "batch"],
    pad_mode: str,
) -> tuple[
    Int[Array, "batch rows columns"],
    Int[Array, "batch rows columns"],
    Float[Array, "batch rows columns"],
]:
    """Returns the pixels before and after each position on an axis, and the offset from the first.

    Positions below `low` or above `high` are first reflected, or moved to the edge.
    """
    low, high = low[:, None, None], high[:, None, None]
    inside = brought_inside(place, low, high, pad_mode)
    inside = jnp.round((inside - 0.5) * SUBPIXELS) / SUBPIXELS
    first = jnp.floor(inside)
    before = jnp.maximum(first, low).astype(jnp.int32)
    after = jnp.minimum(first + 1, high - 1).astype(jnp.int32)
    return before, after, inside - first


def brought_inside(
    place: Float[Array, "batch rows columns"], low: Array, high: Array, pad_mode: str
) -> Float[Array, "batch rows columns"]:
    """Reflects positions beyond `low` or `high`, or moves them to the edge, as `pad_mode` says."""
    if pad_mode != "reflection":
        return jnp.clip(place, low, high)
    period = 2 * (high - low)
    turns = (place - low) / period
    return low + period * jnp.abs(turns - jnp.round(turns))


def share_inside(
    place: Float[Array, "batch rows columns"],
    low: Float[Array, "batch"],
    high: Float[Array, "batch"],
) -> Float[Array, "batch rows columns"]:
    """Returns which share of each position's interpolation weight is on pixels inside the picture.

    The picture's pixels are those between `low` and `high`.
    """
    low, high = low[:, None, None], high[:, None, None]
    return jnp.clip(jnp.minimum(place - low, high - place) + 0.5, 0, 1)


def _pixels(pixels: UInt8[Array, "count 3"], at: Int[Array, "*shape"]) -> Float[Array, "*shape 3"]:
    return pixels.at[at].get(mode="promise_in_bounds").astype(jnp.float32)


def _mix(
    first: Float[Array, "*shape 3"], second: Float[Array, "*shape 3"], share: Float[Array, "*shape"]
) -> Float[Array, "*shape 3"]:
    return first + (second - first) * share[..., None]
