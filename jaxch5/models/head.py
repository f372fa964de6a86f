"""Heads: from the last feature map to logits, in float32."""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key


def uniform_of_fan_in(key: Key[Array, ""], shape: tuple[int, ...], fan_in: int) -> Array:
    """PyTorch's initialization of linear layers: uniform within one over the root of fan-in."""
    bound = 1.0 / math.sqrt(fan_in)
    return jax.random.uniform(key, shape, minval=-bound, maxval=bound)


class LinearHead(nn.Module):
    """torchvision's head: average pooling and a linear layer."""

    num_classes: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool
    ) -> Float[Array, "batch num_classes"]:
        channels = x.shape[-1]
        kernel = self.param("kernel", uniform_of_fan_in, (channels, self.num_classes), channels)
        bias = self.param("bias", uniform_of_fan_in, (self.num_classes,), channels)
        return jnp.dot(jnp.mean(x, axis=(1, 2)), kernel) + bias


HEADS: dict[str, type[nn.Module]] = {"linear": LinearHead}
