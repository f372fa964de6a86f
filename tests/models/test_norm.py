"""Batch norm keeps its statistics as PyTorch's does."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxch5.models.norm import BatchNorm


def test_batch_norm_normalizes_by_the_biased_and_keeps_the_unbiased_variance():
    x = jnp.array([[1.0], [2.0], [6.0]])
    norm = BatchNorm()
    variables = norm.init(jax.random.key(0), x, train=True)
    y, updated = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(y[:, 0], (x[:, 0] - 3.0) / np.sqrt(14 / 3 + 1e-5), rtol=1e-6)
    np.testing.assert_allclose(updated["batch_stats"]["mean"], [0.3], rtol=1e-6)
    np.testing.assert_allclose(updated["batch_stats"]["var"], [0.9 + 0.1 * 7.0], rtol=1e-6)
