"""Defines metrics: pure functions of the probabilities and labels of all items.

Those defined here are shares, or NaN if there are no items or if a probability is not finite.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Self, TypeGuard

import numpy as np
from jaxtyping import Float, Int

from jaxch5.errors import ConfigError
from jaxch5.util.imports import FORM, is_import_path, load_function
from jaxch5.util.text import NO_NUMBER, name_of

Probabilities = Float[np.ndarray, "items classes"]
Labels = Int[np.ndarray, "items"]
Metric = Callable[[Probabilities, Labels], float]
# The numbers of an epoch, keyed by their names, and the name of the epoch's phase.
Record = dict[str, Any]

# Number of times that a learner had been given data whose scores cannot be compared with those of
# its earlier data, such as other validation pictures. Records lack this field if the number is 0.
CHANGES = "data_changes"
# The losses that every record has, and all fields of records that are not metrics.
LOSSES = ("train_loss", "valid_loss")
SPEED = ("seconds", "images_per_second")
FIELDS = (*LOSSES, "epoch", "phase", *SPEED, "skipped_steps", "unanswered", CHANGES)
TOP = r"top_([1-9][0-9]*)"  # Names of what `top_k` computes.


def is_number(value: Any) -> TypeGuard[float]:
    """Checks whether a record's value is a finite number; in JSON, other numbers are null.

    Example:
        >>> [is_number(value) for value in (0.5, float("nan"), None)]
        [True, False, False]
    """
    return isinstance(value, (int, float)) and math.isfinite(value)


class _Best(NamedTuple):
    metric: str = "accuracy"
    direction: str = "highest"


class Best(_Best):
    """Decides which epoch is best, for comparing and reporting runs and for keeping weights.

    The best record has the best value of a metric; ties are broken by the lowest validation loss,
    then in favour of the later epoch, whose rate is usually lower. A value that is not a number is
    worse than any number.

    Attributes:
        metric: Name of the metric in the records.
        direction: "highest" or "lowest", whichever is better; if it is left out, "lowest" for
            losses and "error_rate", and "highest" for all others.

    Raises:
        ConfigError: The direction is another word.

    Example:
        >>> Best().of([{"accuracy": 0.9, "valid_loss": loss} for loss in (0.3, 0.2, 0.4)])
        1
        >>> Best().of([{"accuracy": accuracy} for accuracy in (0.8, 0.9, float("nan"), 0.9)])
        3
        >>> Best("valid_loss").of([{"valid_loss": loss} for loss in (0.3, 0.2, 0.4)])
        1
    """

    __slots__ = ()

    def __new__(cls, metric: str = "accuracy", direction: str | None = None) -> Self:
        """Creates the rule; `Best._make` takes the fields of a rule as they were recorded."""
        falls = metric in (*LOSSES, "error_rate")
        direction = ("lowest" if falls else "highest") if direction is None else direction
        if direction not in ("highest", "lowest"):
            raise ConfigError(f"direction = {direction}: should be highest or lowest")
        return super().__new__(cls, metric, direction)

    def rank(self, record: Mapping[str, Any]) -> tuple[float, float, float]:
        """Returns the rank of a record; the greatest is the best.

        A record of later data ranks above all records of earlier data; see `CHANGES`.
        """
        value, loss = (record.get(name) for name in (self.metric, "valid_loss"))
        sign = -1 if self.direction == "lowest" else 1
        return (
            record.get(CHANGES, 0),
            sign * value if is_number(value) else -math.inf,
            -loss if is_number(loss) else -math.inf,
        )

    def of(self, records: Sequence[Mapping[str, Any]]) -> int | None:
        """Finds the index of the best record; None if no record has a number for the metric.

        Args:
            records: Records of epochs, in their order.
        """
        known = [n for n, record in enumerate(records) if is_number(record.get(self.metric))]
        return max(known, key=lambda n: (self.rank(records[n]), n), default=None)

    def shown(self, record: Mapping[str, Any]) -> str:
        """Formats a record's value of the metric: a share as a percentage, others to four decimals.

        Example:
            >>> Best().shown({"accuracy": 0.5}), Best("valid_loss").shown({"valid_loss": 0.5})
            ('50.00 %', '0.5000')
        """
        value = record.get(self.metric)
        if not is_number(value):
            return NO_NUMBER
        return f"{100 * value:.2f} %" if self.is_share else f"{value:.4f}"

    @property
    def is_share(self) -> bool:
        """Checks whether the values are shares; a metric of your own may have any values."""
        return self.metric in (*METRICS, top_k.__name__) or bool(re.fullmatch(TOP, self.metric))


def best_by(name: str) -> Best:
    """Returns the rule for comparing epochs by one of their recorded numbers.

    Example:
        >>> best_by("error_rate").direction, best_by("f1").direction
        ('lowest', 'highest')
    """
    return Best(name)


def decide(probabilities: Probabilities, threshold: float = 0.0) -> Int[np.ndarray, "items"]:
    """Returns the most probable class of each item; if several are equally probable, the first.

    Args:
        probabilities: Probability of each class.
        threshold: Minimum probability of an answer; if no class reaches it, the answer is the
            number of classes, which stands for "none of these".

    Example:
        >>> decide(np.array([[0.7, 0.1], [0.3, 0.4]]), threshold=0.5)
        array([0, 2])
    """
    probabilities = np.asarray(probabilities)
    best = np.argmax(probabilities, axis=1)
    if not threshold:
        return best
    # Compared in float64, so that a float32 value and its float64 copy give the same answer.
    sure = probabilities.max(axis=1).astype(np.float64) >= threshold
    return np.where(sure, best, probabilities.shape[1])


def accuracy(probabilities: Probabilities, labels: Labels, threshold: float = 0.0) -> float:
    """Returns the share of items whose answer is their label; see `decide`.

    Args:
        probabilities: Probability of each class.
        labels: Class numbers.
        threshold: Minimum probability of an answer, as in `decide`; all of `METRICS` take it.

    Example:
        >>> accuracy(np.array([[0.7, 0.3], [0.6, 0.4]]), np.array([0, 1]))
        0.5
    """
    if not _are_numbers(probabilities):
        return math.nan
    return float(np.mean(decide(probabilities, threshold) == labels))


def error_rate(probabilities: Probabilities, labels: Labels, threshold: float = 0.0) -> float:
    """Returns the share of items whose answer is not their label, 1 - `accuracy`.

    Example:
        >>> error_rate(np.array([[0.7, 0.3], [0.6, 0.4]]), np.array([0, 1]))
        0.5
    """
    return 1.0 - accuracy(probabilities, labels, threshold)


def wilson_interval(hits: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """Returns the confidence interval of a share that is estimated from a sample (Wilson, 1927).

    Args:
        hits, total: Number of items that count towards the share, and number of all items, which
            is at least 1.
        z: Half-width, in standard deviations of a normal distribution; the default gives 95 %.

    Example:
        >>> [round(end, 3) for end in wilson_interval(356, 359)]
        [0.976, 0.997]
    """
    share, squared = hits / total, z * z / total
    middle = (share + squared / 2) / (1 + squared)
    half = z * math.sqrt(share * (1 - share) / total + squared / total / 4) / (1 + squared)
    return middle - half, middle + half


def top_k(probabilities: Probabilities, labels: Labels, k: int) -> float:
    """Returns the share of items whose label is among the `k` most probable classes.

    Equally probable classes keep their order, so that `k` = 1 gives `accuracy`.

    Example:
        >>> top_k(np.array([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2]]), np.array([1, 2]), k=2)
        0.5
    """
    if not _are_numbers(probabilities):
        return math.nan
    probabilities = np.asarray(probabilities)
    order = np.argsort(-probabilities, axis=1, kind="stable")
    return float(np.mean((order[:, :k] == np.asarray(labels)[:, None]).any(axis=1)))


def precision(probabilities: Probabilities, labels: Labels, threshold: float = 0.0) -> float:
    """Returns the classes' mean precision, the share of a class's predictions that are right.

    As in scikit-learn by default, and in `Interpretation.classification_report`, the mean is over
    the classes that have items or are predicted; a class that is never predicted counts as 0.

    Example:
        >>> precision(np.array([[0.7, 0.3], [0.6, 0.4]]), np.array([0, 1]))
        0.25
    """
    return _macro("precision", probabilities, labels, threshold)


def recall(probabilities: Probabilities, labels: Labels, threshold: float = 0.0) -> float:
    """Returns the classes' mean recall, the share of a class's items that are found.

    The mean is over the same classes as in `precision`.

    Example:
        >>> recall(np.array([[0.7, 0.3], [0.6, 0.4]]), np.array([0, 1]))
        0.5
    """
    return _macro("recall", probabilities, labels, threshold)


def balanced_accuracy(
    probabilities: Probabilities, labels: Labels, threshold: float = 0.0
) -> float:
    """Averages recall over the classes that have items.

    A rare class counts as much as any other (Brodersen et al., 2010), as in scikit-learn.

    Example:
        >>> balanced_accuracy(np.array([[0.7, 0.3], [0.6, 0.4], [0.9, 0.1]]), np.array([0, 1, 0]))
        0.5
    """
    if not _are_numbers(probabilities):
        return math.nan
    # This does without scikit-learn, which is slow to import (see `_macro`), because runs with
    # classes of unequal sizes record this metric by default.
    right, count = decide(probabilities, threshold) == labels, np.bincount(labels)
    return float(np.mean(np.bincount(labels, right)[count > 0] / count[count > 0]))


def f1(probabilities: Probabilities, labels: Labels, threshold: float = 0.0) -> float:
    """Returns the classes' mean F1, the harmonic mean of precision and recall; see `precision`.

    Example:
        >>> round(f1(np.array([[0.7, 0.3], [0.6, 0.4]]), np.array([0, 1])), 4)
        0.3333
    """
    return _macro("f1", probabilities, labels, threshold)


def _macro(score: str, probabilities: Probabilities, labels: Labels, threshold: float) -> float:
    # Importing scikit-learn takes two seconds, which a run without these metrics saves.
    from sklearn import metrics

    if not _are_numbers(probabilities):
        return math.nan
    predictions = decide(probabilities, threshold)
    function = getattr(metrics, f"{score}_score")
    # "None of these" is an answer, but not a class that could be found.
    there = np.setdiff1d(np.union1d(labels, predictions), [probabilities.shape[1]])
    score_of_all = function(labels, predictions, labels=there, average="macro", zero_division=0.0)
    return float(score_of_all)


def _are_numbers(probabilities: Probabilities) -> bool:
    """Checks whether there are items, all with finite probabilities; if not, there is no score."""
    return len(probabilities) > 0 and bool(np.isfinite(probabilities).all())


# Metrics that score answers; each takes the threshold of `decide` as its third argument.
METRICS: dict[str, Callable[..., float]] = {
    "accuracy": accuracy,
    "error_rate": error_rate,
    "precision": precision,
    "recall": recall,
    "balanced_accuracy": balanced_accuracy,
    "f1": f1,
}


def metric_of(metric: str | Metric, threshold: float = 0.0) -> tuple[str, Metric]:
    """Returns a metric's name and function.

    Args:
        metric: A name in `METRICS`; "top_3" for `top_k` with `k` = 3, and so on; or a function of
            probabilities and labels, or its import path. A function keeps its own name.
        threshold: Minimum probability of an answer, for metrics in `METRICS`.

    Raises:
        ConfigError: There is no such metric, or it cannot be imported.

    Example:
        >>> name, function = metric_of("top_2")
        >>> name, function(np.array([[0.5, 0.3, 0.2]]), np.array([1]))
        ('top_2', 1.0)
    """
    if isinstance(metric, str) and is_import_path(metric):
        metric = load_function(metric, "fit.metrics")
    if callable(metric):
        return name_of(metric), metric
    if metric in METRICS:
        function = METRICS[metric]
        return metric, partial(function, threshold=threshold) if threshold else function
    top = re.fullmatch(TOP, str(metric))
    if top:
        return metric, partial(top_k, k=int(top[1]))
    raise ConfigError(
        f"fit.metrics = {metric}: should be one of {', '.join(METRICS)}, top_K as in top_5, or a "
        f"function of probabilities and labels or its import path, {FORM}"
    )
