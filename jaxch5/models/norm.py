"""Batch normalization (Ioffe and Szegedy, 1502.03167) with PyTorch's running statistics."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import initializers
from flax.typing import Initializer
from jaxtyping import Array, Float


class BatchNorm(nn.Module):
    """Batch normalization as PyTorch computes it.

    The batch is normalized by its biased variance, the running variance collects the unbiased one,
    and both running statistics move by a tenth. Statistics are computed and kept in float32.

    Attributes:
        dtype: of the result.
        momentum: the share of a new batch in the running statistics.
        epsilon: added to the variance.
        bias_init: of the bias; the scale begins at one.

    Example:
        >>> norm = BatchNorm()
        >>> x = jnp.array([[1.0], [3.0]])
        >>> variables = norm.init(jax.random.key(0), x, train=True)
        >>> y, updated = norm.apply(variables, x, train=True, mutable=["batch_stats"])
        >>> round(float(updated["batch_stats"]["mean"][0]), 3)
        0.2
    """

    dtype: Any = jnp.float32
    momentum: float = 0.1
    epsilon: float = 1e-5
    bias_init: Initializer = initializers.zeros

    @nn.compact
    def __call__(
        self, x: Float[Array, "*batch channels"], train: bool
    ) -> Float[Array, "*batch channels"]:
        channels = x.shape[-1]
        scale = self.param("scale", initializers.ones, (channels,))
        bias = self.param("bias", self.bias_init, (channels,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,))
        if train:
            count = x.size // channels
            axes = tuple(range(x.ndim - 1))
            wide = x.astype(jnp.float32)
            mean = jnp.mean(wide, axes)
            # The variance's gradient by the mean is zero: said here, no pass over the batch is made
            # to sum it, which took a twentieth of a step on a CPU.
            var = jnp.mean(jnp.square(wide - jax.lax.stop_gradient(mean)), axes)
            if not self.is_initializing():
                unbiased = var * (count / max(count - 1, 1))
                running_mean.value += self.momentum * (mean - running_mean.value)
                running_var.value += self.momentum * (unbiased - running_var.value)
        else:
            mean, var = running_mean.value, running_var.value
        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        return (x * factor + (bias - mean * factor)).astype(self.dtype)
