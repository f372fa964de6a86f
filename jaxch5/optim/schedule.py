"""Schedules of learning rates and of momentum, computed on the host in float64 for each step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxch5.errors import ConfigError

Schedule = Callable[[int], float]

# Defaults that the functions for one cycle and for `fine_tune` share.
PCT_START = 0.25
DIV = 25.0
DIV_FINAL = 1e5
MOMS = (0.95, 0.85, 0.95)
BASE_LR = 2e-3
FREEZE_EPOCHS = 1
LR_MULT = 100.0
LAYER_DECAY = 1.0
FINE_TUNE_PCT_START = 0.3
FINE_TUNE_DIV = 5.0


def cosine_interpolation(start: float, end: float, position: float) -> float:
    """Returns the value at `position` (0 to 1) on a half cosine wave from `start` to `end`.

    Example:
        >>> cosine_interpolation(0.0, 1.0, 0.5)
        0.5
    """
    return start + (1.0 + math.cos(math.pi * (1.0 - position))) * (end - start) / 2.0


def one_cycle(
    lr_max: float,
    steps: int,
    pct_start: float = PCT_START,
    div: float = DIV,
    div_final: float = DIV_FINAL,
) -> Schedule:
    """Returns a one-cycle rate, which warms up to `lr_max` and then anneals to almost nothing.

    Both parts are half cosine waves. Source: Smith and Topin, 1708.07120; the shape is that of
    fastai's `fit_one_cycle`.

    Args:
        lr_max: The highest rate.
        steps: Number of training steps in the whole cycle.
        pct_start: Share of the steps, 0 to 1, in which the rate warms up.
        div: The first rate is `lr_max / div`.
        div_final: The rate after the last step is `lr_max / div_final`.

    Example:
        >>> rate = one_cycle(3e-3, steps=40)
        >>> [round(rate(step), 6) for step in (0, 10, 39)]
        [0.00012, 0.003, 8e-06]
    """
    return _two_waves((lr_max / div, lr_max, lr_max / div_final), steps, pct_start)


def one_cycle_momentum(
    steps: int,
    pct_start: float = PCT_START,
    moms: tuple[float, float, float] = MOMS,
) -> Schedule:
    """Returns a momentum that falls while the one-cycle rate rises, and rises while the rate falls.

    Args:
        steps: Number of training steps in the whole cycle.
        pct_start: Share of the steps, 0 to 1, in which the rate warms up.
        moms: Momentum at the start, at the highest rate, and at the end.

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


def even_mults(start: float, stop: float, n: int) -> list[float]:
    """Returns `n` rates from `start` to `stop` in a geometric series; the name is fastai's.

    Args:
        start, stop: First and last rate, both above 0.
        n: Number of rates, at least 1; a single rate is `stop`.

    Example:
        >>> [round(rate, 6) for rate in even_mults(1e-4, 1e-2, 3)]
        [0.0001, 0.001, 0.01]
    """
    if n == 1:
        return [stop]
    factor = (stop / start) ** (1 / (n - 1))
    return [start * factor**place for place in range(n)]


