"""Presizes the pictures of a source, and decides where they are kept between epochs."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import copy

import jax
import numpy as np
from jaxtyping import Float32, Int, UInt8
from PIL import Image
from rich.console import Console

from jaxch5.augmentation.center import center
from jaxch5.batch import without_labels
from jaxch5.data.image import canvas_shape
from jaxch5.data.parallel import threads_for_batches
from jaxch5.data.picture import read_picture
from jaxch5.data.source import Source, canvas_of, item_name, without_bad
from jaxch5.errors import ConfigError, DataError
from jaxch5.framing import CROP, Framing, Size, height_and_width
from jaxch5.util.text import progress_bar


class Canvases:
    """Presizes the pictures of a source on demand, and keeps them if asked to.

    Args:
        source: Labelled pictures.
        size: Short side of the canvas, in pixels.
        keep: Whether presized pictures stay in memory.
        framing: How the network will frame the pictures.
    """

    def __init__(self, source: Source, size: int, keep: bool, framing: Framing = CROP) -> None:
        self.source = source
        self.size = size
        self.framing = framing
        self.shape = canvas_shape(size, framing.method)
        count = len(source) if keep else 0
        self._images, self._frames = self._room(count)
        self._made = np.zeros(count, bool)
        self.on_device: tuple[jax.Array, jax.Array] | None = None

    def __call__(
        self, items: Int[np.ndarray, "batch"]
    ) -> tuple[UInt8[np.ndarray, "batch height width 3"], Float32[np.ndarray, "batch 3 3"]]:
        """Returns the canvases and frames of some items of the source.

        Raises:
            DataError: A picture cannot be read.
        """
        keep = len(self._made) > 0
        if keep and self._made[items].all():
            return self._images[items], self._frames[items]
        images, frames = self._room(len(items))
        for row, item in enumerate(np.asarray(items).tolist()):
            if keep and self._made[item]:
                images[row], frames[row] = self._images[item], self._frames[item]
                continue
            self._make(item, images[row], frames[row])
            if keep:
                # Two threads may both make an item; they write the same bytes.
                self._images[item], self._frames[item] = images[row], frames[row]
                self._made[item] = True
        return images, frames

    def _room(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Allocates canvases and frames; memory that is not yet written to costs nothing."""
        return np.empty((count, *self.shape), np.uint8), np.empty((count, 3, 3), np.float32)

    def _make(self, item: int, canvas: np.ndarray, frame: np.ndarray) -> None:
        try:
            _, frame[:] = canvas_of(self.source, item, self.size, self.framing.method, canvas)
        except DataError as error:
            raise without_bad(error) from None

    def to_device(self, console: Console | None = None) -> None:
        """Presizes all pictures, and moves them from the host's memory to the default device.

        Args:
            console: Where the progress bar is drawn; None means standard error.

        Raises:
            DataError: A picture cannot be read.
        """
        threads = threads_for_batches()
        count = len(self.source)
        images, frames = self._room(count)

        def make(item: int) -> None:
            self._make(item, images[item], frames[item])

        with progress_bar(console) as progress, ThreadPoolExecutor(threads) as pool:
            made = pool.map(make, range(count))
            for _ in progress.track(made, total=count, description="presizing pictures"):
                pass
        self.on_device = jax.device_put((images, frames))

    def shared(self, put: Callable[[jax.Array], jax.Array]) -> Canvases:
        """Returns the same canvases; those that are on the device are moved with `put`."""
        other = copy(self)
        if self.on_device is not None:
            images, frames = self.on_device
            other.on_device = put(images), put(frames)
        return other


