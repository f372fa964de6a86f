"""Defines the maximum and average pooling of ResNets, in forms that are fast on CPUs and GPUs."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxch5.models.convolution import end_of_block, pixels_at


def relu_and_max_pool(
    x: Float[Array, "batch height width channels"],
) -> Float[Array, "batch out_height out_width channels"]:
    """Applies ReLU, then 3x3 maximum pooling with stride 2, as at the end of a ResNet's stem.

    Example:
        >>> relu_and_max_pool(jnp.full((1, 8, 8, 3), -1.0)).shape
        (1, 4, 4, 3)
    """

    def cpu(x: Array) -> Array:
        return max_of_windows(jax.nn.relu(x))

    def elsewhere(x: Array) -> Array:
        # Both orders give the same result; this one applies ReLU to only a quarter of the pixels.
        return end_of_block(max_of_windows(x))

    # In profiles, modules have names; this gives a name to the function, too.
    with jax.named_scope("max_pool"):
        return lax.platform_dependent(x, cpu=cpu, default=elsewhere)


def native_max_pool(x: Array) -> Array:
    """Applies XLA's windowed maximum, the reference for `max_of_windows`."""
    return lax.reduce_window(
        x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0))
    )


@jax.custom_vjp
def max_of_windows(x: Array) -> Array:
    """Takes 3x3 maxima with stride 2 from nine shifted arrays; its gradient needs no scatter."""
    return _first_of_largest(x)[0]


def _first_of_largest(x: Array) -> tuple[Array, Array]:
    """Returns each window's maximum, and its index: the lowest one if several pixels are equal."""
    largest, *others = [
        pixels_at(x, 3, 2, row, column, -jnp.inf) for row in range(3) for column in range(3)
    ]
    place = jnp.zeros(largest.shape, jnp.uint8)
    for number, other in enumerate(others, 1):
        place = jnp.where(other > largest, jnp.uint8(number), place)
        largest = jnp.where(other > largest, other, largest)
    return largest, place


def _max_forward(x: Array) -> tuple[Array, tuple[Array, Array]]:
    largest, place = _first_of_largest(x)
    return largest, (x, place)


def _max_backward(saved: tuple[Array, Array], cotangent: Array) -> tuple[Array]:
    x, place = saved
    (height, width), after = cotangent.shape[1:3], ((0, 0), (0, 1), (0, 1), (0, 0))
    padded = lax.platform_dependent(
        (jnp.pad(cotangent, after), jnp.pad(place, after)),
        cpu=lax.optimization_barrier,
        default=lambda x: x,
    )

    def where_largest(row: int, column: int) -> Array:
        """Returns gradients for one place in all windows; 0 if the maximum is at another place."""
        down, right = row == 0, column == 0
        shifted, at = (a[:, down : down + height, right : right + width] for a in padded)
        return jnp.where(at == 3 * row + column, shifted, 0)

    return (_interleave(where_largest)[:, : x.shape[1], : x.shape[2]],)


max_of_windows.defvjp(_max_forward, _max_backward)


def _interleave(part: Callable[[int, int], Array]) -> Array:
    """Assembles an array from its even and odd rows and columns.

    With a stride of 2, even rows and columns are in the middle of a window, and odd ones are at the
    end of one window and at the beginning of the next.
    """
    middle, ends = (1,), (2, 0)
    rows = [
        jnp.stack([sum(part(r, c) for r in rows for c in columns) for columns in (middle, ends)], 3)
        for rows in (middle, ends)
    ]
    pairs = jnp.stack(rows, 2)
    batch, height, _, width, _, channels = pairs.shape
    return pairs.reshape(batch, 2 * height, 2 * width, channels)


def average_pool(
    x: Float[Array, "batch height width channels"],
) -> Float[Array, "batch out_height out_width channels"]:
    """Takes 2x2 means with stride 2; at the end of an odd side, the means are of fewer pixels.

    Example:
        >>> average_pool(jnp.arange(3.0).reshape(1, 1, 3, 1)).ravel().tolist()
        [0.5, 2.0]
    """
    with jax.named_scope("average_pool"):
        for axis in (1, 2):
            if x.shape[axis] % 2:
                # The mean of a pixel and itself is that pixel.
                last = lax.slice_in_dim(x, -1, None, axis=axis)
                x = jnp.concatenate([x, last], axis)
        batch, height, width, channels = x.shape
        return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean((2, 4))