def group_rates(lr: float | slice, groups: int, layer_decay: float = LAYER_DECAY) -> list[float]:
    """Returns a rate for each group of layers, earliest first; a slice means the same as in fastai.

    Args:
        lr: A float is the rate of all groups; `slice(hi)` means `hi` for the last group and `hi`
            divided by 10 for the others; `slice(lo, hi)` means rates from `lo` to `hi` that are
            spaced geometrically (`even_mults`).
        groups: Number of groups.
        layer_decay: Factor by which the rate of each group is multiplied to get the rate of the
            group before it: group `g`, counted from 0, has the rate
            `lr * layer_decay ** (groups - 1 - g)` (Clark et al., 2003.10555; Bao et al.,
            2106.08254). With a slice or a single group, it must be 1.

    Raises:
        ConfigError: A rate is missing or not above 0, or `layer_decay` is not 1 although it must
            be.

    Example:
        >>> group_rates(slice(1e-3), 3)
        [0.0001, 0.0001, 0.001]
        >>> group_rates(1e-3, 3, layer_decay=0.5)
        [0.00025, 0.0005, 0.001]
    """
    if layer_decay != 1 and (groups == 1 or isinstance(lr, slice)):
        why = f"a single rate, not {lr}" if groups > 1 else "several groups of layers, not one"
        raise ConfigError(f"fit.layer_decay = {layer_decay:g}: only works with {why}")
    if not isinstance(lr, slice):
        rates = [lr * layer_decay ** (groups - 1 - group) for group in range(groups)]
    elif lr.stop is None:
        raise ConfigError(f"lr = {lr}: a slice of rates needs the last rate, as in slice(1e-3)")
    elif lr.start is None:
        rates = [lr.stop / 10] * (groups - 1) + [lr.stop]
    elif min(lr.start, lr.stop) > 0:
        rates = even_mults(lr.start, lr.stop, groups)
    else:
        rates = [lr.start, lr.stop]
    if not all(rate > 0 for rate in rates):
        raise ConfigError(f"lr = {lr}: rates should be above 0")
    return rates


def fine_tune_schedule(
    epochs: int,
    steps_per_epoch: int,
    base_lr: float = BASE_LR,
    freeze_epochs: int = FREEZE_EPOCHS,
    groups: int = 3,
    lr_mult: float = LR_MULT,
    pct_start: float = FINE_TUNE_PCT_START,
    div: float = FINE_TUNE_DIV,
    div_final: float = DIV_FINAL,
    layer_decay: float = LAYER_DECAY,
) -> Float[np.ndarray, "steps groups"]:
    """Returns the rates of all groups for both phases of fastai's `fine_tune`, step by step.

    The first phase trains the new head in one cycle, nearly all of which is the rise to `base_lr`
    (`pct_start` is 0.99, and `div` is 25). Frozen groups have rates too, as in fastai's records,
    but are not trained. The second phase trains all groups, each in one cycle. The highest rates of
    these cycles are spaced geometrically, from `base_lr / 2 / lr_mult` for the earliest group to
    `base_lr / 2` for the head.

    Args:
        epochs: Number of epochs in the second phase.
        steps_per_epoch: Number of training batches in an epoch.
        base_lr: Highest rate in the first phase.
        freeze_epochs: Number of epochs in the first phase.
        groups: Number of groups of layers.
        lr_mult: Ratio of the head's rate to that of the earliest group, in the second phase.
        pct_start, div: Shape of the cycles in the second phase; see `one_cycle`.
        div_final: Shape of the cycles in both phases; see `one_cycle`.
        layer_decay: Factor between the rates of groups, as in `group_rates`; if it is not 1, it
            replaces `lr_mult` and applies to both phases.

    Raises:
        ConfigError: Both `lr_mult` and `layer_decay` differ from their defaults, or `group_rates`
            raises an error.

    Example:
        >>> rates = fine_tune_schedule(epochs=2, steps_per_epoch=5)
        >>> rates.shape, float(rates[0, -1])
        ((15, 3), 8e-05)
    """
    head, every = _fine_tune_phases(epochs, steps_per_epoch, freeze_epochs, pct_start, div)
    if layer_decay != 1 and lr_mult != LR_MULT:
        line = f"fit.lr_mult = {lr_mult:g}: only works with fit.layer_decay = 1"
        raise ConfigError(f"{line}, not with {layer_decay:g}")
    alone: float | slice = base_lr
    together: float | slice = base_lr / 2
    if layer_decay == 1:
        alone, together = slice(base_lr), slice(base_lr / 2 / lr_mult, base_lr / 2)
    frozen, thawed = (
        [one_cycle(rate, *shape, div_final) for rate in group_rates(lr, groups, layer_decay)]
        for lr, shape in ((alone, head), (together, every))
    )
    rows = [[rate(step) for rate in frozen] for step in range(head.steps)]
    rows += [[rate(step) for rate in thawed] for step in range(every.steps)]
    return np.array(rows)