def picture_seen(
    source: Source, item: int, side: int, framing: Framing = CROP, size: Size = 1
) -> Float32[np.ndarray, "height width 3"]:
    """Returns an item's picture as a network sees it without augmentation, with values from 0 to 1.

    Args:
        source, item: A source, and the index of the picture in it.
        side: Longer side of the result, in pixels.
        framing, size: The network's framing and input size. Of the size, only the aspect ratio
            matters.

    Raises:
        DataError: The picture cannot be read.
    """
    sides = height_and_width(size)
    shape = tuple(max(1, side * length // max(sides)) for length in sides)
    canvas, frame = canvas_of(source, item, side, framing.method)
    batch = without_labels(canvas[None], frame[None], framing)
    return np.asarray(jax.jit(center, static_argnums=1)(batch, shape))[0]


def whole_picture(source: Source, item: int, side: int) -> Image.Image:
    """Returns an item's picture uncropped, shrunk to `side` if it is larger.

    Args:
        source, item: A source, and the index of the picture in it.
        side: Maximum length of the result's longer side, in pixels.

    Raises:
        DataError: The picture cannot be read.
    """
    name = item_name(source, item)
    image = Image.fromarray(read_picture(source.read(item), name, side, source.reading))
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image


def check_presize(source: Source, presize: int, method: str = "crop") -> None:
    """Checks that packed pictures have all the pixels that `presize` and `method` need.

    A source that is not packed passes the check.

    Raises:
        ConfigError: The pictures were packed with a short side of fewer than `presize` pixels, or
            were cropped although `method` does not allow that.
    """
    if method != "crop" and source.cut:
        raise ConfigError(
            f"method = {method}: the pictures were packed for method = crop, which cuts "
            "off the ends of long pictures; "
            f"choose --data.method crop, or pack them again with --data.method {method}"
        )
    if source.presized is not None and presize > source.presized:
        raise ConfigError(
            f"presize = {presize}: the pictures were packed at {source.presized}; choose "
            f"--data.presize {source.presized} or less, or pack them again"
        )


def choose_cache(
    cache: str,
    count: int,
    size: int,
    free_memory: Callable[[], int],
    free_on_device: Callable[[], int | None],
    method: str = "crop",
) -> tuple[str, str]:
    """Decides where presized pictures are kept between epochs, and says why in a few words.

    Args:
        cache: "off", "memory", "device", or "auto", which chooses "device" if the set fits in a
            quarter of the accelerator's free memory and in half of the host's, through which it
            passes; else "memory" if it fits in a quarter of the host's free memory; else "off".
        count: Number of pictures.
        size: Short side of the canvas, in pixels.
        free_memory: Function that returns this process's share of the host's free memory, in bytes,
            or of what a container's or a job's limit leaves of it.
        free_on_device: Function that returns the free memory of the accelerator, in bytes, or None
            if there is no accelerator or its free memory is not known.
        method: How the network will frame the pictures, which decides the canvas's shape.

    Raises:
        ConfigError: `cache` is none of the four values.

    Example:
        >>> choose_cache("auto", 1000, 40, lambda: 10**9, lambda: None)
        ('memory', '0.01 of 1.00 GB of free memory')
    """
    if cache not in ("auto", "off", "memory", "device"):
        raise ConfigError(f"cache = {cache}: should be auto, off, memory or device")
    if cache != "auto":
        return cache, "as configured"
    need, on_device = count * int(np.prod(canvas_shape(size, method))), free_on_device()
    free = free_memory()
    # All pictures are in the host's memory before they are moved to the device.
    if on_device is not None and need <= on_device / 4 and need <= free / 2:
        return "device", f"{need / 1e9:.2f} of {on_device / 1e9:.2f} GB free on the device"
    reason = f"{need / 1e9:.2f} of {free / 1e9:.2f} GB of free memory"
    return ("memory" if need <= free / 4 else "off"), reason


def free_on_device() -> int | None:
    """Returns the default device's free memory in bytes; None on a CPU, or if it is not known."""
    statistics = jax.local_devices()[0].memory_stats()
    if jax.default_backend() == "cpu" or not statistics or "bytes_limit" not in statistics:
        return None
    return statistics["bytes_limit"] - statistics["bytes_in_use"]
