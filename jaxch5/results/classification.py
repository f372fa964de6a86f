"""Computes the classification report: precision, recall and F1 of each class and overall."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from jaxch5.errors import ConfigError
from jaxch5.metrics import Labels, Probabilities
from jaxch5.util.text import NO_NUMBER, printable

# The rounding error that probabilities may have: the spacing of bfloat16 numbers just below 1.
ROUNDING = 0.004


@dataclass(frozen=True)
class Scores:
    """Holds a line of a report: scores from 0 to 1, and `support`, the number of items.

    The scores are None if a class has no items and is never predicted.
    """

    name: str
    precision: float | None
    recall: float | None
    f1: float | None
    support: int

    @property
    def cells(self) -> list[str]:
        """Returns the scores as text."""
        scores = (self.precision, self.recall, self.f1)
        return [NO_NUMBER if score is None else f"{score:.4f}" for score in scores]


@dataclass(frozen=True)
class Report:
    """Holds the scores of each class and overall; prints as a table, and works with `asdict`.

    Attributes:
        classes: A line for each class.
        accuracy: Share of items that are predicted correctly.
        macro: Mean scores over the classes that have items or are predicted.
        weighted: Mean scores over classes, weighted by their support.
    """

    classes: tuple[Scores, ...]
    accuracy: float
    macro: Scores
    weighted: Scores

    @property
    def absent(self) -> tuple[str, ...]:
        """Returns the names of the classes that have no items."""
        return tuple(line.name for line in self.classes if not line.support)

    def __str__(self) -> str:
        lines = (*self.classes, self.macro, self.weighted)
        # A line break in the name of a class would break the table.
        names = [printable(" ".join(line.name.split())) for line in lines]
        width = max(map(len, names))

        def row(name: str, *cells: object) -> str:
            precision, recall, f1, support = cells
            return f"{name:<{width}}  {precision:>9}  {recall:>6}  {f1:>6}  {support:>7}"

        named = zip(names, lines, strict=True)
        rows = [row(name, *line.cells, line.support) for name, line in named]
        head = row("", "precision", "recall", "f1", "support")
        total = row("accuracy", "", "", f"{self.accuracy:.4f}", self.macro.support)
        return "\n".join([head, *rows[:-2], "", total, *rows[-2:]])


def classification_report(
    targets: Int[np.ndarray, "items"],
    predictions: Int[np.ndarray, "items"],
    classes: Sequence[str],
) -> Report:
    """Computes precision, recall and F1, as scikit-learn does by default.

    Precision is 0 for a class that is never predicted, and recall is 0 for a class without items.
    A class with neither predictions nor items has no scores, and the means leave it out.

    Args:
        targets, predictions: Actual and predicted class of each item, as indices into `classes`; a
            prediction beyond the last class stands for "none of these", and is wrong.
        classes: Names of the classes; two classes may have the same name.

    Example:
        >>> targets, predictions = np.array([0, 1, 1]), np.array([0, 0, 1])
        >>> classification_report(targets, predictions, ["cat", "dog", "emu"]).absent
        ('emu',)
        >>> print(classification_report(targets, predictions, ["cat", "dog"]))
                      precision  recall      f1  support
        cat              0.5000  1.0000  0.6667        1
        dog              1.0000  0.5000  0.6667        2
        <BLANKLINE>
        accuracy                         0.6667        3
        macro avg        0.7500  0.7500  0.6667        3
        weighted avg     0.8333  0.6667  0.6667        3
    """
    from sklearn.metrics import precision_recall_fscore_support

    there = np.union1d(targets, predictions)
    there = there[there < len(classes)]
    *scores, support = precision_recall_fscore_support(
        targets, predictions, labels=there, zero_division=0.0
    )
    table = np.transpose(scores)
    rows: dict[int, list[Any]] = {
        number: [*row, count]
        for number, row, count in zip(there.tolist(), table.tolist(), support.tolist(), strict=True)
    }
    nothing = [None, None, None, 0]
    macro = [*table.mean(axis=0).tolist(), len(targets)]
    weighted = [*(support @ table / support.sum()).tolist(), len(targets)]
    return Report(
        tuple(Scores(name, *rows.get(place, nothing)) for place, name in enumerate(classes)),
        accuracy=float(np.mean(predictions == targets)),
        macro=Scores("macro avg", *macro),
        weighted=Scores("weighted avg", *weighted),
    )


def check_probabilities(
    targets: Labels,
    probabilities: Probabilities,
    classes: int,
    references: Sequence[str] | None = None,
) -> None:
    """Checks that targets, probabilities and references fit together and are valid.

    Raises:
        ConfigError: They do not fit together, or are not valid.
    """
    if targets.ndim != 1 or len(targets) == 0:
        raise ConfigError(
            f"targets should be one class for each item, but have the shape {targets.shape}"
        )
    if not np.issubdtype(targets.dtype, np.integer):
        raise ConfigError(f"targets should be whole numbers, but are {targets.dtype}")
    if probabilities.shape != (len(targets), classes):
        raise ConfigError(
            f"probabilities have the shape {probabilities.shape}, but there are {len(targets)} "
            f"targets and {classes} classes"
        )
    if targets.min() < 0 or targets.max() >= classes:
        raise ConfigError(
            f"targets run from {targets.min()} to {targets.max()}, but there are {classes} classes"
        )
    if unknown := int(np.isnan(probabilities).any(axis=1).sum()):
        raise ConfigError(
            f"probabilities are not finite for {unknown} of the items; the network was trained at "
            "too high a rate, or has damaged weights"
        )
    if not np.all((probabilities >= -ROUNDING) & (probabilities <= 1 + ROUNDING)):
        raise ConfigError(
            "probabilities should be from 0 to 1; if these are logits, apply a softmax to them"
        )
    if references is not None and len(references) != len(targets):
        raise ConfigError(
            f"there should be as many references as targets, {len(targets)}, but there are "
            f"{len(references)}"
        )
