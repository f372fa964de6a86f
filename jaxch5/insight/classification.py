"""The classification report: precision, recall and F1 of each class and over all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from jaxch5.text import NO_NUMBER, printable


@dataclass(frozen=True)
class Scores:
    """A line of a report; `support` is the number of items, the scores are fractions of 1.

    The scores are None where a class has no items and is never predicted.
    """

    name: str
    precision: float | None
    recall: float | None
    f1: float | None
    support: int

    @property
    def cells(self) -> list[str]:
        """The scores as text."""
        scores = (self.precision, self.recall, self.f1)
        return [NO_NUMBER if score is None else f"{score:.4f}" for score in scores]


@dataclass(frozen=True)
class Report:
    """Scores of each class and over all; as text, a table; `dataclasses.asdict` goes into JSON.

    Attributes:
        classes: a line for each class.
        accuracy: share of right items.
        macro: the mean over the classes that have items or are predicted.
        weighted: the mean over classes, weighted by their support.
    """

    classes: tuple[Scores, ...]
    accuracy: float
    macro: Scores
    weighted: Scores

    @property
    def absent(self) -> tuple[str, ...]:
        """Names of the classes that have no items."""
        return tuple(line.name for line in self.classes if not line.support)

    def __str__(self) -> str:
        # A line end in a class's name would break the table.
        names = {line: printable(" ".join(line.name.split())) for line in self.classes}
        names |= {self.macro: self.macro.name, self.weighted: self.weighted.name}
        width = max(map(len, names.values()))
        classes, means = (
            [
                f"{names[line]:<{width}}  {precision:>9}  {recall:>6}  {f1:>6}  {line.support:>7}"
                for line in lines
                for precision, recall, f1 in [line.cells]
            ]
            for lines in (self.classes, (self.macro, self.weighted))
        )
        head = f"{'':<{width}}  precision  recall      f1  support"
        total = f"{'accuracy':<{width}}  {self.accuracy:>25.4f}  {self.macro.support:>7}"
        return "\n".join([head, *classes, "", total, *means])


def classification_report(
    targets: Int[np.ndarray, "items"],
    predictions: Int[np.ndarray, "items"],
    classes: Sequence[str],
) -> Report:
    """Computes precision, recall and F1, as scikit-learn has them by default.

    Precision is 0 where a class is never predicted, recall where it has no items. A class of
    neither has no scores, and the means leave it out.

    Args:
        targets, predictions: actual and predicted class of each item, places in `classes`; a
            prediction beyond them is of none of them, and is wrong.
        classes: names; two may be the same.

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

    def scores(average: str | None) -> list[np.ndarray]:
        values = precision_recall_fscore_support(
            targets, predictions, labels=there, average=average, zero_division=0.0
        )
        return list(values)

    def mean(name: str, average: str) -> Scores:
        precision, recall, f1 = map(float, scores(average)[:3])
        return Scores(name, precision, recall, f1, len(targets))

    by_class = zip(*(values.tolist() for values in scores(None)), strict=True)
    rows = dict(zip(there.tolist(), by_class, strict=True))
    nothing = (None, None, None, 0)
    return Report(
        classes=tuple(
            Scores(name, *rows.get(number, nothing)) for number, name in enumerate(classes)
        ),
        accuracy=float(np.mean(predictions == targets)),
        macro=mean("macro avg", "macro"),
        weighted=mean("weighted avg", "weighted"),
    )
