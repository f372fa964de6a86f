"""Measures whether a classifier is right as often as it claims, and suggests a threshold."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxch5.errors import ConfigError

# At a suggested threshold, at least this share of the pictures of known classes gets an answer.
ANSWERED = 0.95


@dataclass(frozen=True, eq=False)
class Calibration:
    """Holds the confidence and accuracy of predictions, in bins of confidence of equal width.

    Attributes:
        confidence: Mean probability of the predictions in each bin; NaN in a bin without any.
        accuracy: Share of the predictions in each bin that are right; NaN in a bin without any.
        count: Number of predictions in each bin.
    """

    confidence: Float[np.ndarray, "bins"]
    accuracy: Float[np.ndarray, "bins"]
    count: Int[np.ndarray, "bins"]

    @property
    def expected_error(self) -> float:
        """Returns the mean gap between confidence and accuracy, weighted by `count` (1706.04599).

        It is NaN if there are no predictions.
        """
        if not self.count.any():
            return math.nan
        distance = np.abs(self.confidence - self.accuracy)
        return float(np.nansum(distance * self.count) / self.count.sum())


def calibrate(
    confidences: Float[np.ndarray, "items"], right: Bool[np.ndarray, "items"], bins: int = 10
) -> Calibration:
    """Computes the mean confidence and the accuracy of predictions, binned by their confidence.

    Args:
        confidences: Probability of each item's prediction; a probability on the edge between two
            bins falls into the lower bin.
        right: Whether each prediction is right.
        bins: Number of bins.

    Raises:
        ConfigError: `bins` is less than 1.

    Example:
        >>> calibrate(np.array([0.6, 0.8]), np.array([True, False]), bins=2).accuracy
        array([nan, 0.5])
    """
    if bins < 1:
        raise ConfigError(f"bins = {bins}: should be 1 or more")
    place = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidences)
    count = np.bincount(place, minlength=bins)
    filled = np.where(count > 0, count, np.nan)
    return Calibration(
        confidence=np.bincount(place, confidences, minlength=bins) / filled,
        accuracy=np.bincount(place, right, minlength=bins) / filled,
        count=count,
    )


class Selection(NamedTuple):
    """Holds the share of items answered at each threshold, and the error rate (1705.08500).

    Attributes:
        threshold: Thresholds, the highest first; at each one, more items are answered than at the
            one before.
        answered: Share of the items that are answered at each threshold.
        error: Error rate of the answers that are given at each threshold.
    """

    threshold: Float[np.ndarray, "thresholds"]
    answered: Float[np.ndarray, "thresholds"]
    error: Float[np.ndarray, "thresholds"]

    def at(self, threshold: float) -> tuple[float, float]:
        """Returns the share of items answered at a threshold, and the error rate of the answers.

        If nothing is answered, both are 0.
        """
        place = np.searchsorted(-self.threshold, -threshold, side="right") - 1
        return (0.0, 0.0) if place < 0 else (float(self.answered[place]), float(self.error[place]))

    def suggested(self, share: float = ANSWERED) -> float:
        """Returns the highest threshold at which enough items are answered.

        The threshold is rounded down to six decimals.

        Args:
            share: Smallest share of the items that has to be answered, from 0 to 1.

        Example:
            >>> select(np.array([0.9, 0.6, 0.7]), np.array([True, False, True])).suggested(0.6)
            0.7
        """
        exact = self.threshold[np.argmax(self.answered >= share)]
        return math.floor(1e6 * exact) / 1e6


def select(confidences: Float[np.ndarray, "items"], right: Bool[np.ndarray, "items"]) -> Selection:
    """Computes the share of items answered at each threshold, and the error rate of the answers.

    Args:
        confidences: Probability of each item's most probable class.
        right: Whether that class is the actual one.

    Example:
        >>> selection = select(np.array([0.9, 0.6, 0.7]), np.array([True, False, True]))
        >>> selection.answered.round(2).tolist(), selection.error.round(2).tolist()
        ([0.33, 0.67, 1.0], [0.0, 0.0, 0.33])
    """
    order = np.argsort(-confidences, kind="stable")
    threshold, wrong = confidences[order], np.cumsum(~right[order])
    count = np.arange(1, len(order) + 1)
    # Items of the same confidence are answered together.
    last = np.append(threshold[1:] != threshold[:-1], True)
    return Selection(threshold[last], (count / len(order))[last], (wrong / count)[last])
