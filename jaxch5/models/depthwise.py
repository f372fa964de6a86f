"""Computes depthwise convolutions and their gradients in forms that are fast on a CPU.

On a CPU, XLA's grouped convolution takes twenty to forty times as long as a sum of shifted inputs:
one input for each tap of the kernel, with the channels of a pixel side by side in memory. The
input's gradient is the same kind of sum with the kernel rotated by 180 degrees. The kernel's
gradient is the sum of windows of the input, each multiplied by the gradient of an output pixel, and
it is computed a few lines at a time. If CPU devices share a batch, each device gathers the whole
batch.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

# Maximum number of terms in one sum of the kernel's gradient, unless a single line has more.
TERMS = 64


def convolve_depthwise(
    x: Float[Array, "batch height width channels"], kernel: Float[Array, "k k 1 channels"]
) -> Float[Array, "batch height width channels"]:
    """Convolves each channel with its own kernel, with k // 2 zeros of padding on each side.

    Example:
        >>> convolve_depthwise(jnp.ones((1, 8, 8, 3)), jnp.ones((7, 7, 1, 3)))[0, 0, 0, 0]
        Array(16., dtype=float32)
    """
    return lax.platform_dependent(x, kernel, cpu=as_shifts, default=native_depthwise)


def native_depthwise(x: Array, kernel: Array) -> Array:
    """Applies XLA's grouped convolution, the reference for `as_shifts`."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def as_shifts(x: Array, kernel: Array) -> Array:
    """Convolves by summing shifted inputs in float32, leaving out taps that only meet padding."""
    middle = kernel.shape[0] // 2
    reaches = (min(middle, side - 1) for side in x.shape[1:3])
    rows, columns = (slice(middle - reach, middle + reach + 1) for reach in reaches)
    wide = x.astype(jnp.float32), kernel[rows, columns, 0].astype(jnp.float32)
    return _convolve(*wide).astype(x.dtype)


@jax.custom_vjp
def _convolve(
    x: Float[Array, "batch height width channels"], kernel: Float[Array, "rows columns channels"]
) -> Float[Array, "batch height width channels"]:
    return _sum_of_shifts(x, kernel)


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _sum_of_shifts(x, kernel), (x, kernel)


def _backward(saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    x, kernel = saved
    return _sum_of_shifts(cotangent, kernel[::-1, ::-1]), _kernel_gradient(x, kernel, cotangent)


_convolve.defvjp(_forward, _backward)


# Compiled separately, so that blocks of the same shape are traced only once.
@jax.jit
def _sum_of_shifts(x: Array, kernel: Array) -> Array:
    (height, width), (rows, columns) = x.shape[1:3], kernel.shape[:2]

    def add_up(padded: Array) -> Array:
        shifts = (
            padded[:, row : row + height, column : column + width] * kernel[row, column]
            for row in range(rows)
            for column in range(columns)
        )
        return sum(shifts, jnp.zeros((), x.dtype))

    # XLA's CPU compiler would recompute the sum at each use, but does not recompute a conditional.
    return lax.cond(
        jnp.any(kernel != 0), add_up, lambda padded: jnp.zeros_like(x), _padded(x, kernel)
    )


@jax.jit
def _kernel_gradient(x: Array, kernel: Array, cotangent: Array) -> Array:
    (batch, height, width), (rows, columns) = x.shape[:3], kernel.shape[:2]
    # `lines` is the largest divisor of the height that `TERMS` allows, since longer sums would take
    # long to compile.
    fitting = range(1, max(1, min(height, TERMS // width)) + 1)
    lines = max(count for count in fitting if height % count == 0)
    padded = _padded(x, kernel)

    def add_lines(total: Array, place: Array) -> tuple[Array, None]:
        def here(x: Array, extra: int) -> Array:
            start = (place * lines // height, place * lines % height, 0, 0)
            return lax.dynamic_slice(x, start, (1, lines + extra, *x.shape[2:]))[0]

        pixels, factors = here(padded, rows - 1), here(cotangent, 0)
        shifts = (
            pixels[row : row + rows, column : column + columns] * factors[row, column]
            for row in range(lines)
            for column in range(width)
        )
        return total + sum(shifts), None

    return lax.scan(add_lines, jnp.zeros_like(kernel), jnp.arange(batch * height // lines))[0]


def _padded(x: Array, kernel: Array) -> Array:
    below, right = (taps // 2 for taps in kernel.shape[:2])
    padded = jnp.pad(x, ((0, 0), (below, below), (right, right), (0, 0)))
    return lax.optimization_barrier(padded)
