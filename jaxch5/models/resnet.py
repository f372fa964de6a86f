"""ResNets (He et al., 1512.03385) in Flax, with torchvision's layout, initialization and numerics.

The bottleneck has its stride in the 3x3 convolution ("v1.5"). Pictures are [B, H, W, 3]. Weights,
batch statistics and logits are float32, whatever the type of the computation. Modules have
torchvision's names. A ResNet-D (He et al., 1812.01187), whose modules have timm's names, has three
3x3 convolutions as its stem, and shortcuts that average-pool where the feature map shrinks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from flax.linen import initializers
from jaxtyping import Array, Float

from jaxch5.models.convolution import by_rows, convolve, end_of_block
from jaxch5.models.layers import HEADS, BatchNorm
from jaxch5.models.pooling import average_pool, relu_and_max_pool
from jaxch5.models.spec import (
    HubWeights,
    LastMap,
    ModelSpec,
    Names,
    Normalization,
    VariablePath,
    torch_name,
    with_frozen_stages,
)

WIDTHS = (64, 128, 256, 512)


class Conv(nn.Module):
    """A convolution without bias, initialized as in torchvision."""

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
        form = partial(convolve, stride=self.stride)
        return by_rows(form, x.astype(self.dtype), kernel.astype(self.dtype))


def _shortcut(x: Array, like: Array, block: BasicBlock | Bottleneck, train: bool) -> Array:
    """Returns what is added to a block's result: the input, converted to the result's shape."""
    if x.shape == like.shape:
        return x
    if block.averages and block.stride > 1:
        x = average_pool(x)
    stride, first = (1, 1) if block.averages else (block.stride, 0)
    x = Conv(like.shape[-1], 1, stride, block.dtype, name=f"downsample_{first}")(x)
    return BatchNorm(block.dtype, name=f"downsample_{first + 1}")(x, train)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    width: int
    stride: int
    dtype: Any
    averages: bool = False
    expansion = 1

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        conv = partial(Conv, dtype=self.dtype)
        norm = partial(BatchNorm, dtype=self.dtype)
        y = conv(self.width, 3, self.stride, name="conv1")(x)
        y = nn.relu(norm(name="bn1")(y, train))
        y = conv(self.width, 3, name="conv2")(y)
        y = norm(name="bn2")(y, train)
        return end_of_block(_shortcut(x, y, self, train) + y)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, of which the last quadruples the channels, and a shortcut."""

    width: int
    stride: int
    dtype: Any
    averages: bool = False
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
        return end_of_block(_shortcut(x, y, self, train) + y)


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
        arch: A key of `ARCHITECTURES`, followed by "d" for a ResNet-D.
        num_classes: Number of logits.
        head: A key of `HEADS`.
        dtype: Type of the computation; weights, statistics and logits are float32.
        frozen_stages: Number of stages, counted from the stem, that use their running statistics in
            training too, and do not update them.
        remat: Whether a block's activations are recomputed for the gradient, rather than being kept
            in memory.
        leaves_sums: Whether kernels' gradients can be left for the caller to sum; see `by_rows`.
    """

    leaves_sums: ClassVar[bool] = True
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
        kind, depths = ARCHITECTURES[self.arch.removesuffix("d")]
        block: Any = nn.remat(kind, static_argnums=(2,)) if self.remat else kind
        is_d, train_stem = self.arch.endswith("d"), train and self.frozen_stages < 1
        if is_d:
            for layer, stride in ((0, 2), (3, 1)):
                x = Conv(WIDTHS[0] // 2, 3, stride, self.dtype, name=f"conv1_{layer}")(x)
                x = nn.relu(BatchNorm(self.dtype, name=f"conv1_{layer + 1}")(x, train_stem))
            x = Conv(WIDTHS[0], 3, 1, self.dtype, name="conv1_6")(x)
        else:
            x = Conv(WIDTHS[0], 7, 2, self.dtype, name="conv1")(x)
        x = relu_and_max_pool(BatchNorm(self.dtype, name="bn1")(x, train_stem))
        for stage, (width, depth) in enumerate(zip(WIDTHS, depths, strict=True), 1):
            train_stage = train and self.frozen_stages <= stage
            for index in range(depth):
                stride = 2 if stage > 1 and index == 0 else 1
                name = f"layer{stage}_{index}"
                x = block(width, stride, self.dtype, is_d, name=name)(x, train_stage)
        return HEADS[self.head](self.num_classes, name="head")(x.astype(jnp.float32), train)


# PyTorch's names for the layers of heads, which are numbers in fastai, and `fc` in torchvision. The
# numbers that are missing here belong to layers without weights (pooling, flattening, dropout and
# ReLU).
OF_HEADS = {
    "head.bn1": "head.2",
    "head.fc1": "head.4",
    "head.bn2": "head.6",
    "head.fc2": "head.8",
    "head": "fc",
}
# The numbers of the layers in `torch.nn.Sequential(*resnet.children())`.
CHILDREN = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}


def torchvision_name(path: VariablePath) -> str:
    """Returns a variable's name in torchvision and timm, or in fastai for a `concat_pool` head.

    Example:
        >>> torchvision_name(("batch_stats", "layer2_0", "downsample_1", "mean"))
        'layer2.0.downsample.1.running_mean'
        >>> torchvision_name(("params", "head", "fc2", "kernel"))
        'head.8.weight'
    """
    name = re.sub(r"_(\d+)\b", r".\1", torch_name(path))
    module, _, leaf = name.rpartition(".")
    return f"{OF_HEADS.get(module, module)}.{leaf}"


NAMES = Names(
    torchvision_name,
    whose="torchvision's, timm's or fastai's",
    others={
        # In fastai a network is a sequence of two modules: its body is 0, and its head is 1.
        "fastai": {name: f"0.{number}" for name, number in CHILDREN.items()} | {"head": "1"},
        "children": CHILDREN,
    },
)
NAMES_D = Names(torchvision_name, whose="timm's")


def blocks_of(names: Collection[str]) -> tuple[int, ...]:
    """Returns how many blocks each of the four stages has, judging by the names of weights.

    Example:
        >>> blocks_of({"layer1.0.conv1.weight", "layer1.1.conv1.weight", "layer2.0.conv1.weight"})
        (2, 1, 0, 0)
    """
    blocks = {tuple(name.split(".")[:2]) for name in names}
    return tuple(sum(block[0] == f"layer{stage}" for block in blocks) for stage in (1, 2, 3, 4))


def _recognizes(arch: str, names: Collection[str]) -> bool:
    kind = Bottleneck if any(name.endswith(".conv3.weight") for name in names) else BasicBlock
    is_d = any(name.startswith("conv1.0.") or ".downsample.2." in name for name in names)
    is_ours = ARCHITECTURES[arch.removesuffix("d")] == (kind, blocks_of(names))
    return is_ours and arch.endswith("d") == is_d


def _spec(arch: str, tags: str, **own: Mapping[str, float]) -> ModelSpec:
    weights = (TAGS[tag](f"timm/{arch}.{tag}", **own.get(tag, {})) for tag in tags.split())
    return ModelSpec(
        arch,
        partial(ResNet, arch),
        stages=("stem", "layer1", "layer2", "layer3", "layer4", "head"),
        fastai=(3, 2, 1),
        heads=tuple(HEADS),
        frozen=with_frozen_stages,
        names=NAMES_D if arch.endswith("d") else NAMES,
        weights=tuple(weights),
        family="ResNet",
        recognizes=partial(_recognizes, arch),
        last_map=LastMap(corner=True),
    )


# Tags of timm 1.0.31, with what timm states about them: licence, normalization, and the size, crop
# and filter that are used in tests.
_TORCHVISION = partial(HubWeights, licence="bsd-3-clause")
_META = partial(HubWeights, licence="cc-by-nc-4.0")
_GLUON = partial(HubWeights, licence="apache-2.0", interpolation="bicubic")
_WHOLE = partial(_GLUON, size=288, crop=1.0)
_ALMOST = partial(_GLUON, size=288, crop=0.95)
TAGS: dict[str, Callable[..., HubWeights]] = {
    "tv_in1k": _TORCHVISION,
    "tv2_in1k": partial(_TORCHVISION, crop=0.965),
    "fb_ssl_yfcc100m_ft_in1k": _META,
    "fb_swsl_ig1b_ft_in1k": _META,
    "gluon_in1k": _GLUON,
    "am_in1k": _GLUON,
    "a3_in1k": partial(_GLUON, crop=0.95),
    "bamboo": partial(_GLUON, licence=None, crop=1.0),
    "ra4_e3600_r224_in1k": partial(_WHOLE, normalization=Normalization((0.5,) * 3, (0.5,) * 3)),
    **dict.fromkeys(("bt_in1k", "ra_in1k", "ra2_in1k", "ram_in1k"), _ALMOST),
    **dict.fromkeys(("a1_in1k", "a1h_in1k", "a2_in1k", "d_in1k"), _WHOLE),
    **dict.fromkeys(("b1k_in1k", "b2k_in1k", "c1_in1k", "c2_in1k"), _WHOLE),
}
_A = "a1_in1k a2_in1k a3_in1k gluon_in1k"
_FB = "fb_ssl_yfcc100m_ft_in1k fb_swsl_ig1b_ft_in1k"
RESNET18 = _spec("resnet18", f"tv_in1k {_A} {_FB}", tv_in1k={"accuracy": 69.758})
RESNET34 = _spec(
    "resnet34", f"tv_in1k {_A} bt_in1k ra4_e3600_r224_in1k", tv_in1k={"accuracy": 73.314}
)
RESNET50 = _spec(
    "resnet50",
    f"tv2_in1k tv_in1k {_A} a1h_in1k b1k_in1k b2k_in1k c1_in1k c2_in1k d_in1k am_in1k bt_in1k "
    f"ra_in1k ram_in1k {_FB} bamboo",
    tv2_in1k={"accuracy": 80.858},
    tv_in1k={"accuracy": 76.130},
    a1h_in1k={"size": 224},
)
_LARGE = f"tv2_in1k tv_in1k {_A} a1h_in1k"
RESNET101 = _spec("resnet101", _LARGE, tv2_in1k={"accuracy": 81.886}, tv_in1k={"accuracy": 77.374})
RESNET152 = _spec("resnet152", _LARGE, tv2_in1k={"accuracy": 82.284}, tv_in1k={"accuracy": 78.312})
RESNET18D = _spec("resnet18d", "ra2_in1k ra4_e3600_r224_in1k")
RESNET34D = _spec("resnet34d", "ra2_in1k")
RESNET50D = _spec("resnet50d", f"ra2_in1k {_A} ra4_e3600_r224_in1k")
RESNET101D = _spec("resnet101d", "ra2_in1k gluon_in1k", ra2_in1k={"size": 320, "crop": 1.0})
