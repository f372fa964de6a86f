"""ResNets (He et al., 1512.03385) in Flax, with torchvision's layout, initialization and numbers.

The bottleneck has its stride in the 3x3 convolution ("v1.5"). Pictures are [B, H, W, 3]. Weights
are float32 whatever the type of the computation; logits and batch statistics are float32. Modules
carry torchvision's names, so that `jaxch5.models.weights` converts by renaming.
"""

from __future__ import annotations

import difflib
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.linen import initializers
from jaxtyping import Array, Float

from jaxch5.errors import ConfigError
from jaxch5.models.convolution import convolve, fusion_boundary, max_pool
from jaxch5.models.head import HEADS
from jaxch5.models.norm import BatchNorm

WIDTHS = (64, 128, 256, 512)


class Conv(nn.Module):
    """A convolution without bias, initialized as torchvision's are."""

    features: int
    size: int
    stride: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch out_height out_width features"]:
        kernel = self.param(
            "kernel",
            initializers.variance_scaling(2.0, "fan_out", "normal"),
            (self.size, self.size, x.shape[-1], self.features),
        )
        return convolve(x.astype(self.dtype), kernel.astype(self.dtype), self.stride)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    width: int
    stride: int
    dtype: Any
    expansion = 1

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        conv = partial(Conv, dtype=self.dtype)
        norm = partial(BatchNorm, dtype=self.dtype)
        y = conv(self.width, 3, self.stride, name="conv1")(x)
        y = nn.relu(norm(name="bn1")(y, train))
        y = conv(self.width, 3, name="conv2")(y)
        y = norm(name="bn2")(y, train)
        if x.shape != y.shape:
            x = conv(self.width, 1, self.stride, name="downsample_0")(x)
            x = norm(name="downsample_1")(x, train)
        return fusion_boundary(nn.relu(x + y))


class Bottleneck(nn.Module):
    """A 3x3 convolution between two 1x1 that narrow and widen, and a shortcut."""

    width: int
    stride: int
    dtype: Any
    expansion = 4

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        conv = partial(Conv, dtype=self.dtype)
        norm = partial(BatchNorm, dtype=self.dtype)
        y = conv(self.width, 1, name="conv1")(x)
        y = nn.relu(norm(name="bn1")(y, train))
        y = conv(self.width, 3, self.stride, name="conv2")(y)
        y = nn.relu(norm(name="bn2")(y, train))
        y = conv(self.width * self.expansion, 1, name="conv3")(y)
        y = norm(name="bn3")(y, train)
        if x.shape != y.shape:
            x = conv(self.width * self.expansion, 1, self.stride, name="downsample_0")(x)
            x = norm(name="downsample_1")(x, train)
        return fusion_boundary(nn.relu(x + y))


ARCHITECTURES: dict[str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, ...]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
    "resnet152": (Bottleneck, (3, 8, 36, 3)),
}


class ResNet(nn.Module):
    """A stem, four stages of blocks and a head.

    Attributes:
        arch: a key of `ARCHITECTURES`.
        num_classes: number of logits.
        head: a key of `HEADS`.
        dtype: of the computation; weights, statistics and logits are float32.
        frozen_stages: how many of the stem and the four stages, from the front, use their running
            statistics in training as well, and leave them as they are.
        remat: what is within a block is computed again for the gradient, not kept in memory.
    """

    arch: str
    num_classes: int
    head: str = "linear"
    dtype: Any = jnp.float32
    frozen_stages: int = 0
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width 3"], train: bool
    ) -> Float[Array, "batch num_classes"]:
        kind, depths = ARCHITECTURES[self.arch]
        block: Any = nn.remat(kind, static_argnums=(2,)) if self.remat else kind
        x = Conv(WIDTHS[0], 7, 2, self.dtype, name="conv1")(x)
        x = nn.relu(BatchNorm(self.dtype, name="bn1")(x, train and self.frozen_stages < 1))
        x = max_pool(x)
        for stage, (width, depth) in enumerate(zip(WIDTHS, depths, strict=True), 1):
            train_stage = train and self.frozen_stages <= stage
            for index in range(depth):
                stride = 2 if stage > 1 and index == 0 else 1
                name = f"layer{stage}_{index}"
                x = block(width, stride, self.dtype, name=name)(x, train_stage)
        return HEADS[self.head](self.num_classes, name="head")(x.astype(jnp.float32), train)


def create_model(
    arch: str | nn.Module,
    num_classes: int,
    head: str = "linear",
    dtype: Any = jnp.float32,
    remat: bool = False,
) -> nn.Module:
    """A classifier of normalized pictures, called as `model.apply(variables, x, train=bool)`.

    Args:
        arch: resnet18, 34, 50, 101 or 152; or a linen module of one's own, returned as it is.
        num_classes: number of logits.
        head: "linear" (torchvision's) or "concat_pool" (fastai's).
        dtype: of the computation, float32 or bfloat16 or float16; logits are float32.
        remat: what is within a block is computed again for the gradient, which takes less memory
            and more time (Chen et al., 1604.06174); not of a module of one's own.

    Raises:
        ConfigError: there is no such architecture or head.

    Example:
        >>> import jax
        >>> model = create_model("resnet18", num_classes=10)
        >>> init = partial(model.init, train=False)
        >>> shapes = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
        >>> sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
        11181642
    """
    if isinstance(arch, nn.Module):
        return arch
    for what, name, known in (("model.arch", arch, ARCHITECTURES), ("model.head", head, HEADS)):
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ConfigError(f"{what} = {name}: should be one of {', '.join(known)}{hint}")
    return ResNet(arch, num_classes, head, dtype, remat=remat)
