"""Defines two kinds of batch: pictures sent to the device, and items of a set cached on it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt8

from jaxch5.framing import CROP, Framing


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Batch:
    """Holds presized pictures with their labels, as a pytree of NumPy arrays or of JAX arrays.

    `frame` maps a point of the unit square to a pixel of the canvas, in homogeneous coordinates.
    The unit square (x to the right, y down) stands for the part of the upright picture that is
    kept. The last entry of `frame` is the aspect ratio of the picture divided by its aspect ratio
    on the canvas; this is 1 unless the picture is squished there. Pixel centres are at half
    integers. Augmentation derives an item's random numbers from its `index`, so an item that an
    epoch draws several times has a different index each time. A row whose `mask` is False only
    fills up a batch, and never counts.

    Attributes:
        image: Canvases that hold the pictures, with values from 0 to 255.
        frame: Matrix that maps the unit square to pixels of the canvas.
        label: Index of the class.
        index: Index of the item in its split, plus the split's size for each earlier draw of the
            item in the epoch.
        mask: False for rows that fill up the last batch.
        framing: How the pictures were presized, and how they get the shape of the network's input.

    Example:
        >>> import numpy as np
        >>> index = np.arange(2, dtype=np.int32)
        >>> frame = np.tile(np.diag([12.0, 8.0, 1.0]).astype(np.float32), (2, 1, 1))
        >>> batch = Batch(np.zeros((2, 8, 12, 3), np.uint8), frame, index, index, index >= 0)
        >>> batch.frame[0] @ [0.5, 0.5, 1.0]  # the middle of the picture, pixels x and y
        array([6., 4., 1.])
    """

    image: UInt8[Any, "batch height width 3"]
    frame: Float32[Any, "batch 3 3"]
    label: Int32[Any, "batch"]
    index: Int32[Any, "batch"]
    mask: Bool[Any, "batch"]
    framing: Framing = field(default=CROP, metadata={"static": True})

    def open(self) -> Batch:
        """Returns the batch itself, which already has its pictures."""
        return self


def without_labels(
    image: UInt8[Any, "batch height width 3"],
    frame: Float32[Any, "batch 3 3"],
    framing: Framing = CROP,
) -> Batch:
    """Makes a batch of pictures without labels, to be shown or classified."""
    nothing = np.zeros(len(image), np.int32)
    return Batch(image, frame, nothing, nothing, nothing == 0, framing)


def repeated(batch: Batch, count: int) -> Batch:
    """Repeats the first picture of a batch; each copy is augmented differently."""
    rows = jax.tree.map(lambda leaf: np.repeat(leaf[:1], count, axis=0), batch)
    return replace(rows, index=np.arange(count, dtype=np.int32))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CachedBatch:
    """Holds a batch as indices of items in a set that is cached on the device; it is a pytree.

    `images` and `frames` belong to the whole set, in the order of its source, and are not
    copied. If `open` is called inside a compiled step, that step picks out the pictures.
    """

    images: UInt8[Any, "items height width 3"]
    frames: Float32[Any, "items 3 3"]
    item: Int32[Any, "batch"]
    label: Int32[Any, "batch"]
    index: Int32[Any, "batch"]
    mask: Bool[Any, "batch"]
    framing: Framing = field(default=CROP, metadata={"static": True})

    def open(self) -> Batch:
        """Returns the batch with its pictures, picked out of the pictures of the whole set."""
        image = self.images.at[self.item].get(mode="promise_in_bounds")
        frame = self.frames.at[self.item].get(mode="promise_in_bounds")
        return Batch(image, frame, self.label, self.index, self.mask, self.framing)
