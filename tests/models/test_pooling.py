"""Each form of max pooling has the same results and gradients as XLA's native form."""

import jax
import numpy as np
import pytest

from jaxch5.models.pooling import max_of_windows, native_max_pool, relu_and_max_pool
from tests.models.shared import normal, of_each


@pytest.mark.parametrize("sides", [(2, 2), (5, 8), (8, 5), (7, 1)])
def test_max_pooling_and_its_gradient_agree_also_on_ties(sides):
    x = np.round(normal(0, 2, *sides, 3))
    (result, gradient), expected = of_each([max_of_windows, native_max_pool], x)
    np.testing.assert_array_equal(result, expected[0])
    np.testing.assert_allclose(gradient, expected[1], rtol=1e-5, atol=1e-6)


def test_a_maximum_of_what_is_positive_is_what_is_positive_of_the_maximum():
    x = np.round(normal(0, 2, 9, 8, 3))
    forms = [
        lambda x: native_max_pool(jax.nn.relu(x)),
        lambda x: jax.nn.relu(max_of_windows(x)),
        relu_and_max_pool,
    ]
    expected, *others = of_each(forms, x)
    for result, gradient in others:
        np.testing.assert_array_equal(result, expected[0])
        np.testing.assert_allclose(gradient, expected[1], rtol=1e-5, atol=1e-6)