def fine_tune_momentum(
    epochs: int,
    steps_per_epoch: int,
    freeze_epochs: int = FREEZE_EPOCHS,
    pct_start: float = FINE_TUNE_PCT_START,
    moms: tuple[float, float, float] = MOMS,
) -> Float[np.ndarray, "steps"]:
    """Returns the momentum of `fine_tune`, step by step, to go with `fine_tune_schedule`.

    Args:
        epochs: Number of epochs in the second phase.
        steps_per_epoch: Number of training batches in an epoch.
        freeze_epochs: Number of epochs in the first phase.
        pct_start: Shape of the cycle in the second phase; see `one_cycle`.
        moms: Momentum in both phases; see `one_cycle_momentum`.

    Example:
        >>> fine_tune_momentum(epochs=2, steps_per_epoch=5)[[0, 5]].tolist()
        [0.95, 0.95]
    """
    phases = _fine_tune_phases(epochs, steps_per_epoch, freeze_epochs, pct_start, FINE_TUNE_DIV)
    values = [
        one_cycle_momentum(phase.steps, phase.pct_start, moms)(step)
        for phase in phases
        for step in range(phase.steps)
    ]
    return np.array(values)


class _Phase(NamedTuple):
    """Holds the arguments that `one_cycle` takes between `lr_max` and `div_final`."""

    steps: int
    pct_start: float
    div: float


def _fine_tune_phases(
    epochs: int, steps_per_epoch: int, freeze_epochs: int, pct_start: float, div: float
) -> tuple[_Phase, _Phase]:
    head = _Phase(freeze_epochs * steps_per_epoch, 0.99, DIV)
    return head, _Phase(epochs * steps_per_epoch, pct_start, div)


def flat_cosine(
    lr_max: float, steps: int, pct_start: float = 0.75, div_final: float = DIV_FINAL
) -> Schedule:
    """Returns a rate that stays at `lr_max` for some steps, then falls along half a cosine wave.

    Source: fastai's `fit_flat_cos`.

    Args:
        lr_max: The highest rate.
        steps: Number of training steps.
        pct_start: Share of the steps, 0 to 1, in which the rate is `lr_max`.
        div_final: The rate after the last step is `lr_max / div_final`.

    Example:
        >>> rate = flat_cosine(1.0, steps=8)
        >>> [round(rate(step), 3) for step in (0, 6, 7)]
        [1.0, 1.0, 0.5]
    """
    return _two_waves((lr_max, lr_max, lr_max / div_final), steps, pct_start)


def triangular(lr_min: float, lr_max: float, steps_per_cycle: int) -> Schedule:
    """Returns a rate that rises and falls linearly, again and again (Smith, 1506.01186).

    Args:
        lr_min, lr_max: Lowest and highest rate.
        steps_per_cycle: Number of steps from one lowest rate to the next.

    Example:
        >>> rate = triangular(0.0, 1.0, steps_per_cycle=4)
        >>> [rate(step) for step in range(6)]
        [0.0, 0.5, 1.0, 0.5, 0.0, 0.5]
    """

    def value(step: int) -> float:
        position = step % steps_per_cycle / steps_per_cycle
        return lr_min + (lr_max - lr_min) * (1.0 - abs(2.0 * position - 1.0))

    return value


def sgdr(lr_max: float, steps: int, factor: float = 2.0, lr_min: float = 0.0) -> Schedule:
    """Returns a rate that falls along half a cosine wave and restarts, in waves that grow longer.

    Source: Loshchilov and Hutter, 1608.03983.

    Args:
        lr_max: Rate at each restart.
        steps: Number of steps in the first wave.
        factor: How many times as many steps each wave has as the wave before it; at least 1.
        lr_min: Rate to which each wave falls.

    Example:
        >>> rate = sgdr(1.0, steps=2)
        >>> [round(rate(step), 2) for step in (0, 1, 2, 4, 6)]
        [1.0, 0.5, 1.0, 0.5, 1.0]
    """

    def value(step: int) -> float:
        length = float(steps)
        while step >= length:
            step, length = step - int(length), length * factor
        return cosine_interpolation(lr_max, lr_min, step / length)

    return value
