"""Schedules of learning rates and of momentum, computed on the host in float64 for each step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxch5.errors import ConfigError
from jaxch5.optim.groups import LAYER_DECAY, check_rate, group_rates
from jaxch5.util.limits import check_numbers

Schedule = Callable[[int], float]

# Defaults that the functions for one cycle and for `fine_tune` share.
PCT_START = 0.25
DIV = 25.0
DIV_FINAL = 1e5
MOMS = (0.95, 0.85, 0.95)
BASE_LR = 2e-3
FREEZE_EPOCHS = 1
LR_MULT = 100.0
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
        pct_start: Share of the steps, between 0 and 1, in which the rate warms up.
        div: The first rate is `lr_max / div`; at least 1.
        div_final: The rate after the last step is `lr_max / div_final`; at least 1.

    Raises:
        ConfigError: A value is not one number, or is out of range.

    Example:
        >>> rate = one_cycle(3e-3, steps=40)
        >>> [round(rate(step), 6) for step in (0, 10, 39)]
        [0.00012, 0.003, 8e-06]
    """
    check_rate(lr_max=lr_max)
    check_numbers(div=div, div_final=div_final)
    return _two_waves((lr_max / div, lr_max, lr_max / div_final), steps, pct_start)


def one_cycle_momentum(
    steps: int,
    pct_start: float = PCT_START,
    moms: tuple[float, float, float] = MOMS,
) -> Schedule:
    """Returns a momentum that falls while the one-cycle rate rises, and rises while the rate falls.

    Args:
        steps: Number of training steps in the whole cycle.
        pct_start: Share of the steps, between 0 and 1, in which the rate warms up.
        moms: Momentum at the start, at the highest rate, and at the end, each at least 0 and
            below 1.

    Raises:
        ConfigError: A value is out of range, or there are not three momenta.

    Example:
        >>> momentum = one_cycle_momentum(steps=40)
        >>> [round(momentum(step), 4) for step in (0, 10, 25)]
        [0.95, 0.85, 0.9]
    """
    if np.ndim(moms) == 0 or len(moms) != 3:
        raise ConfigError(
            f"moms = {moms}: should be three numbers, for the start, the highest rate and the end"
        )
    for momentum in moms:
        check_numbers(momentum=momentum)
    return _two_waves(moms, steps, pct_start)


def _two_waves(values: tuple[float, float, float], steps: int, pct_start: float) -> Schedule:
    check_numbers(steps=steps, pct_start=pct_start)
    start, middle, end = values

    def value(step: int) -> float:
        # Beyond the last step, the wave would turn back.
        position = min(step / steps, 1.0)
        if position < pct_start:
            return cosine_interpolation(start, middle, position / pct_start)
        return cosine_interpolation(middle, end, (position - pct_start) / (1.0 - pct_start))

    return value


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
        lr_mult: Ratio of the head's rate to that of the earliest group, in the second phase; at
            least 1.
        pct_start, div: Shape of the cycles in the second phase; see `one_cycle`.
        div_final: Shape of the cycles in both phases; see `one_cycle`.
        layer_decay: Factor between the rates of groups, as in `group_rates`; if it is not 1, it
            replaces `lr_mult` and applies to both phases.

    Raises:
        ConfigError: Both `lr_mult` and `layer_decay` differ from their defaults, a value is out of
            range, or `group_rates` raises an error.

    Example:
        >>> rates = fine_tune_schedule(epochs=2, steps_per_epoch=5)
        >>> rates.shape, float(rates[0, -1])
        ((15, 3), 8e-05)
    """
    check_rate(base_lr=base_lr)
    check_numbers(lr_mult=lr_mult)
    head, every = _fine_tune_phases(epochs, steps_per_epoch, freeze_epochs, pct_start, div)
    if layer_decay != 1 and lr_mult != LR_MULT:
        line = f"fit.lr_mult = {lr_mult:g}: only works with fit.layer_decay = 1"
        raise ConfigError(f"{line}, not with {layer_decay:g}")
    alone: float | slice = base_lr
    together: float | slice = base_lr / 2
    if layer_decay == 1:
        alone, together = slice(base_lr), slice(base_lr / 2 / lr_mult, base_lr / 2)
    rows = []
    for lr, phase in ((alone, head), (together, every))[not head.steps :]:
        rates = group_rates(lr, groups, layer_decay)
        cycles = [one_cycle(rate, *phase, div_final) for rate in rates]
        rows += [[cycle(step) for cycle in cycles] for step in range(phase.steps)]
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

    Raises:
        ConfigError: A value is out of range, or there are not three momenta.

    Example:
        >>> fine_tune_momentum(epochs=2, steps_per_epoch=5)[[0, 5]].tolist()
        [0.95, 0.95]
    """
    phases = _fine_tune_phases(epochs, steps_per_epoch, freeze_epochs, pct_start, FINE_TUNE_DIV)
    values: list[float] = []
    for phase in phases[not phases[0].steps :]:
        momentum = one_cycle_momentum(phase.steps, phase.pct_start, moms)
        values += map(momentum, range(phase.steps))
    return np.array(values)


