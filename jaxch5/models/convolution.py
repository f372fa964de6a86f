"""Computes convolutions and the end of a residual block in the form that the device runs fastest.

On a CPU, XLA's own convolution is slow for 1x1 kernels and for small maps, so a matrix product is
used for these. Many 3x3 convolutions are computed on a CPU with a quarter of the multiplications.
In all other cases, XLA's own convolution is used; on devices other than CPUs, bfloat16 pictures are
given a fourth channel first. `lax.platform_dependent` chooses the form, so that a traced program
can run on any machine. See `docs/benchmarks.md`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import cast

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from jaxch5.models.winograd import TILE, times_transposed, winograd

# For output maps whose shorter side is at most this, gathering patches for one matrix product is
# faster than the native convolution, which takes a hundred times as long for such maps.
SMALL_MAP = 2
# Fewest tiles in a batch (each is a row of every matrix product) and fewest channels for which
# saving multiplications is worth the transforms and the longer compilation.
MANY_TILES, MANY_CHANNELS = 32, 64
# Names of the axes of the mesh of devices that share a batch.
AXES = ("process", "device")


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
    narrow = x.dtype == jnp.bfloat16 and x.shape[-1] == 3
    elsewhere = partial(with_fourth_channel if narrow else native, stride=stride)
    return lax.platform_dependent(x, kernel, cpu=cpu, default=elsewhere)


def by_rows(
    function: Callable[[Array, Array], Array], x: Array, kernel: Array
) -> Float[Array, "batch ..."]:
    """Computes a function of pictures and a kernel; each device does so for its own pictures.

    If JAX's context has a mesh of `AXES`, the kernel's gradient is not summed over devices: each
    device holds the gradient from its own pictures, times the number of devices. The caller has to
    take the mean over the devices. It can do so for all kernels in one message, and in float32
    whatever type the computation has; see `mean_of_all` in `jaxch5.training.mesh`.

    Args:
        function: Function from pictures [batch, ...] and a kernel to a result for each picture.
        x: Pictures.
        kernel: Kernel.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.auto_axes != AXES:
        return function(x, kernel)
    rows, everywhere = P(AXES), P()
    # `check_vma` is off, since the kernels' gradients are declared to be equal on all devices, but
    # are not.
    shared = partial(jax.shard_map, check_vma=False)

    @jax.custom_vjp
    def run(x: Array, kernel: Array) -> Array:
        own = shared(function, in_specs=(rows, everywhere), out_specs=rows)
        return cast(Array, own(x, kernel))

    def pull(x: Array, kernel: Array, cotangent: Array) -> tuple[Array, Array]:
        of_x, of_kernel = jax.vjp(function, x, kernel)[1](cotangent)
        return of_x, of_kernel * mesh.size

    def backward(saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
        own = shared(pull, in_specs=(rows, everywhere, rows), out_specs=(rows, everywhere))
        return cast(tuple[Array, Array], own(*saved, cotangent))

    run.defvjp(lambda x, kernel: (run(x, kernel), (x, kernel)), backward)
    return run(x, kernel)


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
    """Applies XLA's convolution, and makes a CPU store the input for the kernel's gradient.

    For that gradient, XLA's CPU compiler transposes the input. If the input were not stored, the
    compiler would recompute it in the transposed order, which means a batch norm, a sum and a ReLU
    for each value.
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
    """Applies a function to an array, and makes a CPU store both the array and the result.

    XLA's CPU compiler may recompute a cheap value wherever it is read, but not across a boundary of
    a conditional. The condition is always true, but the compiler cannot know that.
    """
    always = lax.optimization_barrier(True)
    return lax.cond(always, function, lambda x: jnp.zeros_like(function(x)), x)


native_apart.defvjp(_native_forward, _native_backward)


def with_fourth_channel(x: Array, kernel: Array, stride: int) -> Array:
    """Adds a fourth channel of zeros to pictures, and applies XLA's convolution.

    cuDNN is fast with four channels. XLA itself adds the fourth channel if the type is float16, but
    not if it is bfloat16.
    """
    one = (0, 1)
    x = jnp.pad(x, (*3 * [(0, 0)], one))
    return native(x, jnp.pad(kernel, (*2 * [(0, 0)], one, (0, 0))), stride)


def as_matrix_product(x: Array, kernel: Array, stride: int) -> Array:
    """Computes a 1x1 convolution as a matrix product of the pixels that it reads and the kernel."""
    return _matrix_product(x[:, ::stride, ::stride, :], kernel[0, 0])


def as_patches(x: Array, kernel: Array, stride: int) -> Array:
    """Convolves by one matrix product, after copying each output pixel's patch into a row.

    On the smallest maps, some of the kernel's rows and columns only ever meet the padding; these
    are left out.
    """
    size = kernel.shape[0]
    rows, columns = (_taps_inside(side, size, stride) for side in x.shape[1:3])
    places = [(row, column) for row in rows for column in columns]
    patches = jnp.concatenate([pixels_at(x, size, stride, *at, 0.0) for at in places], axis=-1)
    inside = kernel[rows.start : rows.stop, columns.start : columns.stop]
    return _matrix_product(patches, inside.reshape(-1, kernel.shape[-1]))


def convolve_patches(
    x: Float[Array, "batch height width in_channels"],
    kernel: Float[Array, "k k in_channels out_channels"],
) -> Float[Array, "batch height//k width//k out_channels"]:
    """Convolves with a stride of k and no padding, so that each pixel is in at most one patch.

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
        # In a program that is exported for any batch size, the number of pictures is a symbol.
        and isinstance(pictures, int)
        and min(sides) >= TILE
        and pictures * math.prod(-(-side // TILE) for side in sides) >= MANY_TILES
        and min(kernel.shape[2:]) >= MANY_CHANNELS
    )


def fusion_boundary(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns the array unchanged, and makes a CPU compute it once and keep it.

    Without this function, XLA's CPU compiler would recompute the sum of a block and its shortcut,
    and with it the sums of all earlier blocks, wherever the result is read.

    Example:
        >>> float(fusion_boundary(jnp.float32(2.0)))
        2.0
    """
    return lax.platform_dependent(x, cpu=_store, default=lambda x: x)


@jax.custom_vjp
def _store(x: Array) -> Array:
    return _materialize(lambda x: x, x)


_store.defvjp(lambda x: (_store(x), None), lambda _, cotangent: (cotangent,))


@jax.custom_vjp
def end_of_block(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns max(x, 0), the result of a block, which is computed once and kept.

    Without this function, a GPU would recompute the result for the gradient, which depends on where
    the result is positive.

    Example:
        >>> end_of_block(jnp.array([-2.0, 2.0])).tolist()
        [0.0, 2.0]
    """
    return fusion_boundary(jax.nn.relu(x))


def _end_and_itself(x: Array) -> tuple[Array, Array]:
    y = lax.platform_dependent(jax.nn.relu(x), cpu=_store, default=lax.optimization_barrier)
    return y, y


def _where_positive(y: Array, cotangent: Array) -> tuple[Array]:
    return (jnp.where(y > 0, cotangent, 0),)


end_of_block.defvjp(_end_and_itself, _where_positive)


def _matrix_product(x: Array, matrix: Array) -> Array:
    # If `x` had four dimensions, the gradient of `matrix` would be computed from a transposed copy
    # of the cotangent. With two dimensions, the product itself reads the cotangent transposed.
    product = lax.platform_dependent(
        x.reshape(-1, x.shape[-1]), matrix, cpu=_multiply, default=jnp.dot
    )
    return product.reshape(*x.shape[:-1], matrix.shape[-1])


@jax.custom_vjp
def _multiply(x: Array, matrix: Array) -> Array:
    return jnp.dot(x, matrix)


def _multiply_backward(saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    x, matrix = saved
    if x.shape[0] >= x.shape[1] > cotangent.shape[1]:
        # If the result is narrow and its entries are long sums, it is faster to swap the factors
        # and transpose the result.
        of_matrix = lax.optimization_barrier(jnp.dot(cotangent.T, x)).T
    else:
        of_matrix = jnp.dot(x.T, cotangent)
    return times_transposed(cotangent, matrix), of_matrix


_multiply.defvjp(lambda *both: (_multiply(*both), both), _multiply_backward)


def _taps_inside(side: int, size: int, stride: int) -> range:
    """Returns which indices along a window's side are inside the map for at least one output."""
    outputs = -(-side // stride)
    places = [
        place
        for place in range(size)
        if any(0 <= output * stride + place - size // 2 < side for output in range(outputs))
    ]
    return range(places[0], places[-1] + 1)


def pixels_at(x: Array, size: int, stride: int, row: int, column: int, fill: float) -> Array:
    """Returns the pixels at one row and column of every window: [B, H / stride, W / stride, C]."""
    pad = size // 2
    padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), constant_values=fill)
    height, width = (-(-side // stride) for side in x.shape[1:3])
    return padded[
        :,
        row : row + (height - 1) * stride + 1 : stride,
        column : column + (width - 1) * stride + 1 : stride,
    ]
