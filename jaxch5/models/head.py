"""Heads: from the last feature map to logits, in float32."""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import initializers
from jaxtyping import Array, Float, Key

from jaxch5.models.norm import BatchNorm


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


class ConcatPoolHead(nn.Module):
    """fastai's head (`create_head`): maximum and average pooling, and two linear layers.

    Each linear layer has no bias and follows a batch norm, whose bias begins at 0.001, and a
    dropout. Training needs `rngs={"dropout": key}`.
    """

    num_classes: int
    hidden: int = 512
    dropout: float = 0.5

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool
    ) -> Float[Array, "batch num_classes"]:
        x = jnp.concatenate([jnp.max(x, axis=(1, 2)), jnp.mean(x, axis=(1, 2))], axis=-1)
        x = nn.relu(self._layer(1, self.hidden, self.dropout / 2, x, train))
        return self._layer(2, self.num_classes, self.dropout, x, train)

    def _layer(self, number: int, features: int, dropout: float, x: Array, train: bool) -> Array:
        x = BatchNorm(bias_init=initializers.constant(1e-3), name=f"bn{number}")(x, train)
        x = nn.Dropout(dropout, deterministic=not train, name=f"dropout{number}")(x)
        kaiming = initializers.variance_scaling(2.0, "fan_in", "normal")
        return nn.Dense(features, use_bias=False, kernel_init=kaiming, name=f"fc{number}")(x)


HEADS: dict[str, type[nn.Module]] = {"linear": LinearHead, "concat_pool": ConcatPoolHead}
