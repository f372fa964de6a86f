"""Divides pictures into patches, and adapts the embeddings of their positions to other sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float

from jaxch5.errors import ConfigError, WeightsError

UNKNOWN = (0, 0)


def grid_of(arch: str, sides: Sequence[int], patch: int) -> tuple[int, int]:
    """Returns how many patches a picture has in its height and in its width.

    Args:
        arch: Name of the architecture, for the message.
        sides: Height and width of the picture, in pixels.
        patch: Side of a patch, in pixels.

    Raises:
        ConfigError: A side is not a multiple of the patch.

    Example:
        >>> grid_of("vit_small_patch16_224", (224, 448), 16)
        (14, 28)
    """
    if unfit := [side for side in sides if side % patch]:
        fits = f"multiples of {patch}, such as --data.size {(unfit[0] // patch + 1) * patch}"
        raise ConfigError(f"data.size = {unfit[0]}: {arch} takes {fits}")
    high, wide = (side // patch for side in sides)
    return high, wide


def resample_positions(
    prefix: int,
    patch: int,
    positions: Float[np.ndarray, "1 old width"],
    sides: tuple[int, int],
    before: tuple[int, int] | None = None,
) -> Float[np.ndarray, "1 new width"]:
    """Interpolates the position embeddings of a grid of patches for pictures of another size.

    The first `prefix` embeddings are unchanged; those of the patches are resampled (bicubic, with
    antialiasing), as timm's `resample_abs_pos_embed` does.

    Args:
        prefix: Number of tokens that have a position embedding but are not patches.
        patch: Side of a patch, in pixels.
        positions: Embeddings of the `prefix` tokens, followed by those of the patches.
        sides: Height and width, in pixels, of the pictures to which the embeddings are adapted.
        before: Height and width, in pixels, of the pictures that the embeddings are for. If it is
            None, or does not account for the number of patches, they form a square, or else the
            grid of `sides`.

    Raises:
        WeightsError: The patches form neither of these two grids, or could form either of them.

    Example:
        >>> resample_positions(1, 16, np.ones((1, 1 + 14 * 14, 8)), (32, 48)).shape
        (1, 7, 8)
    """
    count = positions.shape[1] - prefix
    new, old = (tuple(side // patch for side in size) for size in (sides, before or UNKNOWN))
    if math.prod(old) != count:
        square = (math.isqrt(max(count, 0)),) * 2
        grids = [grid for grid in dict.fromkeys((square, new)) if math.prod(grid) == count]
        if not grids:
            line = f"pos_embed has {count} patches, which form no square, so it cannot be adapted"
            raise WeightsError(f"{line} to pictures of another size (--data.size)")
        if len(grids) > 1:
            shown = " or ".join(f"{high}x{wide}" for high, wide in grids)
            raise WeightsError(
                f"nothing states whether the {count} patches of pos_embed are {shown}; name a run "
                "or an exported file, which states its size, or choose another --data.size"
            )
        (old,) = grids
    if old == new:
        return positions
    grid = positions[:, prefix:].reshape(*old, -1)
    resized = jax.image.resize(grid, (*new, grid.shape[-1]), "cubic")
    return np.concatenate([positions[:, :prefix], resized.reshape(1, math.prod(new), -1)], axis=1)
