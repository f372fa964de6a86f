"""Schedules of rates: functions from a step to a value, computed on the host in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[int], float]


def cosine_interpolation(start: float, end: float, position: float) -> float:
    """Value at `position` (0 to 1) on a half cosine wave from `start` to `end`.

    Example:
        >>> cosine_interpolation(0.0, 1.0, 0.5)
        0.5
    """
    return start + (1.0 + math.cos(math.pi * (1.0 - position))) * (end - start) / 2.0


def one_cycle(
    lr_max: float,
    steps: int,
    pct_start: float = 0.25,
    div: float = 25.0,
    div_final: float = 1e5,
) -> Schedule:
    """One-cycle learning rate: warm up to `lr_max`, then anneal to almost nothing.

    Both parts are half cosine waves. Source: Smith and Topin, 1708.07120; the shape is that of
    fastai's `fit_one_cycle`.

    Args:
        lr_max: the highest rate.
        steps: number of training steps of the whole cycle.
        pct_start: share of the steps, 0 to 1, that warms up.
        div: the first rate is `lr_max / div`.
        div_final: the rate after the last step is `lr_max / div_final`.

    Example:
        >>> rate = one_cycle(3e-3, steps=40)
        >>> [round(rate(step), 6) for step in (0, 10, 39)]
        [0.00012, 0.003, 8e-06]
    """
    return _two_waves((lr_max / div, lr_max, lr_max / div_final), steps, pct_start)


def one_cycle_momentum(
    steps: int,
    pct_start: float = 0.25,
    moms: tuple[float, float, float] = (0.95, 0.85, 0.95),
) -> Schedule:
    """Momentum that falls while the one-cycle rate rises, and the other way round.

    Args:
        steps: number of training steps of the whole cycle.
        pct_start: share of the steps, 0 to 1, in which the rate warms up.
        moms: momentum at the start, at the highest rate, and at the end.

    Example:
        >>> momentum = one_cycle_momentum(steps=40)
        >>> [round(momentum(step), 4) for step in (0, 10, 25)]
        [0.95, 0.85, 0.9]
    """
    return _two_waves(moms, steps, pct_start)


def _two_waves(values: tuple[float, float, float], steps: int, pct_start: float) -> Schedule:
    start, middle, end = values

    def value(step: int) -> float:
        position = step / steps
        if position < pct_start:
            return cosine_interpolation(start, middle, position / pct_start)
        return cosine_interpolation(middle, end, (position - pct_start) / (1.0 - pct_start))

    return value
