"""3x3 convolutions with fewer multiplications agree with XLA's, and so do their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax

from jaxch5.models.convolution import convolve, native
from jaxch5.models.winograd import winograd


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def relative_error(got, wanted):
    return np.sqrt(np.mean((got - wanted) ** 2) / np.mean(np.square(wanted)))


def result_and_gradients(form, x, kernel, cotangent):
    result, pull = jax.vjp(form, x, kernel)
    return result, *pull(cotangent)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (4, 4), (5, 9), (8, 6), (14, 7)])
def test_it_is_the_convolution_on_maps_of_any_sides(height, width):
    """`winograd` and its gradients agree with XLA's convolution on maps of any size.

    The last tiles may be cut off, and the numbers of input and output channels may differ.
    """
    x, kernel = normal(0, 3, height, width, 5), normal(1, 3, 3, 5, 7)
    cotangent = normal(2, 3, height, width, 7)

    def both(x, kernel, cotangent):
        forms = (winograd, lambda x, kernel: native(x, kernel, 1))
        return [result_and_gradients(form, x, kernel, cotangent) for form in forms]

    for got, wanted in zip(*jax.jit(both)(x, kernel, cotangent), strict=True):
        assert got.shape == wanted.shape
        assert relative_error(got, wanted) < 2e-5


def test_rounding_stays_far_below_what_half_precision_has():
    """The rounding error is about 3e-6 of the outputs' size; that of bfloat16 is about 4e-3.

    The error is measured against a computation in float64.
    """
    x, kernel = normal(0, 8, 16, 16, 64), normal(1, 3, 3, 64, 64)
    padded = np.pad(x.astype(float), ((0, 0), (1, 1), (1, 1), (0, 0)))
    exact = sum(
        padded[:, row : row + 16, column : column + 16] @ kernel[row, column].astype(float)
        for row in range(3)
        for column in range(3)
    )
    assert relative_error(jax.jit(winograd)(x, kernel), exact) < 4e-6


def is_taken(batch, side, channels, dtype=jnp.float32, stride=1):
    """Returns whether the program for a CPU computes a convolution with matrix products."""
    x = jax.ShapeDtypeStruct((batch, side, side, channels), dtype)
    kernel = jax.ShapeDtypeStruct((3, 3, channels, channels), dtype)
    program = jax.jit(lambda x, kernel: convolve(x, kernel, stride)).lower(x, kernel).as_text()
    return "dot_general" in program


def test_it_is_taken_where_it_is_faster():
    """`winograd` is used only with many tiles in a batch, many channels, float32 and stride 1.

    A map must be at least as large as a tile, too.
    """
    assert is_taken(8, 8, 64)
    assert is_taken(2, 13, 64)
    assert is_taken(32, 4, 64)
    assert not is_taken(64, 3, 64)
    assert is_taken(8, 7, 512)
    assert not is_taken(4, 8, 64)
    assert not is_taken(8, 4, 64)
    assert not is_taken(8, 8, 32)
    assert not is_taken(8, 8, 64, dtype=jnp.bfloat16)
    assert not is_taken(8, 8, 64, stride=2)


def test_other_devices_have_the_native_form():
    """A program for a GPU contains XLA's own convolution, and no matrix products."""
    x, kernel = jnp.ones((8, 8, 8, 64)), jnp.ones((3, 3, 64, 64))
    program = jax.jit(convolve).trace(x, kernel).lower(lowering_platforms=("cuda",)).as_text()
    assert "convolution" in program
    assert "dot_general" not in program


def test_a_program_for_any_number_of_pictures_can_be_exported():
    (batch,) = export.symbolic_shape("batch")
    x = jax.ShapeDtypeStruct((batch, 8, 8, 64), jnp.float32)
    kernel = normal(1, 3, 3, 64, 64)
    program = export.export(jax.jit(lambda x: convolve(x, kernel)))(x)
    pictures = normal(0, 9, 8, 8, 64)
    assert relative_error(program.call(pictures), winograd(pictures, kernel)) < 2e-5


def test_batches_of_batches_work():
    """`winograd` works inside `vmap` and `scan`."""
    x, kernel = normal(0, 2, 8, 8, 8, 4), normal(1, 3, 3, 4, 4)
    expected = np.stack([winograd(one, kernel) for one in x])
    np.testing.assert_allclose(
        jax.vmap(winograd, (0, None))(x, kernel), expected, rtol=1e-4, atol=1e-4
    )
    _, scanned = lax.scan(lambda carry, one: (carry, winograd(one, kernel)), None, x)
    np.testing.assert_allclose(scanned, expected, rtol=1e-4, atol=1e-4)
