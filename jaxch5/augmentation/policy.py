"""The policy: which operations are drawn, and the two ways from a batch to the network's input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxch5.augmentation import color, geometry
from jaxch5.augmentation.sample import sample
from jaxch5.batch import Batch
from jaxch5.errors import ConfigError


@dataclass(frozen=True)
class Policy:
    """What `aug_transforms` returns: ranges and probabilities of random changes."""

    do_flip: bool
    flip_vert: bool
    max_rotate: float
    min_zoom: float
    max_zoom: float
    max_lighting: float
    max_warp: float
    p_affine: float
    p_lighting: float
    min_scale: float


def aug_transforms(
    do_flip: bool = True,
    flip_vert: bool = False,
    max_rotate: float = 10.0,
    min_zoom: float = 1.0,
    max_zoom: float = 1.1,
    max_lighting: float = 0.2,
    max_warp: float = 0.2,
    p_affine: float = 0.75,
    p_lighting: float = 0.75,
    min_scale: float = 1.0,
) -> Policy:
    """Random changes of pictures, with fastai's names, defaults and meanings.

    Args:
        do_flip: mirrors half of the pictures.
        flip_vert: with `do_flip`, one of all eight symmetries for half of the pictures.
        max_rotate: largest turn either way, degrees.
        min_zoom, max_zoom: factors between which a zoom is drawn.
        max_lighting: largest change of brightness and contrast, 0 to 1.
        max_warp: largest change of perspective, 0 to 0.5.
        p_affine: probability of each of turn, zoom and the two tilts.
        p_lighting: probability of each of brightness and contrast.
        min_scale: smallest share of the area that a crop keeps, 0 to 1.

    Raises:
        ConfigError: a value is out of its range.

    Example:
        >>> aug_transforms(min_scale=0.75).max_zoom
        1.1
    """
    policy = Policy(
        do_flip, flip_vert, max_rotate, min_zoom, max_zoom,
        max_lighting, max_warp, p_affine, p_lighting, min_scale,
    )  # fmt: skip
    ranges = {
        "max_rotate": (0, 180),
        "min_zoom": (0.01, max_zoom),
        "max_lighting": (0, 0.99),
        "max_warp": (0, 0.5),
        "p_affine": (0, 1),
        "p_lighting": (0, 1),
        "min_scale": (0.01, 1),
    }
    for name, (low, high) in ranges.items():
        value = getattr(policy, name)
        if not low <= value <= high:
            raise ConfigError(f"augment.{name} = {value}: should be from {low} to {high}")
    return policy


def augment(
    policy: Policy | None,
    batch: Batch,
    key: Key[Array, ""],
    size: int,
    dtype: Any = jnp.float32,
) -> Float[Array, "batch size size 3"]:
    """Randomly changed pictures of a batch, in 0 to 1, each by a draw of its own.

    An item's draw comes from the key folded with its `index`: it depends neither on the batch that
    the item is in nor on the batch's size.

    Args:
        policy: what `aug_transforms` returns; None is `center`.
        batch: presized pictures.
        key: a new one each epoch.
        size: side of the output, pixels.
        dtype: of the output.
    """
    if policy is None:
        return center(batch, size, dtype)
    keys = jax.vmap(lambda index: jax.random.split(jax.random.fold_in(key, index), 8))(batch.index)
    matrix = random_matrix(policy, batch.frame, keys[:, :6], size)
    pictures = sample(batch.image, matrix, batch.frame, size)
    if policy.max_lighting > 0:
        pictures = color.random_brightness(
            keys[:, 6], pictures, policy.max_lighting, policy.p_lighting
        )
        pictures = color.random_contrast(
            keys[:, 7], pictures, policy.max_lighting, policy.p_lighting
        )
    return jnp.clip(pictures, 0.0, 1.0).astype(dtype)


def center(batch: Batch, size: int, dtype: Any = jnp.float32) -> Float[Array, "batch size size 3"]:
    """The middle of each picture, all of its short side, in 0 to 1.

    Example:
        >>> frame = jnp.diag(jnp.array([12.0, 8.0, 1.0]))[None]
        >>> index = jnp.zeros(1, jnp.int32)
        >>> batch = Batch(jnp.ones((1, 8, 12, 3), jnp.uint8), frame, index, index, index == 0)
        >>> center(batch, size=4).shape
        (1, 4, 4, 3)
    """
    frame = jnp.asarray(batch.frame)
    middle = geometry.position(frame, jnp.full(len(frame), 0.5))
    matrix = geometry.compose(frame, middle, geometry.square(size))
    return sample(jnp.asarray(batch.image), matrix, frame, size, dtype)


def random_matrix(
    policy: Policy, frame: Float[Array, "batch 3 3"], keys: Key[Array, "batch 6"], size: int
) -> Float[Array, "batch 3 3"]:
    """Drawn matrices from output pixels to canvas pixels."""
    operations = [frame, geometry.random_position(keys[:, 0], frame)]
    if policy.max_warp > 0:
        operations.append(geometry.random_warp(keys[:, 1], policy.max_warp, policy.p_affine))
    if policy.do_flip:
        mirror = geometry.random_dihedral if policy.flip_vert else geometry.random_flip
        operations.append(mirror(keys[:, 2]))
    if policy.max_rotate > 0:
        operations.append(geometry.random_rotate(keys[:, 3], policy.max_rotate, policy.p_affine))
    if (policy.min_zoom, policy.max_zoom) != (1.0, 1.0):
        operations.append(
            geometry.random_zoom(keys[:, 4], policy.min_zoom, policy.max_zoom, policy.p_affine)
        )
    if policy.min_scale < 1:
        operations.append(geometry.random_crop(keys[:, 5], policy.min_scale))
    return geometry.compose(*operations, geometry.square(size))
