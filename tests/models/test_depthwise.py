"""Sums of shifted pictures have the results and gradients of a depthwise convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from jaxch5.models.convolution import convolve_patches, native
from jaxch5.models.depthwise import as_shifts, convolve_depthwise, native_depthwise


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 5), (4, 4), (9, 7)])
def test_it_is_the_convolution_on_maps_of_any_sides(height, width):
    """Results and gradients agree even if some taps of the kernel only ever meet the padding."""
    x, kernel, cotangent = normal(0, 3, height, width, 5), normal(1, 7, 7, 1, 5), normal(2, 1)

    def each(x, kernel):
        results = []
        for form in (as_shifts, native_depthwise):
            result, pull = jax.vjp(form, x, kernel)
            results.append((result, *pull(jnp.sin(result) * cotangent)))
        return results

    for got, wanted in zip(*jax.jit(each)(x, kernel), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


def test_a_kernel_of_zeros_gives_zeros_and_learns():
    x, kernel = normal(0, 2, 4, 4, 3), np.zeros((7, 7, 1, 3), np.float32)
    result, pull = jax.vjp(as_shifts, x, kernel)
    of_input, of_kernel = pull(np.ones_like(x))
    assert not np.any(result)
    assert not np.any(of_input)
    np.testing.assert_allclose(of_kernel[3, 3, 0], x.sum((0, 1, 2)), rtol=1e-5)


def test_half_precision_is_summed_up_in_float32():
    """The sum of bfloat16 products, and its gradients, are rounded to bfloat16 once, at the end.

    A sum in bfloat16 would be off by more than the rounding of its result.
    """
    arguments = normal(0, 2, 8, 8, 3), normal(1, 7, 7, 1, 3)
    rounded = [jnp.asarray(one, jnp.bfloat16) for one in arguments]
    half, of_half = jax.vjp(as_shifts, *rounded)
    full, of_full = jax.vjp(as_shifts, *(one.astype(jnp.float32) for one in rounded))
    cotangent = jnp.asarray(normal(2, *full.shape), jnp.bfloat16)
    found = half, *of_half(cotangent)
    expected = full, *of_full(cotangent.astype(jnp.float32))
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == jnp.bfloat16
        # Half a unit in the last place, and a little more for another order of float32 additions.
        atol = 1e-5 * float(jnp.abs(other).max())
        np.testing.assert_allclose(one.astype(jnp.float32), other, rtol=2**-8, atol=atol)


def test_other_devices_have_the_native_form():
    x, kernel = jnp.ones((2, 8, 8, 4)), jnp.ones((7, 7, 1, 4))
    traced = jax.jit(convolve_depthwise).trace(x, kernel)
    assert "convolution" in traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "convolution" not in traced.lower(lowering_platforms=("cpu",)).as_text()


def test_a_program_for_any_number_of_pictures_can_be_exported():
    (batch,) = export.symbolic_shape("batch")
    x = jax.ShapeDtypeStruct((batch, 8, 8, 4), jnp.float32)
    kernel, pictures = normal(1, 7, 7, 1, 4), normal(0, 5, 8, 8, 4)
    program = export.export(jax.jit(lambda x: convolve_depthwise(x, kernel)))(x)
    expected = native_depthwise(pictures, kernel)
    np.testing.assert_allclose(program.call(pictures), expected, rtol=1e-4, atol=1e-5)


def test_patches_are_the_convolution_with_a_stride_of_its_size():
    """Pixels at the lower and right borders that fill no patch are ignored, as in PyTorch."""
    x, kernel = normal(0, 2, 9, 11, 3), normal(1, 4, 4, 3, 5)
    padded = np.pad(x[:, :8, :8], ((0, 0), (2, 2), (2, 2), (0, 0)))
    expected = native(padded, kernel, 1)[:, 4:-3:4, 4:-3:4]
    np.testing.assert_allclose(convolve_patches(x, kernel), expected, rtol=1e-4, atol=1e-4)
