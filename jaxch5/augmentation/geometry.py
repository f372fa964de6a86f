"""Geometry: matrices that say where each pixel of the output comes from.

A matrix acts on homogeneous points (x, y, 1), x to the right and y down. All operations but the
last two work in a square from -1 to 1 in which lengths are true, so that turning does not shear.
From the output to the canvas a point takes this way:

    output pixel --square--> crop, zoom, rotate, flip, warp --position--> unit square --frame-->
    canvas pixel

so that the product is read from right to left. Each operation has a deterministic form and a
random one; the random one draws the parameters, a key a sample, and calls the other. Draws and
meanings are those of fastai's `aug_transforms`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

Matrices = Float[Array, "batch 3 3"]
Values = Float[Array, "batch"]
Keys = Key[Array, "batch"]


def from_rows(*rows: tuple[Values | float, Values | float, Values | float]) -> Matrices:
    """Matrices from nine entries, each a number or one for every sample.

    Example:
        >>> from_rows((jnp.ones(2), 0, 0), (0, 1, 0), (0, 0, 1)).shape
        (2, 3, 3)
    """
    entries = jnp.broadcast_arrays(
        *(jnp.asarray(entry, jnp.float32) for row in rows for entry in row)
    )
    return jnp.stack(entries, axis=-1).reshape(*entries[0].shape, 3, 3)


def compose(*matrices: Matrices) -> Matrices:
    """The product: the last matrix is the first to act."""
    product = matrices[0]
    for matrix in matrices[1:]:
        product = jnp.matmul(product, matrix, precision="highest")
    return product


def square(size: int) -> Float[Array, "3 3"]:
    """From a pixel of an output of `size` by `size` to the square; pixel centres at half integers.

    Example:
        >>> (square(4) @ jnp.array([4.0, 2.0, 1.0])).tolist()
        [1.0, 0.0, 1.0]
    """
    return from_rows((2 / size, 0, -1), (0, 2 / size, -1), (0, 0, 1))


def flip(mirrored: Bool[Array, "batch"]) -> Matrices:
    """Exchanges left and right."""
    return from_rows((jnp.where(mirrored, -1.0, 1.0), 0, 0), (0, 1, 0), (0, 0, 1))


def dihedral(symmetry: Int[Array, "batch"]) -> Matrices:
    """One of the eight symmetries of the square, 0 being none.

    Bit 0 exchanges left and right, bit 1 up and down, bit 2 rows and columns.
    """
    x = jnp.where(symmetry & 1, -1.0, 1.0)
    y = jnp.where(symmetry & 2, -1.0, 1.0)
    swap = jnp.where(symmetry & 4, 1.0, 0.0)
    keep = 1.0 - swap
    return from_rows((x * keep, x * swap, 0), (y * swap, y * keep, 0), (0, 0, 1))


def rotate(degrees: Values) -> Matrices:
    """Turns the picture counter-clockwise."""
    angle = jnp.deg2rad(degrees)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return from_rows((cos, -sin, 0), (sin, cos, 0), (0, 0, 1))


def zoom(factor: Values, x: Values, y: Values) -> Matrices:
    """Enlarges about a point, 0 to 1 from left to right and from top to bottom, that stays put."""
    scale = 1 / factor
    return from_rows(
        (scale, 0, (1 - scale) * (2 * x - 1)), (0, scale, (1 - scale) * (2 * y - 1)), (0, 0, 1)
    )


def warp(x: Values, y: Values) -> Matrices:
    """Perspective: tilts the picture about its vertical (x) and its horizontal (y) axis.

    A corner (u, v) of the picture comes to lie at (u - y u v, v - x u v), as in fastai's `Warp`.
    The homography that takes these four points back to the corners has a closed form.

    Args:
        x, y: with a sum of squares below one.
    """
    rest = 1 - x**2 - y**2
    u = -x * (1 - x**2 + y**2) / rest
    v = -y * (1 + x**2 - y**2) / rest
    shear = 2 * x * y / rest
    return from_rows((1, shear, u), (shear, 1, v), (u, v, 1))


def position(frame: Matrices, place: Values) -> Matrices:
    """Lays the square into the picture's unit square: the whole of its short side.

    Args:
        frame: of the pictures, whose shape it tells.
        place: where along the long side, 0 (left, top) to 1 (right, bottom).
    """
    width = jnp.linalg.norm(frame[:, :2, 0], axis=-1)
    height = jnp.linalg.norm(frame[:, :2, 1], axis=-1)
    short = jnp.minimum(width, height)
    half_x, half_y = short / width / 2, short / height / 2
    return from_rows(
        (half_x, 0, half_x + (1 - 2 * half_x) * place),
        (0, half_y, half_y + (1 - 2 * half_y) * place),
        (0, 0, 1),
    )


def random_flip(keys: Keys, p: float = 0.5) -> Matrices:
    """Mirrors with probability `p`."""
    return flip(_uniform(keys, ()) < p)


def random_dihedral(keys: Keys, p: float = 0.5) -> Matrices:
    """With probability `p` one of the eight symmetries, each as likely as any other."""
    draws = _uniform(keys, (2,))
    symmetry = jnp.floor(8 * draws[:, 1]).astype(jnp.int32)
    return dihedral(jnp.where(draws[:, 0] < p, symmetry, 0))


def random_rotate(keys: Keys, max_degrees: float, p: float) -> Matrices:
    """With probability `p` a turn of up to `max_degrees` either way."""
    draws = _uniform(keys, (2,))
    return rotate(jnp.where(draws[:, 0] < p, max_degrees * (2 * draws[:, 1] - 1), 0.0))


def random_zoom(keys: Keys, min_zoom: float, max_zoom: float, p: float) -> Matrices:
    """With probability `p` a zoom between two factors, about a point anywhere in the picture."""
    draws = _uniform(keys, (4,))
    factor = min_zoom + (max_zoom - min_zoom) * draws[:, 1]
    return zoom(jnp.where(draws[:, 0] < p, factor, 1.0), draws[:, 2], draws[:, 3])


def random_warp(keys: Keys, magnitude: float, p: float) -> Matrices:
    """With probability `p` each, a tilt about either axis of up to `magnitude`."""
    draws = _uniform(keys, (2, 2))
    tilt = jnp.where(draws[:, 0] < p, magnitude * (2 * draws[:, 1] - 1), 0.0)
    return warp(tilt[:, 0], tilt[:, 1])


def random_crop(keys: Keys, min_scale: float) -> Matrices:
    """A part with between `min_scale` and all of the area, anywhere."""
    draws = _uniform(keys, (3,))
    area = min_scale + (1 - min_scale) * draws[:, 0]
    return zoom(1 / jnp.sqrt(area), draws[:, 1], draws[:, 2])


def random_position(keys: Keys, frame: Matrices) -> Matrices:
    """Anywhere along the long side."""
    return position(frame, _uniform(keys, ()))


def _uniform(keys: Keys, shape: tuple[int, ...]) -> Float[Array, "batch ..."]:
    return jax.vmap(lambda key: jax.random.uniform(key, shape))(keys)
