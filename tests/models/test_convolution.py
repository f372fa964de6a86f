"""Each fast form has the same results and gradients as XLA's native form, and saves work."""

from functools import partial

import jax
import numpy as np
import pytest

from jaxch5.models.convolution import (
    as_matrix_product,
    as_patches,
    convolve,
    end_of_block,
    fusion_boundary,
    native,
    with_fourth_channel,
)
from tests.models.shared import normal, of_each


@pytest.mark.parametrize("side", [1, 2, 3, 4, 7, 8])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("size", "form"), [(1, as_matrix_product), (3, as_patches)])
def test_forms_of_the_convolution_agree(size, form, stride, side):
    x, kernel = normal(0, 2, side, side, 5), normal(1, size, size, 5, 7)
    forms = [lambda x, kernel, form=form: form(x, kernel, stride) for form in (form, native)]
    (result, *gradients), (expected, *expected_gradients) = of_each(forms, x, kernel)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)
    for got, wanted in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("size", [1, 3, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [2, 4, 8, 15])
def test_the_choice_of_form_changes_no_number(size, stride, side):
    x, kernel = normal(0, 2, side, side, 3), normal(1, size, size, 3, 4)
    forms = [lambda x, kernel, form=form: form(x, kernel, stride) for form in (convolve, native)]
    for got, wanted in zip(*of_each(forms, x, kernel), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-4)


def times_computed(function, *arguments):
    """Returns how many operations of a function's compiled program take elementwise maxima."""
    return jax.jit(function).lower(*arguments).compile().as_text().count(" maximum(")


def test_a_block_is_not_computed_again_by_those_after_it():
    """The ReLU at the end of each block is computed once, however often its output is read."""

    def blocks(x, matrix):
        for _ in range(3):
            x = fusion_boundary(jax.nn.relu(x + x @ matrix))
        return x

    x, matrix = normal(0, 64, 64), normal(1, 64, 64)
    assert times_computed(blocks, x, matrix) == 3
    loss = jax.value_and_grad(lambda x, matrix: blocks(x, matrix).sum())
    assert times_computed(loss, x, matrix) == 3


def test_what_a_convolution_reads_is_not_computed_again_for_its_gradient():
    """The input of a convolution is computed once, for the result and the gradient.

    XLA by itself would recompute it, element by element, in transposed order.
    """

    def loss(kernel, x, scale):
        return convolve(jax.nn.relu(x * scale), kernel, 2).sum()

    kernel, x, scale = normal(0, 3, 3, 4, 4), normal(1, 2, 16, 16, 4), normal(2, 4)
    assert times_computed(jax.value_and_grad(loss), kernel, x, scale) == 1


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("sides", [(2, 3), (3, 2), (1, 9), (9, 1), (2, 2)])
def test_no_map_that_is_low_or_narrow_is_left_to_xla(sides, stride):
    """XLA's convolution is not used if the output has a shorter side than the kernel.

    XLA would take a hundred times as long.
    """
    x, kernel = normal(0, 2, *(side * stride for side in sides), 5), normal(1, 3, 3, 5, 7)
    (result, *gradients), (expected, *expected_gradients) = of_each(
        [lambda x, kernel, form=form: form(x, kernel, stride) for form in (convolve, native)],
        x,
        kernel,
    )
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)
    for got, wanted in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-4)
    step = jax.jit(jax.value_and_grad(lambda x, kernel: convolve(x, kernel, stride).sum(), (0, 1)))
    assert "convolution(" not in step.lower(x, kernel).compile().as_text()


@pytest.mark.parametrize(("size", "stride"), [(7, 2), (3, 2), (3, 1)])
def test_a_fourth_channel_of_zeros_changes_nothing(size, stride):
    x, kernel = normal(0, 2, 8, 8, 3), normal(1, size, size, 3, 4)
    forms = [partial(form, stride=stride) for form in (with_fourth_channel, native)]
    (result, *gradients), (expected, *expected_gradients) = of_each(forms, x, kernel)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)
    for got, wanted in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-4)


def test_the_gradient_of_the_end_of_a_block_is_that_of_relu():
    x = np.float32([[-2, -0.0, 0.0, 1e-30, 3]])
    for got, expected in zip(*of_each([end_of_block, jax.nn.relu], x), strict=True):
        np.testing.assert_array_equal(got, expected)
