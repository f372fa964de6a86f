"""Vision transformers (Dosovitskiy et al., 2010.11929; DINOv2: Oquab et al., 2304.07193) in Flax.

They have timm's layout, initialization and numerics. Pictures are [B, H, W, 3]. Weights are float32
whatever the type of the computation; norms, softmax and logits are computed in float32.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax.linen.initializers import constant, normal, truncated_normal, variance_scaling
from jaxtyping import Array, Float

from jaxch5.models.layers import OF_TOKENS, Dense, Mlp, attention
from jaxch5.models.positions import grid_of, resample_positions
from jaxch5.models.spec import (
    HEAD,
    IMAGENET,
    HubWeights,
    LastMap,
    ModelSpec,
    Names,
    Normalization,
    VariablePath,
    torch_name,
)


class Block(nn.Module):
    """Adds attention's result, then an MLP's, to the first `returned` tokens or to all of them."""

    heads: int
    layer_scale: float
    dtype: Any
    drop_path: float
    returned: int | None

    @nn.compact
    def __call__(self, x: Float[Array, "batch tokens width"], train: bool) -> Array:
        batch, tokens, width = x.shape
        norm = partial(nn.LayerNorm, 1e-6, dtype=self.dtype)
        dense = partial(Dense, dtype=self.dtype)
        # A CPU multiplies matrices faster than it multiplies stacks of matrices.
        parts = dense(3 * width, name="attn_qkv")(norm(name="norm1")(x).reshape(-1, width))
        query, key, value = jnp.split(parts.reshape(batch, tokens, -1, width // self.heads), 3, 2)
        x, query = x[:, : self.returned], query[:, : self.returned]
        seen = attention(query, key, value).reshape(-1, width)
        x += self._scaled("ls1_gamma", dense(width, name="attn_proj")(seen).reshape(x.shape), train)
        y = Mlp(self.dtype, name="mlp")(norm(name="norm2")(x))
        return x + self._scaled("ls2_gamma", y, train)

    def _scaled(self, name: str, y: Array, train: bool) -> Array:
        if self.layer_scale:
            y *= self.param(name, constant(self.layer_scale), y.shape[-1:]).astype(y.dtype)
        return nn.Dropout(self.drop_path, (1, 2), deterministic=not train)(y)


class VisionTransformer(nn.Module):
    """A vision transformer: a class token and a token for each patch, then blocks and a head.

    Attributes:
        arch, num_classes: Name of the architecture, for messages; number of logits.
        patch: Side of a patch, in pixels; a picture's sides are multiples of it.
        width, heads, depth: Channels of a token, heads of its attention, number of blocks.
        registers: Number of register tokens (2309.16588). If above 0, only patches have positions.
        layer_scale: Initial value of factors that scale what a block adds (2103.17239); 0 for none.
        head: "linear", on the class token, as in pretraining; "mean_pool", on the patches' mean; or
            "concat_pool", fastai's layers on both.
        dtype: Type of the computation.
        remat: Whether a block's activations are recomputed for the gradient, not kept in memory.
        drop_path: Rate of stochastic depth in the last block, rising linearly from 0 in the first.
    """

    arch: str
    num_classes: int
    patch: int
    width: int
    heads: int
    depth: int = 12
    registers: int = 0
    layer_scale: float = 0.0
    head: str = "linear"
    dtype: Any = jnp.float32
    remat: bool = False
    drop_path: float = 0.0

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width 3"], train: bool
    ) -> Float[Array, "batch num_classes"]:
        (batch, *sides, _), side, prefix = x.shape, self.patch, 1 + self.registers
        high, wide = grid_of(self.arch, sides, side)
        uniform = variance_scaling(1 / 3, "fan_in", "uniform")
        embed = partial(nn.DenseGeneral, self.width, (-3, -2, -1), kernel_init=uniform)
        # This is a convolution whose stride equals its size, computed as one product of matrices.
        patches = x.reshape(batch, high, side, wide, side, 3).swapaxes(2, 3)
        patches = embed(dtype=self.dtype, name="patch_embed_proj")(patches)

        def tokens(name: str, count: int, init: Any = None) -> Array:
            return self.param(name, init or normal(1e-6), (1, count, self.width)).astype(self.dtype)

        others = [("cls_token", 1), ("reg_token", self.registers)][: 1 + bool(self.registers)]
        first = [jnp.repeat(tokens(*other), batch, axis=0) for other in others]
        unplaced = prefix if self.registers else 0
        places = tokens("pos_embed", prefix - unplaced + high * wide, truncated_normal(0.02))
        x = jnp.concatenate([*first, patches.reshape(batch, -1, self.width)], axis=1)
        x += jnp.pad(places, ((0, 0), (unplaced, 0), (0, 0)))
        block: Any = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        # The last block returns what the head reads: the class token alone, or every token.
        returned = [None] * (self.depth - 1) + [1 if self.head == "linear" else None]
        for index, rate in enumerate(np.linspace(0, self.drop_path, self.depth)):
            how = self.heads, self.layer_scale, self.dtype, float(rate), returned[index]
            x = block(*how, name=f"blocks_{index}")(x, train)
        x = nn.LayerNorm(1e-6, name="norm")(x.astype(jnp.float32))
        pooled = x[:, 0] if self.head == "linear" else jnp.mean(x[:, prefix:], axis=1)
        if self.head == "concat_pool":
            pooled = jnp.concatenate([x[:, 0], pooled], axis=-1)
        return OF_TOKENS[self.head](self.num_classes, name="head")(pooled, train)


def timm_name(path: VariablePath) -> str:
    """Returns timm's name for a variable.

    Example:
        >>> timm_name(("params", "blocks_1", "attn_qkv", "kernel"))
        'blocks.1.attn.qkv.weight'
    """
    return re.sub(r"_(\d+|qkv|proj|fc[12]|gamma)\b", r".\1", torch_name(path))


# Tags of timm 1.0.31, with what timm states about them.
_CLIP = Normalization((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_BICUBIC = partial(HubWeights, interpolation="bicubic", crop=0.9, normalization=IMAGENET)
_APACHE = partial(_BICUBIC, licence="apache-2.0")
TAGS: dict[str, Callable[..., HubWeights]] = {
    "dino": _APACHE,
    "mae": partial(_BICUBIC, licence="cc-by-nc-4.0"),
    "bamboo": partial(_BICUBIC, crop=1.0, normalization=_CLIP),
    "lvd142m": partial(_APACHE, size=518, crop=1.0),
}


def vit_spec(arch: str, tags: str = "", **sizes: Any) -> ModelSpec:
    """Returns the specification of a vision transformer with given sizes and timm's weights."""
    build = partial(VisionTransformer, arch, **sizes)
    model = build(num_classes=1)
    last, after = f"blocks_{model.depth - 1}", f"blocks.{model.depth}.norm1.bias"
    other = partial(_APACHE, normalization=Normalization((0.5,) * 3, (0.5,) * 3))
    weights = tuple(TAGS.get(tag, other)(f"timm/{arch}.{tag}") for tag in tags.split())

    def stage_of(module: str) -> str:
        # The last norm belongs to the last block, as it does for timm's layer-wise learning rates.
        own = module if module.startswith((HEAD, "blocks_")) else "embed"
        return last if module == "norm" else own

    def recognizes(entries: Mapping[str, Any]) -> bool:
        shape = np.shape(entries.get("patch_embed.proj.weight", ()))
        has = [name in entries for name in ("blocks.0.ls1.gamma", "reg_token", after)]
        wanted = [model.layer_scale > 0, model.registers > 0, False]
        return shape == (model.width, 3, model.patch, model.patch) and has == wanted

    return ModelSpec(
        arch,
        build,
        stages=("embed", *(f"blocks_{index}" for index in range(model.depth)), HEAD),
        stage_of=stage_of,
        fastai=(1 + model.depth // 2, -(-model.depth // 2), 1),
        heads=tuple(OF_TOKENS),
        no_decay=("cls_token", "pos_embed", "reg_token"),
        names=Names(timm_name, whose="timm's"),
        weights=weights,
        normalization=(weights and weights[0].normalization) or IMAGENET,
        size=model.patch * 16,
        family="ViT",
        recognizes=recognizes,
        resample={"pos_embed": partial(resample_positions, int(not model.registers), model.patch)},
        last_map=LastMap(f"{last}/norm1", tokens=1 + model.registers),
    )


_IN21K = "augreg_in21k_ft_in1k augreg_in1k augreg_in21k dino"
_BOTH = f"augreg2_in21k_ft_in1k {_IN21K} orig_in21k_ft_in1k orig_in21k sam_in1k bamboo mae"
_small, _base = partial(vit_spec, width=384, heads=6), partial(vit_spec, width=768, heads=12)
VIT_SMALL_PATCH16_224 = _small("vit_small_patch16_224", _IN21K, patch=16)
VIT_BASE_PATCH16_224 = _base("vit_base_patch16_224", _BOTH, patch=16)
_DINOV2: dict[str, Any] = {"tags": "lvd142m", "patch": 14, "layer_scale": 1e-5}
VIT_SMALL_PATCH14_DINOV2 = _small("vit_small_patch14_dinov2", **_DINOV2)
VIT_BASE_PATCH14_DINOV2 = _base("vit_base_patch14_dinov2", **_DINOV2)
VIT_SMALL_PATCH14_REG4_DINOV2 = _small("vit_small_patch14_reg4_dinov2", registers=4, **_DINOV2)
VIT_BASE_PATCH14_REG4_DINOV2 = _base("vit_base_patch14_reg4_dinov2", registers=4, **_DINOV2)
