"""The batch: what the input pipeline hands to the device."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int32, UInt8


class Batch(NamedTuple):
    """Presized pictures with their labels; a pytree, of NumPy arrays or of JAX arrays.

    `frame` takes a point of the unit square (x to the right, y down: the upright picture's kept
    region) to a pixel of its canvas. Pixel centres are at half integers. `index` is the item's
    place in its split, from which every random draw for the item is derived. A padded row has
    `mask` False and counts nowhere.
    """

    image: UInt8[jax.Array | np.ndarray, "batch height width 3"]
    frame: Float[jax.Array | np.ndarray, "batch 3 3"]
    label: Int32[jax.Array | np.ndarray, "batch"]
    index: Int32[jax.Array | np.ndarray, "batch"]
    mask: Bool[jax.Array | np.ndarray, "batch"]
