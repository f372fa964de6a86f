"""Suggests learning rates by several rules, from the losses of a sweep over learning rates.

A sweep raises the rate from step to step, evenly on a logarithmic scale. The rules look at the
smoothed losses of the steps between the noisy start and the explosion of the loss at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from jaxch5.errors import ConfigError, TrainingError

Rates = Float[np.ndarray, "steps"]
Losses = Float[np.ndarray, "steps"]

# Number of steps that the rules ignore at the end of a sweep, where the loss explodes, and the
# smallest number of steps that must be left for the rules.
STEPS_LEFT_OUT = 5
FEWEST_STEPS = 8


def valley(lrs: Rates, losses: Losses) -> float:
    """Returns a rate in the middle of the longest valley: the longest run of ever lower losses.

    A run may skip steps at which the loss is not lower. Source: fastai's `valley`.
    """
    length = np.ones(len(losses), int)
    for step in range(1, len(losses)):
        higher = losses[:step] > losses[step]
        if higher.any():
            length[step] = 1 + length[:step][higher].max()
    end = int(np.argmax(length))
    begin = end - int(length[end])
    third = (end - begin) / 3
    # A very short valley at the start would begin one step before it.
    return float(lrs[max(0, begin + int(third) + int(third / 2))])


def slide(lrs: Rates, losses: Losses, width: int = 15, threshold: float = 0.005) -> float:
    """Moves a window to the left while its ends differ in slope; returns the rate at its left end.

    The window begins at the highest rates. The rate returned is that of the last window at whose
    ends the slopes of the loss differ by more than `threshold`; if there is none, it is that of the
    first window. Source: fastai's `slide`.
    """
    slope = np.gradient(losses)
    right = len(losses) - 1
    # A negative index would count from the end, where the rates are the highest.
    left = max(0, right - width)
    chosen = left
    while left >= 0 and abs(slope[right] - slope[left]) > threshold:
        chosen = left
        right, left = right - 1, left - 1
    return float(lrs[chosen])


def minimum(lrs: Rates, losses: Losses) -> float:
    """Returns a tenth of the rate with the lowest loss (fastbook's first rule of thumb)."""
    return float(lrs[np.argmin(losses)]) / 10


def steep(lrs: Rates, losses: Losses) -> float:
    """Returns the rate at which the loss falls fastest, on a logarithmic scale of rates."""
    return float(lrs[np.argmin(np.diff(losses) / np.diff(np.log(lrs)))])


def last_decrease(lrs: Rates, losses: Losses) -> float:
    """Returns the last rate at which the loss clearly falls (fastbook's second rule of thumb).

    "Clearly" means that the slope is at least a tenth of the steepest slope, and that the lowest
    loss is still to come.
    """
    slope = np.diff(losses) / np.diff(np.log(lrs))
    falling = np.flatnonzero(slope[: max(1, int(np.argmin(losses)))] <= slope.min() / 10)
    return float(lrs[falling[-1]]) if len(falling) else float(lrs[0])


RULES: dict[str, Callable[[Rates, Losses], float]] = {
    "valley": valley,
    "slide": slide,
    "minimum": minimum,
    "steep": steep,
    "last_decrease": last_decrease,
}

# The recommended rule, which is fastai's default, is cautious; `minimum`, which is from fastbook,
# is bold. Rates between the suggestions of these two rules are worth trying.
RECOMMENDED, BOLD = "valley", "minimum"


def check_sweep(num_it: int, names: Sequence[str] = ()) -> None:
    """Raises an error if a rule is unknown, or if a sweep leaves too few steps for the rules.

    Raises:
        ConfigError: There is no such rule, or there are too few steps.

    Example:
        >>> check_sweep(5)
        Traceback (most recent call last):
        jaxch5.errors.ConfigError: num_it = 5: should be at least 14, because the first tenth and \
the last 5 steps are left out
    """
    for name in names:
        if name not in RULES:
            raise ConfigError(f"suggest_funcs: {name} is not one of {', '.join(RULES)}")
    fewest = FEWEST_STEPS + STEPS_LEFT_OUT
    fewest += fewest // 10
    if num_it < fewest:
        raise ConfigError(
            f"num_it = {num_it}: should be at least {fewest}, because the first tenth and the last "
            f"{STEPS_LEFT_OUT} steps are left out"
        )


def _too_few(lrs: Sequence[float], losses: Sequence[float], num_it: int) -> str:
    if not np.isfinite(losses[:1]).all():
        return (
            f"the loss is {losses[0]} before anything was learned, and no rate changes that: "
            "look at the weights, the pictures and the loss"
        )
    if len(lrs) < num_it:
        return (
            f"the loss exploded after {len(lrs)} of {num_it} steps, at a rate of {lrs[-1]:.1e}: "
            f"too soon to suggest a rate; start at a lower rate than {lrs[0]:.1e} (start_lr) or "
            "take more steps (num_it)"
        )
    return f"a sweep of {num_it} steps leaves too few of them for the rules; take more (num_it)"


def suggest_lr(lrs: Sequence[float], losses: Sequence[float], num_it: int) -> dict[str, float]:
    """Suggests a learning rate by every rule: valley, slide, minimum, steep and last_decrease.

    Args:
        lrs: Rate of each step, rising.
        losses: Smoothed loss after each step.
        num_it: Number of steps planned for the sweep. The first steps, a tenth of this number, are
            ignored, and so are the last five steps that were taken.

    Raises:
        TrainingError: Too few steps were taken to suggest a rate, or the loss never fell.

    Example:
        >>> lrs = np.geomspace(1e-7, 10, 100)
        >>> losses = 2 - np.exp(-(np.log10(lrs / 1e-2) ** 2))
        >>> round(suggest_lr(lrs, losses, 100)["minimum"], 4)
        0.001
    """
    window = slice(num_it // 10, -STEPS_LEFT_OUT)
    rates, smooth = np.asarray(lrs, float)[window], np.asarray(losses, float)[window]
    finite = np.isfinite(smooth)
    rates, smooth = rates[finite], smooth[finite]
    if len(rates) < FEWEST_STEPS:
        raise TrainingError(_too_few(lrs, losses, num_it))
    if not np.any(np.diff(smooth) < 0):
        raise TrainingError(
            f"the loss never fell between the rates {rates[0]:.1e} and {rates[-1]:.1e}, so no rate "
            "can be suggested: look at the labels and the loss, start at a lower rate (start_lr) "
            "or take more steps (num_it)"
        )
    return {name: rule(rates, smooth) for name, rule in RULES.items()}
