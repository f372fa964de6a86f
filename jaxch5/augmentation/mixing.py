"""Makes new examples by mixing pairs of a batch's pictures.

Both methods, `mixup` and `cutmix`, work on augmented pictures. Each picture keeps a random share of
itself, and gets the rest from a random partner in the batch, which may be the picture itself. The
loss for the picture's label and the loss for its partner's label are then mixed in the same
proportion; see `jaxch5.training.reduction.loss_of_batch`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxch5.util.limits import check_numbers

Pictures = Float[Array, "batch height width 3"]


class Mixed(NamedTuple):
    """Holds mixed pictures, the index of each one's partner, and the share that each one kept.

    The shares are from 0 to 1.
    """

    pictures: Pictures
    partner: Int[Array, "batch"]
    share: Float[Array, "batch"]


def mixup(pictures: Pictures, key: Key[Array, ""], alpha: float = 0.4) -> Mixed:
    """Mixes each picture with its partner by a weighted mean (Zhang et al., arXiv:1710.09412).

    Args:
        pictures: Values from 0 to 1.
        key: Key for the draws, a new one for each step.
        alpha: Value of both parameters of the Beta distribution from which a weight is drawn. The
            picture gets this weight or one minus it, whichever is larger, as in fastai's `MixUp`.

    Raises:
        ConfigError: `alpha` is not above 0 and at most 10.

    Example:
        >>> mixed = mixup(jnp.ones((4, 2, 2, 3)), jax.random.key(0))
        >>> mixed.pictures.shape, bool((mixed.share >= 0.5).all())
        ((4, 2, 2, 3), True)
    """
    share_key, partner_key = jax.random.split(key)
    share = _beta(share_key, alpha, len(pictures))
    share = jnp.maximum(share, 1 - share)
    partner = jax.random.permutation(partner_key, len(pictures))
    own = share[:, None, None, None].astype(pictures.dtype)
    return Mixed(pictures * own + pictures[partner] * (1 - own), partner, share)


def cutmix(pictures: Pictures, key: Key[Array, ""], alpha: float = 1.0) -> Mixed:
    """Fills a box in each picture with its partner's pixels (Yun et al., arXiv:1905.04899).

    The share is the fraction of a picture's pixels that are not replaced.

    Args:
        pictures: Values from 0 to 1.
        key: Key for the draws, a new one for each step.
        alpha: Value of both parameters of the Beta distribution from which the share is drawn. If
            the box reaches beyond the picture, it is clipped at the border, and the share grows.

    Raises:
        ConfigError: `alpha` is not above 0 and at most 10.

    Example:
        >>> pictures = jnp.arange(2.0).reshape(2, 1, 1, 1) * jnp.ones((4, 4, 3))
        >>> mixed = cutmix(pictures, jax.random.key(0))
        >>> mixed.pictures.shape, mixed.share.shape
        ((2, 4, 4, 3), (2,))
    """
    count, height, width, _ = pictures.shape
    share_key, place_key, partner_key = jax.random.split(key, 3)
    side = jnp.sqrt(1 - _beta(share_key, alpha, count))
    middle = jax.random.uniform(place_key, (2, count))
    partner = jax.random.permutation(partner_key, count)
    inside_y = _within(height, middle[0], side)
    inside_x = _within(width, middle[1], side)
    inside = inside_y[:, :, None] & inside_x[:, None, :]
    mixed = jnp.where(inside[..., None], pictures[partner], pictures)
    return Mixed(mixed, partner, 1 - inside.mean((1, 2)))


def _beta(key: Key[Array, ""], alpha: float, count: int) -> Float[Array, "batch"]:
    check_numbers(alpha=alpha)
    return jax.random.beta(key, alpha, alpha, (count,))


def _within(size: int, middle: Float[Array, "batch"], side: Float[Array, "batch"]) -> Array:
    centres = (jnp.arange(size) + 0.5) / size
    return jnp.abs(centres - middle[:, None]) < side[:, None] / 2


MIXERS: dict[str, Callable[..., Mixed]] = {"mixup": mixup, "cutmix": cutmix}
