"""An `Interpretation` of a source's items, which knows their files and can show their pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import numpy as np
from jaxtyping import Float, Int

from jaxch5.augmentation.policy import center
from jaxch5.batch import without_labels
from jaxch5.data.source import Source, canvas_of
from jaxch5.insight.interpret import Interpretation
from jaxch5.task import SOFTMAX, Task

if TYPE_CHECKING:
    from jaxch5.insight.figure import Figure

# Of the pictures that are shown, pixels.
SIDE = 192


def interpretation_of(
    source: Source,
    items: Int[np.ndarray, "items"],
    probabilities: Float[np.ndarray, "items classes"],
    labels: Int[np.ndarray, "items"],
    task: Task = SOFTMAX,
) -> Interpretation:
    """What a model made of some items.

    Args:
        source: where they are from.
        items: their numbers in it.
        probabilities: what the model gave to each class.
        labels: their classes.
        task: what makes an answer of probabilities.
    """

    def name(item: int) -> str:
        return str(source.file(item)) if source.file else source.references[item]

    def picture(place: int) -> Float[np.ndarray, "height width 3"]:
        return square(source, int(items[place]))

    references = [name(int(item)) for item in items]
    return Interpretation(labels, probabilities, source.classes, references, picture, task)


def square(source: Source, item: int) -> Float[np.ndarray, "side side 3"]:
    """The middle of a picture, as the network sees it in validation.

    Raises:
        DataError: it cannot be read.
    """
    canvas, frame = canvas_of(source, item, SIDE)
    batch = without_labels(canvas[None], frame[None])
    return np.asarray(jax.jit(center, static_argnums=1)(batch, SIDE))[0]


def plot_results(interp: Interpretation, nrows: int, ncols: int) -> Figure:
    """A figure of the first items, each with its prediction and its class.

    Args:
        interp: what `interpretation_of` returns.
        nrows, ncols: of the grid.

    Raises:
        DataError: a picture cannot be read.
    """
    from jaxch5.insight.plots import plot_pictures

    assert interp.pictures is not None
    items = range(min(nrows * ncols, len(interp)))
    titles = [
        f"{interp.answers[interp.predictions[item]]} / {interp.classes[interp.targets[item]]}"
        for item in items
    ]
    pictures = np.stack([interp.pictures(item) for item in items])
    return plot_pictures(pictures, titles, nrows, ncols)
