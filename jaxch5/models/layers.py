"""Defines parts of networks: normalization, attention, batch norm, MLP and heads."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import initializers
from flax.typing import Initializer
from jaxtyping import Array, Float, Key

from jaxch5.models.convolution import by_rows
from jaxch5.models.spec import Normalization


def normalize(
    pictures: Float[Array, "batch height width 3"], normalization: Normalization
) -> Float[Array, "batch height width 3"]:
    """Normalizes each channel of pictures as the weights expect; see `Normalization`.

    Example:
        >>> grey = Normalization((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
        >>> float(normalize(jnp.ones((1, 1, 1, 3)), grey)[0, 0, 0, 0])
        2.0
    """
    mean = jnp.asarray(normalization.mean, pictures.dtype)
    std = jnp.asarray(normalization.std, pictures.dtype)
    return (pictures - mean) / std


def attention(
    query: Float[Array, "batch queries heads width"],
    key: Float[Array, "batch tokens heads width"],
    value: Float[Array, "batch tokens heads width"],
) -> Float[Array, "batch queries heads width"]:
    """Returns for each query the mean of the values, weighted by how well their keys match it.

    Source: scaled dot-product attention, Vaswani et al., 1706.03762.

    Example:
        >>> attention(*jnp.ones((3, 1, 4, 2, 8))).shape
        (1, 4, 2, 8)
    """

    def heads_first(*parts: Array) -> Array:
        # On a CPU this takes half the time of JAX's own attention, because it multiplies contiguous
        # float32 matrices. Padding the tokens to fill whole vectors of the processor saves 10 % or
        # more of the time for 197 tokens.
        def padded(part: Array) -> Array:
            more = (0, 0), (0, 0), (0, -part.shape[1] % 8), (0, 0)
            return jnp.pad(part.swapaxes(1, 2).astype(jnp.float32), more)

        (_, queries, _, width), tokens = parts[0].shape, parts[1].shape[1]
        query, key, value = map(padded, parts)
        seen = _attend(tokens, query / math.sqrt(width), key, value)
        return seen[:, :, :queries].swapaxes(1, 2).astype(parts[0].dtype)

    own = jax.nn.dot_product_attention
    return jax.lax.platform_dependent(query, key, value, cpu=heads_first, default=own)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(tokens: int, query: Array, key: Array, value: Array) -> Array:
    """Lets queries attend to the first `tokens` keys."""
    return _attend_forward(tokens, query, key, value)[0]


def _attend_forward(
    tokens: int, query: Array, key: Array, value: Array
) -> tuple[Array, tuple[Array, ...]]:
    there = jnp.arange(key.shape[-2]) < tokens
    logits = jnp.where(there, jnp.matmul(query, key.mT), -jnp.inf)
    weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
    # In a ViT, each row has 197 weights and 64 results. The results are scaled rather than the
    # weights, which takes a third of the multiplications.
    share = 1 / jnp.sum(weights, axis=-1, keepdims=True)
    seen = share * jnp.matmul(weights, value)
    return seen, (query, key, value, weights, share, seen)


def _attend_backward(
    tokens: int, saved: tuple[Array, ...], cotangent: Array
) -> tuple[Array, Array, Array]:
    query, key, value, weights, share, seen = saved
    cotangent *= share
    # The weighted mean of a row's gradients, from the shorter of two equivalent sums (2205.14135).
    mean = jnp.sum(cotangent * seen, axis=-1, keepdims=True)
    of_logits = weights * (jnp.matmul(cotangent, value.mT) - mean)
    return (
        jnp.matmul(of_logits, key),
        jnp.matmul(of_logits.mT, query),
        jnp.matmul(weights.mT, cotangent),
    )


_attend.defvjp(_attend_forward, _attend_backward)


@jax.custom_vjp
def _variance(
    x: Float[Array, "*batch channels"],
    mean: Float[Array, "channels"],
    near: Float[Array, "channels"],
) -> Float[Array, "channels"]:
    """Returns the biased variance of each channel, given the mean of each channel.

    A GPU reads `x` only once for means and variances: it sums squared distances from `near`, which
    does not depend on `x`. To avoid cancellation, `near` must not be more than a few standard
    deviations away from `mean`.
    """
    axes = tuple(range(x.ndim - 1))

    def in_two_passes(x: Array, mean: Array, near: Array) -> Array:
        return jnp.mean(jnp.square(x - mean), axes)

    def in_one_pass(x: Array, mean: Array, near: Array) -> Array:
        return jnp.maximum(jnp.mean(jnp.square(x - near), axes) - jnp.square(mean - near), 0.0)

    return jax.lax.platform_dependent(x, mean, near, cpu=in_two_passes, default=in_one_pass)


def _variance_backward(saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, None, None]:
    x, mean = saved
    count = x.size // x.shape[-1]
    # The gradient with respect to the mean is zero. Not computing it saves summing over the batch,
    # which took a twentieth of a step on a CPU.
    return (cotangent / count) * (2.0 * (x - mean)), None, None


_variance.defvjp(lambda x, mean, near: (_variance(x, mean, near), (x, mean)), _variance_backward)


class BatchNorm(nn.Module):
    """Batch normalization as PyTorch computes it.

    In training, a batch is normalized by its biased variance, but its unbiased variance enters the
    running variance. Statistics are computed and kept in float32.

    Attributes:
        dtype: Type of the result.
        momentum: Weight of a new batch in the running statistics.
        epsilon: Number that is added to the variance.
        bias_init: Initializer of the bias; the scale is initialized to one.

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
            wide = x.astype(jnp.float32)
            mean = jnp.mean(wide, tuple(range(x.ndim - 1)))
            var = _variance(wide, mean, running_mean.value)
            if not self.is_initializing():
                unbiased = var * (count / max(count - 1, 1))
                running_mean.value += self.momentum * (mean - running_mean.value)
                running_var.value += self.momentum * (unbiased - running_var.value)
        else:
            mean, var = running_mean.value, running_var.value
        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        return (x * factor + (bias - mean * factor)).astype(self.dtype)


LayerNorm = partial(nn.LayerNorm, epsilon=1e-6, use_fast_variance=False)
Dense = partial(nn.Dense, kernel_init=initializers.normal(0.02))


@jax.custom_vjp
def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Multiplies each number by the share of a standard normal distribution that is below it.

    This is the GELU (Hendrycks, 1606.08415). For its gradient, only `x` is kept in memory; JAX's
    own GELU keeps two arrays of the same size.

    Example:
        >>> round(float(gelu(jnp.float32(1.0))), 4)
        0.8413
    """
    return (x * _normal_share(x.astype(jnp.float32))).astype(x.dtype)


def _normal_share(x: Array) -> Array:
    return 0.5 + 0.5 * jax.lax.erf(x * math.sqrt(0.5))


def _gelu_backward(x: Array, cotangent: Array) -> tuple[Array]:
    # Without the barrier, XLA would keep the share in memory from the forward pass on.
    wide = jax.lax.optimization_barrier(x).astype(jnp.float32)
    density = jnp.exp(-0.5 * jnp.square(wide)) * (1 / math.sqrt(2 * math.pi))
    return ((cotangent * (_normal_share(wide) + wide * density)).astype(x.dtype),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)


class Mlp(nn.Module):
    """Two linear layers for each pixel, with four times as many channels and GELU in between."""

    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "*pixels channels"]) -> Array:
        channels = x.shape[-1]
        pixels = x.reshape(-1, channels)
        pixels = Dense(4 * channels, dtype=self.dtype, name="fc1")(pixels)
        pixels = gelu(pixels)
        return Dense(channels, dtype=self.dtype, name="fc2")(pixels).reshape(x.shape)


def uniform_of_fan_in(key: Key[Array, ""], shape: tuple[int, ...], fan_in: int) -> Array:
    """Draws initial weights as PyTorch's linear layers do: uniform within 1 / sqrt(fan-in) of 0."""
    bound = 1.0 / math.sqrt(fan_in)
    return jax.random.uniform(key, shape, minval=-bound, maxval=bound)


class LinearHead(nn.Module):
    """torchvision's head: average pooling if the input is not yet pooled, and a linear layer."""

    num_classes: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch *space channels"], train: bool
    ) -> Float[Array, "batch num_classes"]:
        channels = x.shape[-1]
        kernel = self.param("kernel", uniform_of_fan_in, (channels, self.num_classes), channels)
        bias = self.param("bias", uniform_of_fan_in, (self.num_classes,), channels)
        if x.ndim > 2:
            x = jnp.mean(x, axis=(1, 2)) if train else _mean_of_kept(x)
        return by_rows(jnp.dot, x, kernel) + bias


def _mean_of_kept(x: Float[Array, "batch height width channels"]) -> Float[Array, "batch channels"]:
    """Returns each channel's mean over a map that nothing else reads.

    On a CPU the mean is computed by a matrix product, for which XLA stores the map. When it was
    computed by a sum, XLA computed the convolution that returns the map in the order of this sum,
    and a ResNet-18 took twice as long for one picture.
    """

    def by_product(x: Array) -> Array:
        count = x.shape[1] * x.shape[2]
        pixels = x.reshape(x.shape[0], count, x.shape[3])
        share = jnp.full((x.shape[0], 1, count), 1 / count, x.dtype)
        return jnp.matmul(share, pixels, precision="highest")[:, 0]

    return jax.lax.platform_dependent(x, cpu=by_product, default=lambda x: jnp.mean(x, axis=(1, 2)))


class ConcatPoolHead(nn.Module):
    """fastai's head (`create_head`): maximum and average pooling, and two linear layers.

    The linear layers have no bias. Before each of them, there are a batch norm, whose bias is
    initialized to 0.001, and a dropout layer. An input that is already pooled is not pooled again.
    Training needs `rngs={"dropout": key}`.
    """

    num_classes: int
    hidden: int = 512
    dropout: float = 0.5

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch *space channels"], train: bool
    ) -> Float[Array, "batch num_classes"]:
        if x.ndim > 2:
            x = jnp.concatenate([jnp.max(x, axis=(1, 2)), jnp.mean(x, axis=(1, 2))], axis=-1)
        x = nn.relu(self._layer(1, self.hidden, self.dropout / 2, x, train))
        return self._layer(2, self.num_classes, self.dropout, x, train)

    def _layer(self, number: int, features: int, dropout: float, x: Array, train: bool) -> Array:
        x = BatchNorm(bias_init=initializers.constant(1e-3), name=f"bn{number}")(x, train)
        x = nn.Dropout(dropout, deterministic=not train, name=f"dropout{number}")(x)
        kaiming = initializers.variance_scaling(2.0, "fan_in", "normal")
        return nn.Dense(features, use_bias=False, kernel_init=kaiming, name=f"fc{number}")(x)


class NormHead(nn.Module):
    """timm's head of a ConvNeXt: average pooling, a layer norm and a linear layer."""

    num_classes: int

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width channels"], train: bool) -> Array:
        return Dense(self.num_classes, name="fc")(LayerNorm(name="norm")(x.mean((1, 2))))


HEADS: dict[str, type[nn.Module]] = {"linear": LinearHead, "concat_pool": ConcatPoolHead}
OF_TOKENS = {**HEADS, "mean_pool": LinearHead}
