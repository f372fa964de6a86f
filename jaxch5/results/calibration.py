"""Calibration: whether a classifier is right as often as it says."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxch5.errors import ConfigError


@dataclass(frozen=True, eq=False)
class Calibration:
    """Confidence and accuracy of predictions, in bins of confidence of equal width from 0 to 1.

    Attributes:
        confidence: Mean probability of the predictions in each bin; NaN where there are none.
        accuracy: Share of them that are right; NaN where there are none.
        count: Number of items in each bin.
    """

    confidence: Float[np.ndarray, "bins"]
    accuracy: Float[np.ndarray, "bins"]
    count: Int[np.ndarray, "bins"]

    @property
    def expected_error(self) -> float:
        """Mean distance of confidence and accuracy, weighted by items (Guo et al., 1706.04599).

        It is NaN where there are no items.
        """
        if not self.count.any():
            return math.nan
        distance = np.abs(self.confidence - self.accuracy)
        return float(np.nansum(distance * self.count) / self.count.sum())


def calibrate(
    confidences: Float[np.ndarray, "items"], right: Bool[np.ndarray, "items"], bins: int = 10
) -> Calibration:
    """Takes the mean confidence and accuracy of predictions in bins of confidence.

    Args:
        confidences: Probability of each item's prediction; one on the edge of two bins falls into
            the lower.
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
