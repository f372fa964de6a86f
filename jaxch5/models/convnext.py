"""Defines ConvNeXts (Liu et al., 2201.03545) in Flax, with timm's names, layouts and outputs.

Pictures are [B, H, W, 3]. Weights, layer norms and logits are float32, whatever the type of the
computation. There are batch norms only in a `concat_pool` head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax.linen import initializers
from jaxtyping import Array, Float

from jaxch5.errors import ConfigError
from jaxch5.models.convolution import convolve_patches, fusion_boundary
from jaxch5.models.depthwise import convolve_depthwise
from jaxch5.models.layers import ConcatPoolHead, LayerNorm, Mlp, NormHead
from jaxch5.models.resnet import torchvision_name
from jaxch5.models.spec import (
    HubWeights,
    ModelSpec,
    Names,
    Normalization,
    VariablePath,
    flax_layout,
    torch_layout,
)

# Side of the smallest picture that leaves a pixel after the stem and three halvings.
SMALLEST = 32
# Blocks per stage, and channels in the first stage; the channels double from stage to stage.
ARCHITECTURES = {
    "convnext_nano": ((2, 2, 8, 2), 80),
    "convnext_tiny": ((3, 3, 9, 3), 96),
    "convnext_small": ((3, 3, 27, 3), 96),
    "convnext_base": ((3, 3, 27, 3), 128),
}


class Conv(nn.Module):
    """A convolution of patches, or of each channel separately, with a bias."""

    features: int
    size: int
    convolve: Callable[[Array, Array], Array] = convolve_patches
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width channels"]) -> Array:
        inputs = 1 if self.convolve is convolve_depthwise else x.shape[-1]
        shape = (self.size, self.size, inputs, self.features)
        kernel = self.param("kernel", initializers.normal(0.02), shape).astype(self.dtype)
        bias = self.param("bias", initializers.zeros, (self.features,)).astype(self.dtype)
        return self.convolve(x.astype(self.dtype), kernel) + bias


class Block(nn.Module):
    """A depthwise 7x7 convolution, two linear layers and a scale, with a shortcut around them."""

    drop_path: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        width = x.shape[-1]
        y = Conv(width, 7, convolve_depthwise, self.dtype, name="conv_dw")(x)
        y = Mlp(self.dtype, name="mlp")(LayerNorm(name="norm")(y))
        # This is done in float32: in float16, the initial value, 1e-6, has only one digit.
        y = y * self.param("gamma", initializers.constant(1e-6), (width,))
        if self.drop_path:
            y = nn.Dropout(self.drop_path, (1, 2, 3), deterministic=not train)(y)
        return fusion_boundary((x + y).astype(self.dtype))


class Stage(nn.Module):
    """Blocks of equal width; an input of another width is converted, and its sides are halved."""

    width: int
    drop_paths: tuple[float, ...]
    dtype: Any
    remat: bool

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        if x.shape[-1] != self.width:
            x = LayerNorm(name="downsample_0")(x)
            x = Conv(self.width, 2, dtype=self.dtype, name="downsample_1")(x)
        block: Any = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        for index, rate in enumerate(self.drop_paths):
            x = block(rate, self.dtype, name=f"blocks_{index}")(x, train)
        return x


HEADS: dict[str, type[nn.Module]] = {"linear": NormHead, "concat_pool": ConcatPoolHead}


class ConvNeXt(nn.Module):
    """A stem, four stages of blocks and a head.

    Attributes:
        arch: A key of `ARCHITECTURES`.
        num_classes: Number of logits.
        head: A key of `HEADS`.
        dtype: Type of the computation; weights, norms and logits are float32.
        remat: Whether a block's activations are recomputed for the gradient, not kept in memory.
        drop_path: Share of the items for which training leaves the last block out; the share
            rises linearly from 0 at the first block (stochastic depth, Huang et al., 1603.09382).
    """

    arch: str
    num_classes: int
    head: str = "linear"
    dtype: Any = jnp.float32
    remat: bool = False
    drop_path: float = 0.0

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width 3"], train: bool
    ) -> Float[Array, "batch num_classes"]:
        if min(x.shape[1:3]) < SMALLEST:
            raise ConfigError(
                f"data.size = {min(x.shape[1:3])}: {self.arch} needs at least {SMALLEST} pixels"
            )
        depths, width = ARCHITECTURES[self.arch]
        rates = np.split(np.linspace(0, self.drop_path, sum(depths)), np.cumsum(depths)[:-1])
        x = Conv(width, 4, dtype=self.dtype, name="stem_0")(x)
        x = LayerNorm(name="stem_1")(x).astype(self.dtype)
        for number, of_stage in enumerate(rates):
            stage = partial(Stage, width * 2**number, tuple(of_stage.tolist()), self.dtype)
            x = stage(self.remat, name=f"stages_{number}")(x, train)
        return HEADS[self.head](self.num_classes, name="head")(x.astype(jnp.float32), train)


# In timm's nano, the linear layers of the blocks are 1x1 convolutions with the same weights.
def _written(path: VariablePath, value: np.ndarray) -> np.ndarray:
    written = torch_layout(path, value)
    return written[..., None, None] if "mlp" in path and written.ndim == 2 else written


def _read(path: VariablePath, value: np.ndarray) -> np.ndarray:
    return flax_layout(path, value[..., 0, 0] if "mlp" in path and value.ndim == 4 else value)


def _recognizes(arch: str, entries: Mapping[str, Any]) -> bool:
    depths, width = ARCHITECTURES[arch]
    blocks = {tuple(name.split(".")[1:4]) for name in entries if name.startswith("stages.")}
    found = [sum(block[:2] == (str(stage), "blocks") for block in blocks) for stage in range(4)]
    return tuple(found) == depths and np.shape(entries.get("stem.0.weight", 0))[:1] == (width,)


def _spec(arch: str, tags: str) -> ModelSpec:
    layouts = (_written, _read) if arch == "convnext_nano" else (torch_layout, flax_layout)
    return ModelSpec(
        arch,
        partial(ConvNeXt, arch),
        stages=("stem", "stages_0", "stages_1", "stages_2", "stages_3", "head"),
        heads=tuple(HEADS),
        names=Names(torchvision_name, *layouts, whose="timm's"),
        weights=tuple(TAGS[tag](f"timm/{arch}.{tag}") for tag in tags.split()),
        family="ConvNeXt",
        recognizes=partial(_recognizes, arch),
    )


# Tags of timm 1.0.31, with the licence, normalization and test settings that timm states for them.
_APACHE = partial(HubWeights, licence="apache-2.0", interpolation="bicubic")
_WHOLE = partial(_APACHE, crop=1.0)
_EUPE = partial(_WHOLE, licence="fair-noncommercial-research-license")
_OPENAI = Normalization((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_CLIP = partial(_WHOLE, normalization=_OPENAI)
_FT12K = "clip_laion2b_augreg_ft_in12k"
_TABLE = {
    "in12k": partial(_APACHE, crop=0.95),
    "fb_in22k": _APACHE,
    "in12k_ft_in1k fb_in22k_ft_in1k fb_in1k d1h_in1k": partial(_WHOLE, size=288),
    "in12k_ft_in1k_384 fb_in22k_ft_in1k_384": partial(_WHOLE, size=384),
    "r384_in12k_ft_in1k r384_in12k r384_ad_in12k": partial(_WHOLE, size=384),
    f"{_FT12K}_in1k clip_laion2b_augreg_ft_in1k {_FT12K}": partial(_CLIP, size=256),
    "clip_laion2b clip_laion2b_augreg clip_laiona": partial(_CLIP, size=256),
    "clip_laiona_320 clip_laiona_augreg_320": partial(_CLIP, size=320),
    f"{_FT12K}_in1k_384 clip_laiona_augreg_ft_in1k_384": partial(_CLIP, size=384),
    "dinov3_lvd1689m": partial(_WHOLE, licence="dinov3-license"),
    "eupe_lvd1689m": partial(_EUPE, size=256),
}
TAGS: dict[str, Callable[..., HubWeights]] = {
    tag: made for tags, made in _TABLE.items() for tag in tags.split()
}
_FB = "fb_in22k_ft_in1k fb_in1k fb_in22k_ft_in1k_384 fb_in22k dinov3_lvd1689m eupe_lvd1689m"
_R384 = "r384_in12k_ft_in1k r384_in12k r384_ad_in12k"
_ALL = f"in12k_ft_in1k in12k_ft_in1k_384 in12k {_FB}"
CONVNEXT_NANO = _spec("convnext_nano", f"in12k_ft_in1k in12k {_R384} d1h_in1k")
CONVNEXT_TINY, CONVNEXT_SMALL = (_spec(f"convnext_{size}", _ALL) for size in ("tiny", "small"))
CONVNEXT_BASE = _spec("convnext_base", " ".join([_FB, *(tag for tag in TAGS if "clip" in tag)]))
