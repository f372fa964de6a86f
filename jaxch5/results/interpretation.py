"""Shows a classifier's mistakes as counts, losses, calibration, suspicious labels and pictures."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from jaxch5.data.canvases import picture_seen
from jaxch5.data.source import Source
from jaxch5.errors import ConfigError
from jaxch5.framing import CROP, Framing, Size
from jaxch5.metrics import decide
from jaxch5.plots import mistakes
from jaxch5.results.calibration import Calibration, calibrate
from jaxch5.results.classification import Report, check_probabilities, classification_report
from jaxch5.results.suspects import (
    SUSPECT_LOSS,
    SUSPECT_PROBABILITY,
    Suspect,
    find_suspects,
    write_suspects,
)
from jaxch5.task import SOFTMAX, Task
from jaxch5.util.fastai import NamesFastai
from jaxch5.util.seeds import check_seed
from jaxch5.util.text import names_in_order, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Picture = Float[np.ndarray, "height width 3"]

# Longer side of the pictures that are shown, in pixels.
SIDE = 192


@dataclass(frozen=True, eq=False)
class Interpretation(NamesFastai):
    """Holds a classifier's answers for a set of items, and shows its mistakes.

    Attributes:
        targets: Index of each item's actual class in `classes`.
        probabilities: Probability that the model gives each class, for each item.
        classes: Names of the classes; a class may have no items.
        references: Path of each item, or its name if it is not a file; None if they are unknown.
        pictures: Function from an item's index to its picture, with values from 0 to 1.
        task: Task that turns probabilities into an answer.

    Raises:
        ConfigError: The arguments are invalid, or contradict each other.
        DataError: `classes` is a set, a mapping or the like, which has no order of its own.

    Example:
        >>> probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])
        >>> interp = Interpretation([0, 1, 1], probabilities, ["cat", "dog"])
        >>> interp.most_confused()
        [('dog', 'cat', 1)]
    """

    targets: Int[np.ndarray, "items"]
    probabilities: Float[np.ndarray, "items classes"]
    classes: Sequence[str]
    references: Sequence[str] | None = None
    pictures: Callable[[int], Picture] | None = None
    task: Task = SOFTMAX

    def __post_init__(self) -> None:
        targets, probabilities = np.asarray(self.targets), np.asarray(self.probabilities, float)
        classes = tuple(map(str, names_in_order(self.classes)))
        check_probabilities(targets, probabilities, len(classes), self.references)
        vars(self).update(targets=targets.astype(int), probabilities=probabilities, classes=classes)

    def __len__(self) -> int:
        return len(self.targets)

    def __repr__(self) -> str:
        right, pair = percent((self.predictions == self.targets).mean()), self.most_confused()[:1]
        most = "".join(f"; most confused: {a} taken for {b}, {n:,} times" for a, b, n in pair)
        return f"<{len(self):,} items of {len(self.classes):,} classes, {right} right{most}>"

    @cached_property
    def predictions(self) -> Int[np.ndarray, "items"]:
        """Returns each item's answer as an index into `answers`; see `Task.decode`."""
        return self.task.decode(self.probabilities)

    @cached_property
    def answers(self) -> tuple[str, ...]:
        """Returns the answers' names: the classes, then "none of these" if the task has it."""
        return self.task.answers(self.classes)

    @cached_property
    def confidences(self) -> Float[np.ndarray, "items"]:
        """Returns the probability of each item's most probable class."""
        return self.probabilities.max(axis=1)

    @cached_property
    def losses(self) -> Float[np.ndarray, "items"]:
        """Returns the loss of each item, as the task defines it, such as the cross-entropy."""
        return self.task.item_losses(self.probabilities, self.targets)

    def confusion_matrix(self, normalize: bool = False) -> np.ndarray:
        """Counts items by actual class (row) and answer (column); "none of these" is last in both.

        Args:
            normalize: Whether to return shares of the row instead of counts; an empty row is all 0.

        Example:
            >>> Interpretation([0, 1, 1], np.eye(2)[[0, 0, 1]], ["a", "b"]).confusion_matrix()
            array([[1, 0],
                   [1, 1]])
        """
        count = len(self.answers)
        cells = np.bincount(self.targets * count + self.predictions, minlength=count * count)
        matrix = cells.reshape(count, count)
        return matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1) if normalize else matrix

    def most_confused(self, min_val: int = 1) -> list[tuple[str, str, int]]:
        """Lists each kind of mistake as a tuple of actual class, predicted class and count.

        The most frequent comes first; equally frequent ones are in the order of the classes.

        Args:
            min_val: Smallest count that a kind of mistake must have to be listed.

        Example:
            >>> interp = Interpretation([0, 1, 1], np.eye(2)[[1, 0, 0]], ["a", "b"])
            >>> interp.most_confused(min_val=2)
            [('b', 'a', 2)]
        """
        matrix = self.confusion_matrix()
        np.fill_diagonal(matrix, 0)
        rows, columns = np.nonzero(matrix >= max(1, min_val))
        counts = matrix[rows, columns]
        return [
            (self.answers[rows[kind]], self.answers[columns[kind]], int(counts[kind]))
            for kind in np.argsort(-counts, kind="stable")
        ]

    def top_losses(
        self, k: int | None = None, largest: bool = True
    ) -> tuple[Float[np.ndarray, "k"], Int[np.ndarray, "k"]]:
        """Returns the losses and the indices of the items that the model is most wrong about.

        Args:
            k: Maximum number of items to return; None returns all.
            largest: Whether the largest losses come first; False puts the smallest first.

        Raises:
            ConfigError: `k` is negative.

        Example:
            >>> interp = Interpretation([0, 0], np.array([[0.5, 0.5], [0.25, 0.75]]), ["a", "b"])
            >>> losses, items = interp.top_losses(1)
            >>> round(float(losses[0]), 4), int(items[0])
            (1.3863, 1)
        """
        if k is not None and k < 0:
            raise ConfigError(f"k = {k}: should be 0 or more")
        items = np.argsort(-self.losses if largest else self.losses, kind="stable")[:k]
        return self.losses[items], items

    def classification_report(self) -> Report:
        """Computes precision, recall and F1 of each class, and their means over the classes.

        Example:
            >>> interp = Interpretation([0, 1, 1], np.eye(2)[[0, 0, 1]], ["cat", "dog"])
            >>> interp.classification_report().macro.precision
            0.75
        """
        return classification_report(self.targets, self.predictions, self.classes)

    def calibration(self, bins: int = 10) -> Calibration:
        """Measures how often the most probable class is right, binned by its predicted probability.

        Args:
            bins: Number of bins of equal width, from 0 to 1; an edge belongs to the bin below it.

        Raises:
            ConfigError: `bins` is less than 1.

        Example:
            >>> probabilities = np.array([[0.9, 0.1], [0.7, 0.3]])
            >>> Interpretation([0, 1], probabilities, ["a", "b"]).calibration(bins=2).count
            array([0, 2])
        """
        return calibrate(self.confidences, decide(self.probabilities) == self.targets, bins)

    def expected_calibration_error(self, bins: int = 10) -> float:
        """Returns the mean gap between confidence and accuracy, over bins (Guo et al., 1706.04599).

        Args:
            bins: Number of bins; see `calibration`, which raises the same errors.

        Example:
            >>> interp = Interpretation([0, 1], np.array([[0.9, 0.1], [0.7, 0.3]]), ["a", "b"])
            >>> round(interp.expected_calibration_error(bins=2), 4)
            0.3
        """
        return self.calibration(bins).expected_error

    def suspects(
        self, min_loss: float = SUSPECT_LOSS, min_probability: float = SUSPECT_PROBABILITY
    ) -> list[Suspect]:
        """Finds items whose label looks wrong (the model is sure of another class), worst first.

        Args:
            min_loss: Minimum loss; the default is that of a label whose probability is 0.1.
            min_probability: Minimum probability of the prediction.

        Example:
            >>> interp = Interpretation([0, 1], np.array([[0.9, 0.1], [0.95, 0.05]]), ["a", "b"])
            >>> [(suspect.item, suspect.prediction) for suspect in interp.suspects()]
            [(1, 'a')]
        """
        of = self.targets, self.predictions, self.confidences, self.losses, self.classes
        found = find_suspects(*of)
        return [one for one in found if one.loss >= min_loss and one.probability >= min_probability]

    def write_suspects(
        self,
        path: str | os.PathLike[str],
        min_loss: float = SUSPECT_LOSS,
        min_probability: float = SUSPECT_PROBABILITY,
    ) -> int:
        """Writes a CSV table of those `suspects` that are files, and returns their number.

        Its columns are image, label, prediction, probability and loss. It is not a set to train on,
        as it has no other pictures: `jaxch5 clean` writes such a table, with corrected labels.

        Args:
            path: CSV file to write; an existing one is replaced.
            min_loss, min_probability: As in `suspects`.

        Raises:
            ConfigError: There are no `references`.
            DataError: The file cannot be written.

        Example:
            >>> probabilities = np.array([[0.99, 0.01]])
            >>> interp = Interpretation([1], probabilities, ["a", "b"], ["no file.png"])
            >>> interp.write_suspects(os.devnull)
            0
        """
        if self.references is None:
            raise ConfigError("references is None: writing suspects needs the path of each item")
        return write_suspects(path, self.suspects(min_loss, min_probability), self.references)

    def plot_confusion_matrix(self, normalize: bool = False) -> Figure:
        """Draws `confusion_matrix`: right answers in blue, mistakes in orange.

        Args:
            normalize: Whether to show shares of the row instead of counts.

        Example:
            >>> interp = Interpretation([0, 1], np.eye(2), ["cat", "dog"])
            >>> interp.plot_confusion_matrix().axes[0].get_ylabel()
            'actual'
        """
        unit = "share of the actual class" if normalize else "items"
        return mistakes.plot_confusion(self.confusion_matrix(normalize), self.answers, unit)

    def plot_top_losses(self, k: int, largest: bool = True) -> Figure:
        """Draws the pictures of `top_losses`, each with prediction, class, loss and probability.

        Args:
            k: Number of pictures.
            largest: Whether to show the largest losses; False shows the smallest.

        Raises:
            ConfigError: `k` is less than 1, or there are no pictures.
            DataError: A picture cannot be read.

        Example:
            >>> black = lambda item: np.zeros((8, 8, 3))
            >>> interp = Interpretation([0, 1], np.eye(2), ["cat", "dog"], pictures=black)
            >>> len(interp.plot_top_losses(2).axes)
            2
        """
        if k < 1:
            raise ConfigError(f"k = {k}: should be 1 or more")
        losses, items = self.top_losses(k, largest)
        confidences = self.confidences[items].tolist()
        return mistakes.plot_mistakes(*self._shown(items), losses.tolist(), confidences)

    def plot_calibration(self, bins: int = 10) -> Figure:
        """Draws `calibration`, with accuracy plotted against confidence.

        Args:
            bins: Number of bins; see `calibration`, which raises the same errors.

        Example:
            >>> interp = Interpretation([0, 1], np.eye(2), ["cat", "dog"])
            >>> interp.plot_calibration().axes[0].get_ylabel()
            'accuracy, %'
        """
        return mistakes.plot_calibration(self.calibration(bins))

    def plot_results(self, nrows: int, ncols: int, seed: int = 0) -> Figure:
        """Draws some items, each titled with its prediction, and with its class if that differs.

        Args:
            nrows, ncols: Number of rows and number of columns of the grid.
            seed: Seed for choosing the items at random.

        Raises:
            ConfigError: There are no pictures, or the seed is not from 0 to 2**32 - 1.
            DataError: A picture cannot be read.
        """
        items = np.random.default_rng(check_seed(seed)).permutation(len(self))[: nrows * ncols]
        return mistakes.plot_answers(*self._shown(items), nrows, ncols)

    def _shown(self, items: Int[np.ndarray, "k"]) -> tuple[list[Picture], list[str], list[str]]:
        if self.pictures is None:
            raise ConfigError("pictures is None: there is nothing to show")
        predicted = [self.answers[number] for number in self.predictions[items]]
        actual = [self.classes[number] for number in self.targets[items]]
        return [self.pictures(int(item)) for item in items], predicted, actual


def interpretation_of(
    source: Source,
    items: Int[np.ndarray, "items"],
    probabilities: Float[np.ndarray, "items classes"],
    labels: Int[np.ndarray, "items"],
    task: Task = SOFTMAX,
    framing: Framing = CROP,
    size: Size = SIDE,
) -> Interpretation:
    """Creates an interpretation of a model's answers for some items.

    Args:
        source, items: Source of the items, and their indices in it.
        probabilities: Probability that the model gives each class, for each item.
        labels: Index of each item's actual class.
        task: Task that turns probabilities into an answer.
        framing, size: Framing and input size of the model, to show pictures as the model sees them.
    """

    def picture(place: int) -> Picture:
        return picture_seen(source, int(items[place]), SIDE, framing, size)

    names = map(source.file or source.references.__getitem__, items.tolist())
    return Interpretation(labels, probabilities, source.classes, [*map(str, names)], picture, task)
