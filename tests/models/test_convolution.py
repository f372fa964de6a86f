"""Each fast form computes what XLA's native form computes, and so does its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxch5.models.convolution import (
    as_matrix_product,
    as_patches,
    convolve,
    max_of_windows,
    max_pool,
    native,
    native_max_pool,
)


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize("side", [1, 2, 3, 4, 7, 8])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("size", "form"), [(1, as_matrix_product), (3, as_patches)])
def test_forms_of_the_convolution_agree(size, form, stride, side):
    x, kernel = normal(0, 2, side, side, 5), normal(1, size, size, 5, 7)
    expected, pull_expected = jax.vjp(lambda x, k: native(x, k, stride), x, kernel)
    result, pull_result = jax.vjp(lambda x, k: form(x, k, stride), x, kernel)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)
    cotangent = normal(2, *expected.shape)
    for got, wanted in zip(pull_result(cotangent), pull_expected(cotangent), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("size", [1, 3, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [2, 4, 8, 15])
def test_the_choice_of_form_changes_no_number(size, stride, side):
    x, kernel = normal(0, 2, side, side, 3), normal(1, size, size, 3, 4)
    np.testing.assert_allclose(
        convolve(x, kernel, stride), native(x, kernel, stride), rtol=1e-5, atol=1e-4
    )


@pytest.mark.parametrize("side", [2, 5, 8])
def test_max_pooling_and_its_gradient_agree_also_on_ties(side):
    x = jnp.round(normal(0, 2, side, side, 3))
    expected, pull_expected = jax.vjp(native_max_pool, x)
    for form in (max_of_windows, max_pool):
        result, pull_result = jax.vjp(form, x)
        np.testing.assert_array_equal(result, expected)
        cotangent = normal(1, *expected.shape)
        np.testing.assert_allclose(
            pull_result(cotangent)[0], pull_expected(cotangent)[0], rtol=1e-5, atol=1e-6
        )
