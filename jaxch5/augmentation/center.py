"""Makes the network's input from a batch without random changes, for validation and prediction."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxch5.augmentation import geometry
from jaxch5.augmentation.resample import resample
from jaxch5.augmentation.sample import sample, subsamples_for
from jaxch5.batch import Batch
from jaxch5.framing import Size, height_and_width
from jaxch5.view import WHOLE, View


def center(
    batch: Batch, size: Size, dtype: Any = jnp.float32, view: View = WHOLE
) -> Float[Array, "batch rows columns 3"]:
    """Frames each picture centrally, and returns it at the given size with values from 0 to 1.

    Args:
        batch: Presized pictures.
        size: Side of the output, or its height and width, in pixels.
        dtype: Type of the output.
        view: Share of the framed part's height and width that is kept (`crop_pct`), and the filter
            with which that part is resized (`interpolation`).

    Example:
        >>> import jax
        >>> frame = jnp.diag(jnp.array([12.0, 8.0, 1.0]))[None]
        >>> index = jnp.zeros(1, jnp.int32)
        >>> batch = Batch(jnp.ones((1, 8, 12, 3), jnp.uint8), frame, index, index, index == 0)
        >>> jax.jit(center, static_argnames="size")(batch, size=4).shape
        (1, 4, 4, 3)
    """
    image, frame = jnp.asarray(batch.image), jnp.asarray(batch.frame)
    half, share = (jnp.full(len(frame), value) for value in (0.5, view.crop_pct))
    method, pad_mode = batch.framing.method, batch.framing.pad_mode
    aspect = geometry.aspect_seen(frame, size, method)
    middle = geometry.position(frame, half, aspect, method)
    cut = [geometry.zoom(1 / share, half, half)] if view.crop_pct < 1 else []
    matrix = geometry.compose(frame, middle, *cut, geometry.square(size))
    if view.interpolation == "bicubic":
        return resample(image, matrix, frame, size, dtype, pad_mode)
    scale = view.crop_pct * min(image.shape[1:3]) / min(height_and_width(size))
    how = subsamples_for(scale), pad_mode, method == "squish"
    return sample(image, matrix, frame, size, dtype, *how)
