"""Makes the matrices that say where each pixel of the output comes from.

A matrix acts on homogeneous points (x, y, 1), where x points to the right and y points down. The
operations work in a square whose coordinates run from -1 to 1, and which stands for the part of the
picture that is seen. If that part is not square, `stretch` gives the square the shape of the part
during a rotation, which would otherwise shear the picture. A point goes from the output to the
canvas in these steps:

    output pixel --square--> crop, zoom, rotate, flip, warp --position--> unit square --frame-->
    canvas pixel

In the product of the matrices, the first step is therefore the rightmost factor. Each random
operation also has a deterministic form. The random form turns draws (numbers from 0 to 1, a few per
sample; see `uniforms`) into parameters for the deterministic form. Parameters and distributions are
those of fastai's `aug_transforms`.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jaxch5.framing import Size, height_and_width

Matrices = Float[Array, "batch 3 3"]
Values = Float[Array, "batch"]


def from_rows(*rows: tuple[Values | float, Values | float, Values | float]) -> Matrices:
    """Builds matrices from nine entries, each a number or an array with one number per sample.

    Example:
        >>> from_rows((jnp.ones(2), 0, 0), (0, 1, 0), (0, 0, 1)).shape
        (2, 3, 3)
    """
    entries = jnp.broadcast_arrays(
        *(jnp.asarray(entry, jnp.float32) for row in rows for entry in row)
    )
    return jnp.stack(entries, axis=-1).reshape(*entries[0].shape, 3, 3)


def compose(*matrices: Float[Array, "*batch 3 3"]) -> Float[Array, "*batch 3 3"]:
    """Multiplies matrices, of which the last one is the first to act on a point.

    Example:
        >>> there, back = rotate(jnp.array([30.0])), rotate(jnp.array([-30.0]))
        >>> bool(jnp.allclose(compose(there, back), jnp.eye(3), atol=1e-6))
        True
    """

    def multiply(left: Array, right: Array) -> Array:
        # The product is written out because the matrix units of some devices round the factors, and
        # because the result of a library's matrix product may depend on the size of the batch.
        first, second, third = (left[..., :, k, None] * right[..., None, k, :] for k in range(3))
        return first + second + third

    return functools.reduce(multiply, matrices)


def square(size: Size) -> Float[Array, "3 3"]:
    """Maps the pixels of an output to the square; centres of pixels are at half integers.

    Example:
        >>> (square(4) @ jnp.array([4.0, 2.0, 1.0])).tolist()
        [1.0, 0.0, 1.0]
    """
    height, width = height_and_width(size)
    return from_rows((2 / width, 0, -1), (0, 2 / height, -1), (0, 0, 1))


def flip(mirrored: Bool[Array, "batch"]) -> Matrices:
    """Swaps left and right in the samples for which `mirrored` is true.

    Example:
        >>> (flip(jnp.array([True]))[0] @ jnp.array([0.5, 0.2, 1.0])).tolist()[:1]
        [-0.5]
    """
    return from_rows((jnp.where(mirrored, -1.0, 1.0), 0, 0), (0, 1, 0), (0, 0, 1))


def dihedral(symmetry: Int[Array, "batch"]) -> Matrices:
    """Returns, for each sample, one of the square's eight symmetries, which are numbered from 0.

    Bit 0 of the number swaps left and right, bit 1 swaps top and bottom, and bit 2 then swaps rows
    and columns. Thus 0 changes nothing, 3 is a half turn, 5 is a quarter turn counter-clockwise,
    and 6 is a quarter turn clockwise.

    Example:
        >>> dihedral(jnp.array([5]))[0].astype(int).tolist()
        [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    """
    x = jnp.where(symmetry & 1, -1.0, 1.0)
    y = jnp.where(symmetry & 2, -1.0, 1.0)
    swap = jnp.where(symmetry & 4, 1.0, 0.0)
    keep = 1.0 - swap
    return from_rows((x * keep, x * swap, 0), (y * swap, y * keep, 0), (0, 0, 1))


def rotate(degrees: Values) -> Matrices:
    """Turns the picture counter-clockwise about its middle.

    Example:
        >>> jnp.round(rotate(jnp.array([90.0]))[0]).astype(int).tolist()
        [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    """
    angle = jnp.deg2rad(degrees)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return from_rows((cos, -sin, 0), (sin, cos, 0), (0, 0, 1))


def zoom(factor: Values, x: Values, y: Values) -> Matrices:
    """Enlarges the picture about (x, y); coordinates run from 0 (left, top) to 1 (right, bottom).

    Example:
        >>> zoom(jnp.array([2.0]), jnp.array([0.5]), jnp.array([1.0]))[0].tolist()
        [[0.5, 0.0, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0]]
    """
    scale = 1 / factor
    return from_rows(
        (scale, 0, (1 - scale) * (2 * x - 1)), (0, scale, (1 - scale) * (2 * y - 1)), (0, 0, 1)
    )


def crop(area: Values, x: Values, y: Values) -> Matrices:
    """Keeps a square part, given its share of the area and its position (0 to 1) on each axis.

    Example:
        >>> crop(jnp.array([0.25]), jnp.array([0.0]), jnp.array([0.5]))[0].tolist()
        [[0.5, 0.0, -0.5], [0.0, 0.5, 0.0], [0.0, 0.0, 1.0]]
    """
    return zoom(1 / jnp.sqrt(area), x, y)


def warp(x: Values, y: Values) -> Matrices:
    """Tilts the picture about its vertical (x) and its horizontal (y) axis, in perspective.

    A corner (u, v) of the picture moves to (u - y u v, v - x u v), as in fastai's `Warp`.
    The matrix is the homography that moves the four corners back; there is a closed form for it.

    Args:
        x, y: Tilts, with |x| + |y| below 1; if the sum were 1, three corners would be on a line.

    Example:
        >>> x, y, w = warp(jnp.array([0.2]), jnp.array([0.0]))[0] @ jnp.array([1.0, 0.8, 1.0])
        >>> round(float(x / w), 6), round(float(y / w), 6)
        (1.0, 1.0)
    """
    rest = 1 - x**2 - y**2
    u = -x * (1 - x**2 + y**2) / rest
    v = -y * (1 + x**2 - y**2) / rest
    shear = 2 * x * y / rest
    return from_rows((1, shear, u), (shear, 1, v), (u, v, 1))


def stretch(aspect: Values | float) -> Matrices:
    """Multiplies x by `aspect`, so that the square is that many times as wide as it is high."""
    return from_rows((aspect, 0, 0), (0, 1, 0), (0, 0, 1))


def sides(frame: Matrices) -> tuple[Values, Values]:
    """Returns the widths and heights of pictures, in a unit that may differ between pictures.

    Example:
        >>> squished = jnp.diag(jnp.array([24.0, 24.0, 3.0]))[None]  # to a canvas of 8 by 8
        >>> [side.tolist() for side in sides(squished)]
        [[24.0], [8.0]]
    """
    width, height = (jnp.linalg.norm(frame[:, :2, axis], axis=-1) for axis in (0, 1))
    return width, height / frame[:, 2, 2]


def aspect_seen(frame: Matrices, size: Size, method: str) -> Values | float:
    """Returns the width-to-height ratio of the part of a picture that an output of `size` shows."""
    if method == "squish":
        return jnp.divide(*sides(frame))
    height, width = height_and_width(size)
    return width / height


def position(
    frame: Matrices, place: Values, aspect: Values | float = 1.0, method: str = "crop"
) -> Matrices:
    """Fits the square into the picture or, if `method` is "pad", the picture into the square.

    Args:
        frame: Frames of the pictures, from which the pictures' shapes follow.
        place: Position along the side that has room to spare, from 0 (left or top) to 1 (right or
            bottom); 0.5 is the middle.
        aspect: Width-to-height ratio of the part that the square stands for; see `aspect_seen`.
        method: "pad" makes the square just large enough to hold the whole picture; other methods
            make it as large as fits into the picture.

    Example:
        >>> frame = jnp.diag(jnp.array([12.0, 8.0, 1.0]))[None]
        >>> (position(frame, jnp.array([1.0]))[0] @ jnp.array([1.0, 1.0, 1.0])).tolist()
        [1.0, 1.0, 1.0]
    """
    width, height = sides(frame)
    fit = jnp.maximum if method == "pad" else jnp.minimum
    half_x = fit(width, height * aspect) / width / 2
    half_y = fit(height, width / aspect) / height / 2
    return from_rows(
        (half_x, 0, half_x + (1 - 2 * half_x) * place),
        (0, half_y, half_y + (1 - 2 * half_y) * place),
        (0, 0, 1),
    )


def uniforms(
    key: Key[Array, ""], index: Int[Array, "batch"], count: int
) -> Float[Array, "batch {count}"]:
    """Draws `count` numbers from 0 to 1 for each item, from the key folded with the item's index.

    One call draws the numbers for all operations, because each use of the generator adds about a
    fifth of a second to the compilation time on two cores.

    Example:
        >>> few = uniforms(jax.random.key(0), jnp.array([7]), 3)
        >>> many = uniforms(jax.random.key(0), jnp.array([4, 7]), 3)
        >>> bool((few[0] == many[1]).all())
        True
    """
    return jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(key, i), (count,)))(index)


def random_flip(draws: Float[Array, "batch 2"], p: float = 0.5) -> Matrices:
    """Mirrors each picture with probability `p`."""
    return flip(draws[:, 0] < p)


def random_dihedral(draws: Float[Array, "batch 2"], p: float = 0.5) -> Matrices:
    """Applies one of the eight symmetries, which include the identity, with probability `p`."""
    symmetry = jnp.floor(8 * draws[:, 1]).astype(jnp.int32)
    return dihedral(jnp.where(draws[:, 0] < p, symmetry, 0))


def random_rotate(draws: Float[Array, "batch 2"], max_degrees: float, p: float) -> Matrices:
    """Turns each picture by up to `max_degrees` either way, with probability `p`."""
    return rotate(jnp.where(draws[:, 0] < p, max_degrees * (2 * draws[:, 1] - 1), 0.0))


def random_zoom(
    draws: Float[Array, "batch 4"], min_zoom: float, max_zoom: float, p: float
) -> Matrices:
    """Zooms, with probability `p`, by a random factor about a random point.

    The factor is uniformly distributed between `min_zoom` and `max_zoom`.
    """
    factor = min_zoom + (max_zoom - min_zoom) * draws[:, 1]
    return zoom(jnp.where(draws[:, 0] < p, factor, 1.0), draws[:, 2], draws[:, 3])


def random_warp(draws: Float[Array, "batch 4"], magnitude: float, p: float) -> Matrices:
    """Tilts the picture about each of its two axes, with probability `p`, by up to `magnitude`."""
    tilt = jnp.where(draws[:, :2] < p, magnitude * (2 * draws[:, 2:] - 1), 0.0)
    return warp(tilt[:, 0], tilt[:, 1])


def random_crop(draws: Float[Array, "batch 3"], min_scale: float) -> Matrices:
    """Keeps a random part of the picture, with a share of its area from `min_scale` to 1."""
    return crop(min_scale + (1 - min_scale) * draws[:, 0], draws[:, 1], draws[:, 2])


def random_position(
    draws: Float[Array, "batch 1"],
    frame: Matrices,
    aspect: Values | float = 1.0,
    method: str = "crop",
) -> Matrices:
    """Places the square at a random position along the side that has room to spare."""
    return position(frame, draws[:, 0], aspect, method)
