"""Mixing: new examples from pairs of a batch's pictures and of their targets.

Both work on augmented pictures and on targets that are probabilities of the classes, one-hot to
begin with; each picture draws its own share, and its partner is another item of the batch.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

Pictures = Float[Array, "batch height width 3"]
Targets = Float[Array, "batch classes"]


def mixup(
    pictures: Pictures, targets: Targets, key: Key[Array, ""], alpha: float = 0.4
) -> tuple[Pictures, Targets]:
    """Weighted means of two pictures, and of their targets (Zhang et al., arXiv:1710.09412).

    Args:
        pictures: in 0 to 1.
        targets: probabilities of the classes.
        key: a new one each step.
        alpha: of the Beta distribution from which the weight is drawn; the larger part is the
            picture's own, as in fastai's `MixUp`.

    Example:
        >>> pictures, targets = jnp.ones((4, 2, 2, 3)), jnp.eye(4)
        >>> mixed, soft = mixup(pictures, targets, jax.random.key(0))
        >>> mixed.shape, [round(total, 5) for total in soft.sum(axis=1).tolist()]
        ((4, 2, 2, 3), [1.0, 1.0, 1.0, 1.0])
    """
    share_key, partner_key = jax.random.split(key)
    share = jax.random.beta(share_key, alpha, alpha, (len(pictures),))
    share = jnp.maximum(share, 1 - share)
    partner = jax.random.permutation(partner_key, len(pictures))
    own = share[:, None, None, None].astype(pictures.dtype)
    return pictures * own + pictures[partner] * (1 - own), _soft(targets, partner, share)


def cutmix(
    pictures: Pictures, targets: Targets, key: Key[Array, ""], alpha: float = 1.0
) -> tuple[Pictures, Targets]:
    """A box of each picture is cut from another (Yun et al., arXiv:1905.04899).

    The targets are weighted by the pixels that are really the one's and the other's.

    Args:
        pictures: in 0 to 1.
        targets: probabilities of the classes.
        key: a new one each step.
        alpha: of the Beta distribution from which the share that stays is drawn.

    Example:
        >>> pictures = jnp.arange(2.0).reshape(2, 1, 1, 1) * jnp.ones((4, 4, 3))
        >>> mixed, soft = cutmix(pictures, jnp.eye(2), jax.random.key(0))
        >>> bool(jnp.allclose(mixed[..., 0].mean((1, 2)), soft[:, 1]))
        True
    """
    count, height, width, _ = pictures.shape
    share_key, place_key, partner_key = jax.random.split(key, 3)
    side = jnp.sqrt(1 - jax.random.beta(share_key, alpha, alpha, (count,)))
    middle = jax.random.uniform(place_key, (2, count))
    partner = jax.random.permutation(partner_key, count)
    inside_y = _within(height, middle[0], side)
    inside_x = _within(width, middle[1], side)
    inside = inside_y[:, :, None] & inside_x[:, None, :]
    mixed = jnp.where(inside[..., None], pictures[partner], pictures)
    return mixed, _soft(targets, partner, 1 - inside.mean((1, 2)))


def _within(size: int, middle: Float[Array, "batch"], side: Float[Array, "batch"]) -> Array:
    centres = (jnp.arange(size) + 0.5) / size
    return jnp.abs(centres - middle[:, None]) < side[:, None] / 2


def _soft(targets: Targets, partner: Array, share: Float[Array, "batch"]) -> Targets:
    return targets * share[:, None] + targets[partner] * (1 - share[:, None])
