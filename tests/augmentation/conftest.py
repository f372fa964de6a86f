"""Provides pictures on canvases, built without the input pipeline."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxch5.batch import Batch
from jaxch5.util.libraries import variable


@pytest.fixture(scope="session")
def photographs():
    """Six pictures whose short side is 64: photographs if JAXCH5_FLOWERS is set, else noise."""
    folder = variable("JAXCH5_FLOWERS")
    if folder:
        files = sorted(Path(folder).glob("train/*/*.jpg"))[::90][:6]
        pictures = [Image.open(file).convert("RGB") for file in files]
    else:
        noise = np.random.default_rng(0).integers(0, 256, (6, 12, 17, 3), dtype=np.uint8)
        pictures = [Image.fromarray(one).resize((170, 120), Image.BICUBIC) for one in noise]
        pictures[1::3] = [one.rotate(90, expand=True) for one in pictures[1::3]]
    sizes = [(np.array(one.size) * 64 / min(one.size)).round().astype(int) for one in pictures]
    return [np.asarray(one.resize(size)) for one, size in zip(pictures, sizes, strict=True)]


@pytest.fixture(scope="session")
def on_canvas():
    """A function that puts pictures on canvases and returns them as a batch.

    Pictures that are higher than wide are laid on their side. The part of a canvas that its picture
    does not cover is bright magenta, so that it shows if it is sampled.
    """

    def on_canvas(pictures, height, width):
        canvases = np.full((len(pictures), height, width, 3), (255, 0, 255), np.uint8)
        frames = []
        for canvas, picture in zip(canvases, pictures, strict=True):
            upright = picture.shape[0] > picture.shape[1]
            laid = np.rot90(picture) if upright else picture
            laid = laid[:height, :width]
            rows, columns = laid.shape[:2]
            canvas[:rows, :columns] = laid
            first_two = (
                [[0, columns, 0], [-rows, 0, rows]] if upright else [[columns, 0, 0], [0, rows, 0]]
            )
            frames.append([*first_two, [0, 0, 1]])
        index = jnp.arange(len(pictures), dtype=jnp.int32)
        frame = jnp.array(frames, jnp.float32)
        return Batch(jnp.asarray(canvases), frame, index, index, index >= 0)

    return on_canvas
