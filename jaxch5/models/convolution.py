"""Convolution and max-pooling, each in the form that is fastest where it runs.

On a CPU, XLA's own convolution is slow for 1x1 kernels and for small maps, and its max-pooling has
a slow gradient; both are matrix products and maxima in disguise. 3x3 kernels take a quarter of the
multiplications there. Elsewhere the native forms are used. The choice is made by
`lax.platform_dependent`, so that a traced program is tied to no machine. `docs/benchmarks.md` has
the figures.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxch5.models.winograd import TILE, winograd

# On maps whose shorter side is up to this, gathering patches for one matrix product beats the
# native convolution, which takes a hundred times as long there.
SMALL_MAP = 2
# From these on, fewer multiplications are worth the transforms and the longer compilation: rows of
# each product, which are the tiles of all pictures, and channels.
MANY_TILES, MANY_CHANNELS = 32, 64


def convolve(
    x: Float[Array, "batch height width in_channels"],
    kernel: Float[Array, "k k in_channels out_channels"],
    stride: int = 1,
) -> Float[Array, "batch out_height out_width out_channels"]:
    """Convolves with k // 2 zeros of padding on each side, as torchvision's ResNets do.

    Example:
        >>> convolve(jnp.ones((1, 8, 8, 3)), jnp.ones((3, 3, 3, 5)), stride=2).shape
        (1, 4, 4, 5)
    """
    cpu: Callable[[Array, Array], Array]
    size = kernel.shape[0]
    if size == 1:
        cpu = partial(as_matrix_product, stride=stride)
    elif size == 3 and min(x.shape[1:3]) <= SMALL_MAP * stride:
        cpu = partial(as_patches, stride=stride)
    elif size == 3 and stride == 1 and _fewer_products_pay(x, kernel):
        cpu = winograd
    else:
        cpu = partial(native_apart, stride)
    return lax.platform_dependent(x, kernel, cpu=cpu, default=partial(native, stride=stride))


def native(x: Array, kernel: Array, stride: int) -> Array:
    """Applies XLA's convolution, the reference for the other forms."""
    pad = kernel.shape[0] // 2
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((pad, pad), (pad, pad)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def native_apart(stride: int, x: Array, kernel: Array) -> Array:
    """Applies XLA's convolution, and computes the kernel's gradient from a picture that is stored.

    XLA's CPU compiler transposes it there, and would compute it again in the order of the
    transpose: batch norm, sum and ReLU for each value.
    """
    return native(x, kernel, stride)


def _native_forward(stride: int, x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return native(x, kernel, stride), (x, kernel)


def _native_backward(
    stride: int, saved: tuple[Array, Array], cotangent: Array
) -> tuple[Array, Array]:
    x, kernel = saved
    of_x = jax.vjp(lambda x: native(x, kernel, stride), x)[1](cotangent)[0]
    size, pad = kernel.shape[0], kernel.shape[0] // 2
    reach = ((outputs - 1) * stride + size - pad for outputs in cotangent.shape[1:3])
    of_kernel = lax.conv_general_dilated(
        _materialize(lambda x: x.transpose(3, 1, 2, 0), x),
        cotangent.transpose(1, 2, 0, 3),
        (1, 1),
        [(pad, end - side) for end, side in zip(reach, x.shape[1:3], strict=True)],
        rhs_dilation=(stride, stride),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return of_x, of_kernel.transpose(1, 2, 0, 3)


def _materialize(function: Callable[[Array], Array], x: Array) -> Array:
    """Applies a function to an array; a CPU stores the array, and the result.

    XLA's CPU compiler may repeat whatever is cheap in all that reads it, but nothing across the
    border of a condition. This one is always true, which the compiler cannot see.
    """
    always = lax.optimization_barrier(True)
    return lax.cond(always, function, lambda x: jnp.zeros_like(function(x)), x)


native_apart.defvjp(_native_forward, _native_backward)


def as_matrix_product(x: Array, kernel: Array, stride: int) -> Array:
    """Computes a 1x1 convolution: the pixels that it reads times the kernel."""
    return _matrix_product(x[:, ::stride, ::stride, :], kernel[0, 0])


def as_patches(x: Array, kernel: Array, stride: int) -> Array:
    """Lays out every output pixel's patch in a row, and takes one matrix product.

    On the smallest maps some of the kernel's rows and columns only ever meet the padding: they are
    left out.
    """
    size = kernel.shape[0]
    rows, columns = (_taps_inside(side, size, stride) for side in x.shape[1:3])
    patches = jnp.concatenate(
        [_window(x, size, stride, row, column, 0.0) for row in rows for column in columns], axis=-1
    )
    inside = kernel[rows.start : rows.stop, columns.start : columns.stop]
    return _matrix_product(patches, inside.reshape(-1, kernel.shape[-1]))


def convolve_patches(
    x: Float[Array, "batch height width in_channels"],
    kernel: Float[Array, "k k in_channels out_channels"],
) -> Float[Array, "batch height//k width//k out_channels"]:
    """Convolves with a stride of k and no padding, so that each pixel is in one patch.

    Example:
        >>> convolve_patches(jnp.ones((1, 9, 8, 3)), jnp.ones((4, 4, 3, 5))).shape
        (1, 2, 2, 5)
    """
    size = kernel.shape[0]
    batch, height, width, channels = x.shape
    rows, columns = height // size, width // size
    whole = x[:, : rows * size, : columns * size]
    lines = whole.reshape(batch, rows, size, columns, size * channels)
    patches = lines.swapaxes(2, 3).reshape(batch, rows, columns, size**2 * channels)
    return _matrix_product(patches, kernel.reshape(-1, kernel.shape[-1]))


def _fewer_products_pay(x: Array, kernel: Array) -> bool:
    pictures, *sides = x.shape[:3]
    return (
        x.dtype == jnp.float32
        # A program that is exported for any number of them has a symbol here.
        and isinstance(pictures, int)
        and min(sides) >= TILE
        and pictures * math.prod(-(-side // TILE) for side in sides) >= MANY_TILES
        and min(kernel.shape[2:]) >= MANY_CHANNELS
    )


def max_pool(
    x: Float[Array, "batch height width channels"],
) -> Float[Array, "batch out_height out_width channels"]:
    """Takes the 3x3 maximum with stride 2, as after the stem.

    Example:
        >>> max_pool(jnp.ones((1, 8, 8, 3))).shape
        (1, 4, 4, 3)
    """
    # A profile knows it by this name; it is no layer, which would have one.
    with jax.named_scope("max_pool"):
        return lax.platform_dependent(x, cpu=max_of_windows, default=native_max_pool)


def native_max_pool(x: Array) -> Array:
    """Applies XLA's windowed maximum, the reference for the other form."""
    return lax.reduce_window(
        x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0))
    )


@jax.custom_vjp
def max_of_windows(x: Array) -> Array:
    """Takes the maximum of nine shifted pictures, whose gradient needs no scatter."""
    return _first_of_largest(x)[0]


def _first_of_largest(x: Array) -> tuple[Array, Array]:
    """Returns each window's maximum and its place; of equals the first, as the native form has."""
    largest, *others = [
        _window(x, 3, 2, row, column, -jnp.inf) for row in range(3) for column in range(3)
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
    padded = lax.optimization_barrier((jnp.pad(cotangent, after), jnp.pad(place, after)))

    def where_largest(row: int, column: int) -> Array:
        """Returns the gradient of the pixels that are at one place of their windows."""
        down, right = row == 0, column == 0
        shifted, at = (a[:, down : down + height, right : right + width] for a in padded)
        return jnp.where(at == 3 * row + column, shifted, 0)

    return (_interleave(where_largest)[:, : x.shape[1], : x.shape[2]],)


max_of_windows.defvjp(_max_forward, _max_backward)


def _interleave(part: Callable[[int, int], Array]) -> Array:
    """Puts a picture together of its even and odd rows and columns.

    With a stride of 2, even ones are in the middle of a window, and odd ones at the end of one and
    the beginning of the next.
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
    """Takes 2x2 means with stride 2; at an odd side's end those of the pixels that there are.

    Example:
        >>> average_pool(jnp.arange(3.0).reshape(1, 1, 3, 1)).ravel().tolist()
        [0.5, 2.0]
    """
    with jax.named_scope("average_pool"):
        for axis in (1, 2):
            if x.shape[axis] % 2:
                # A pixel's mean with itself is that pixel.
                last = lax.slice_in_dim(x, -1, None, axis=axis)
                x = jnp.concatenate([x, last], axis)
        batch, height, width, channels = x.shape
        return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean((2, 4))


def fusion_boundary(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns the same array, which a CPU computes once and keeps.

    Without it XLA's CPU compiler repeats the sum of a block and its shortcut, and so the sums of
    all the blocks before, in every place that reads it.

    Example:
        >>> float(fusion_boundary(jnp.float32(2.0)))
        2.0
    """
    return lax.platform_dependent(x, cpu=_store, default=lambda x: x)


@jax.custom_vjp
def _store(x: Array) -> Array:
    return _materialize(lambda x: x, x)


_store.defvjp(lambda x: (_store(x), None), lambda _, cotangent: (cotangent,))


def _matrix_product(x: Array, matrix: Array) -> Array:
    # With four dimensions the gradient of `matrix` would first copy the cotangent transposed; of
    # a plain matrix the product itself reads the transpose.
    product = jnp.dot(x.reshape(-1, x.shape[-1]), matrix)
    return product.reshape(*x.shape[:-1], matrix.shape[-1])


def _taps_inside(side: int, size: int, stride: int) -> range:
    """Returns the places in a window that meet the map somewhere, along one side."""
    outputs = -(-side // stride)
    places = [
        place
        for place in range(size)
        if any(0 <= output * stride + place - size // 2 < side for output in range(outputs))
    ]
    return range(places[0], places[-1] + 1)


def _window(x: Array, size: int, stride: int, row: int, column: int, fill: float) -> Array:
    """Returns the pixels at one place of all windows: [B, H / stride, W / stride, C]."""
    pad = size // 2
    padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), constant_values=fill)
    height, width = (-(-side // stride) for side in x.shape[1:3])
    return padded[
        :,
        row : row + (height - 1) * stride + 1 : stride,
        column : column + (width - 1) * stride + 1 : stride,
    ]
