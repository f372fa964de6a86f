"""Convolution and max-pooling, each in the form that is fastest where it runs.

On a CPU, XLA's own convolution is slow for 1x1 kernels and for small maps, and its max-pooling has
a slow gradient; both are matrix products and maxima in disguise. 3x3 kernels take a quarter of the
multiplications there. Elsewhere the native forms are used. The choice is made by
`lax.platform_dependent`, so that a traced program is tied to no machine. `docs/benchmarks.md` has
the figures.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxch5.models.winograd import winograd

# On maps whose shorter side is up to this, gathering patches for one matrix product beats the
# native convolution, which takes a hundred times as long there.
SMALL_MAP = 2
# From these on, fewer multiplications are worth the transforms and the longer compilation: shorter
# side of the map, channels, pictures.
LARGE_MAP, MANY_CHANNELS, MANY_PICTURES = 5, 64, 8


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
        return native(x, kernel, stride)
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
    pictures, sides, channels = x.shape[0], x.shape[1:3], kernel.shape[2:]
    return (
        x.dtype == jnp.float32
        # A program that is exported for any number of them has a symbol here.
        and isinstance(pictures, int)
        and pictures >= MANY_PICTURES
        and min(sides) >= LARGE_MAP
        and min(channels) >= MANY_CHANNELS
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


def max_of_windows(x: Array) -> Array:
    """Takes the maximum of nine shifted pictures, whose gradient needs no scatter."""
    first, *others = [
        _window(x, 3, 2, row, column, -jnp.inf) for row in range(3) for column in range(3)
    ]
    for other in others:
        # A tie gives its gradient to one side, as the native form does; `maximum` would halve it.
        first = jnp.where(other > first, other, first)
    return first


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
    return lax.platform_dependent(x, cpu=lax.optimization_barrier, default=lambda x: x)


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
