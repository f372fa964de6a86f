"""Computes where a classifier looks: which parts of a picture support a class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import jax
import numpy as np
from jaxtyping import Array, Float, PyTree, UInt8

from jaxch5.augmentation.center import center
from jaxch5.batch import Batch, without_labels
from jaxch5.data.picture import Picture, presized
from jaxch5.errors import ConfigError
from jaxch5.framing import height_and_width
from jaxch5.models.layers import normalize
from jaxch5.models.maps import Place, class_maps, find_map, in_full
from jaxch5.plots.attribution import overlay, plot_attribution
from jaxch5.plots.embed import as_image
from jaxch5.results.predictor import Predictor
from jaxch5.training.kept import KeptJit
from jaxch5.util.text import percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

MOST_PROBABLE = -1


class Attribution(NamedTuple):
    """Holds where a classifier looks, as `attribution` computes it.

    Attributes:
        map: How much each pixel of the network's input supports the class, from 0 to 1.
        picture: The network's input, with values from 0 to 1.
        label: Name of the class.
        probability: Probability that the classifier gives the class.
    """

    map: Float[np.ndarray, "height width"]
    picture: Float[np.ndarray, "height width 3"]
    label: str
    probability: float

    def overlay(self) -> Image:
        """Returns the map in colours over the picture in grey, at the size of `picture`."""
        return as_image(overlay(self.picture, self.map))

    def plot(self) -> Figure:
        """Draws the picture, and beside it a map of where the classifier looks."""
        title = f"{self.label} {percent(self.probability, 0)}"
        return plot_attribution(self.picture, self.map, title)


class HasPredictor(Protocol):
    """An object from which a predictor can be made, such as a learner."""

    def predictor(self) -> Predictor:
        """Returns the classifier with its current weights."""


def attribution(
    classifier: Predictor | HasPredictor, picture: Picture, label: str | None = None
) -> Attribution:
    """Computes which parts of a picture support a class: Grad-CAM (Selvaraju et al., 1610.02391).

    Grad-CAM adds up the channels of the network's last map (see `find_map`), each multiplied by the
    mean gradient of the class's logit with respect to that channel, and sets negative sums to zero.
    For a vision transformer, the map is made of the last block's tokens, and each value is
    multiplied by its own gradient (HiResCAM, 2011.08891). All of this is computed in float32.

    Args:
        classifier: Predictor or learner.
        picture: Picture, in any form that `Predictor.predict` takes.
        label: Name of the class; None stands for the most probable one.

    Raises:
        ConfigError: There is no such class, or the network has no map.
        DataError: The picture cannot be read.

    Example:
        >>> import flax.linen as nn
        >>> from jaxch5.models.spec import IMAGENET
        >>> from jaxch5.results.about import About
        >>> class Tiny(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x, train):
        ...         return nn.Dense(2, name="head")(nn.relu(nn.Conv(4, (3, 3))(x)).mean((1, 2)))
        >>> picture = np.zeros((8, 12, 3), np.uint8)
        >>> variables = Tiny().init(jax.random.key(0), picture[None] / 255.0, train=False)
        >>> about = About("Tiny", "", "fp32", presize=8, size=8)
        >>> tiny = Predictor(Tiny(), variables, ("cat", "dog"), IMAGENET, about)
        >>> found = attribution(tiny, picture, "dog")
        >>> found.map.shape, found.picture.shape, found.label
        ((8, 8), (8, 8, 3), 'dog')
    """
    predictor = classifier if isinstance(classifier, Predictor) else classifier.predictor()
    if label is not None and label not in predictor.classes:
        raise ConfigError(f"label = {label}: should be one of {', '.join(predictor.classes)}")
    place = MOST_PROBABLE if label is None else predictor.classes.index(label)
    about = predictor.about
    image, frame = presized(picture, about.presize, reading=about.reading, method=about.method)
    return attributions(predictor, image[None], frame[None], [place])[0]


def attributions(
    predictor: Predictor,
    images: UInt8[np.ndarray, "batch height width 3"],
    frames: Float[np.ndarray, "batch 3 3"],
    labels: Sequence[int],
) -> list[Attribution]:
    """Computes the maps of `attribution` for presized pictures, all in one call.

    Args:
        predictor: Classifier.
        images, frames: Canvases and frames of the pictures, as `Canvases` returns them.
        labels: Index of each picture's class; a negative index stands for the most probable class.

    Raises:
        ConfigError: The network has no map.
    """
    batch = without_labels(images, frames, predictor.about.framing)
    found = predictor.program(_compile)(predictor.variables, batch, np.asarray(labels, np.int32))
    return [
        Attribution(one, picture, predictor.classes[label], float(probability[label]))
        for one, picture, label, probability in zip(*jax.device_get(found), strict=True)
    ]


def check_has_map(predictor: Predictor) -> None:
    """Checks that the network has the map that `attribution` needs.

    Raises:
        ConfigError: The network has no map.
    """
    predictor.program(_place_of)


def _place_of(predictor: Predictor) -> Place:
    sides = height_and_width(predictor.about.size)
    return find_map(in_full(predictor.model), predictor.spec, predictor.variables, sides)


def _compile(predictor: Predictor) -> Any:
    about, model, place = predictor.about, in_full(predictor.model), predictor.program(_place_of)
    spec, task, normalization = predictor.spec, predictor.task, predictor.normalization

    def of_batch(variables: PyTree, batch: Batch, labels: Array) -> tuple[Array, ...]:
        pictures = center(batch, about.size, view=about.view)
        normalized = normalize(pictures, normalization)
        maps, logits, places = class_maps(model, spec, place, variables, normalized, labels)
        return maps, pictures, places, task.activation(logits)

    return KeptJit(of_batch, "jaxch5.results.about", __name__)