class _Phase(NamedTuple):
    """Holds the arguments that `one_cycle` takes between `lr_max` and `div_final`."""

    steps: int
    pct_start: float
    div: float


def _fine_tune_phases(
    epochs: int, steps_per_epoch: int, freeze_epochs: int, pct_start: float, div: float
) -> tuple[_Phase, _Phase]:
    check_numbers(epochs=epochs, freeze_epochs=freeze_epochs)
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
        pct_start: Share of the steps, between 0 and 1, in which the rate is `lr_max`.
        div_final: The rate after the last step is `lr_max / div_final`; at least 1.

    Raises:
        ConfigError: A value is not one number, or is out of range.

    Example:
        >>> rate = flat_cosine(1.0, steps=8)
        >>> [round(rate(step), 3) for step in (0, 6, 7)]
        [1.0, 1.0, 0.5]
    """
    check_rate(lr_max=lr_max)
    check_numbers(div_final=div_final)
    return _two_waves((lr_max, lr_max, lr_max / div_final), steps, pct_start)


def triangular(lr_min: float, lr_max: float, steps_per_cycle: int) -> Schedule:
    """Returns a rate that rises and falls linearly, again and again (Smith, 1506.01186).

    Args:
        lr_min, lr_max: Lowest and highest rate.
        steps_per_cycle: Number of steps from one lowest rate to the next.

    Raises:
        ConfigError: A value is not one number, or is out of range.

    Example:
        >>> rate = triangular(0.0, 1.0, steps_per_cycle=4)
        >>> [rate(step) for step in range(6)]
        [0.0, 0.5, 1.0, 0.5, 0.0, 0.5]
    """
    check_rate(lr_max=lr_max)
    check_numbers(lr_min=lr_min, steps_per_cycle=steps_per_cycle)

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
        factor: Ratio of the number of steps in each wave to that in the wave before it, from 1 to
            100; the number is rounded to whole steps.
        lr_min: Rate to which each wave falls.

    Raises:
        ConfigError: A value is not one number, or is out of range.

    Example:
        >>> rate = sgdr(1.0, steps=2)
        >>> [round(rate(step), 2) for step in (0, 1, 2, 4, 6)]
        [1.0, 0.5, 1.0, 0.5, 1.0]
    """
    check_rate(lr_max=lr_max)
    check_numbers(lr_min=lr_min, steps=steps, factor=factor)

    def value(step: int) -> float:
        length = float(steps)
        # Each wave has a whole number of steps, so that the next one begins at `lr_max`.
        while step >= (whole := round(length)):
            step, length = step - whole, length * factor
        return cosine_interpolation(lr_max, lr_min, step / whole)

    return value
