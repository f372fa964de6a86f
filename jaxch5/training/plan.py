"""Plans the phases of training, with their epochs, rates and sizes, and finds unfinished ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from jaxch5.errors import ConfigError
from jaxch5.framing import Size, height_and_width, size_text
from jaxch5.optim.groups import LAYER_DECAY, group_rates
from jaxch5.optim.schedule import (
    BASE_LR,
    DIV_FINAL,
    FINE_TUNE_DIV,
    FINE_TUNE_PCT_START,
    FREEZE_EPOCHS,
    LR_MULT,
    MOMS,
    Schedule,
    fine_tune_momentum,
    fine_tune_schedule,
    one_cycle,
    one_cycle_momentum,
)
from jaxch5.util.limits import check_numbers, is_one_number
from jaxch5.util.text import counted

Rates = Callable[[int], Sequence[float]]
UNTRAINED = (
    "nothing is pretrained: all layers train in one cycle (freeze_epochs=1 trains the head first)"
)


class Plan(NamedTuple):
    """Defines a phase of training: its number of epochs, its rates and its momentum.

    Attributes:
        name: Name of the phase, for the records.
        epochs: Number of epochs.
        rates: Function from a step, counted from the first step of the phase, to the rate of each
            group.
        momentum: Function from a step, counted in the same way, to the momentum.
        start: Number of steps before the phase.
        frozen_to: Index of the first group that is not frozen; None leaves the frozen groups as
            they are.
        size: Side of the training pictures of the phase, or their height and width, in pixels; None
            takes the validation size.
    """

    name: str
    epochs: int
    rates: Rates
    momentum: Schedule
    start: int = 0
    frozen_to: int | None = None
    size: Size | None = None

    def stop(self, steps_per_epoch: int) -> int:
        """Returns the total number of steps at the end of the phase.

        Example:
            >>> plan_at_rate(2, 0.1, 0.9, groups=1)._replace(start=5).stop(steps_per_epoch=10)
            25
        """
        return self.start + self.epochs * steps_per_epoch


def plan_at_rate(
    epochs: int,
    lr: float | slice | Schedule,
    momentum: float | Schedule,
    groups: int,
    layer_decay: float = LAYER_DECAY,
) -> Plan:
    """Plans epochs at a constant rate and momentum, or with any schedules; see `Learner.fit`.

    Raises:
        ConfigError: A value is out of range, or is neither a number nor a function that returns
            one; see `group_rates`.

    Example:
        >>> plan_at_rate(1, slice(0.1), lambda step: 0.9, groups=2).rates(0)
        [0.01, 0.1]
    """
    check_numbers(epochs=epochs)
    for name, value in (("lr", lr), ("momentum", momentum)):
        if callable(value) and not is_one_number(first := value(0)):
            raise ConfigError(f"{name}: the schedule returns {first}, but should return one number")
    # A schedule returns a single rate, of which each group gets its share.
    rates = group_rates(1.0 if callable(lr) else lr, groups, layer_decay)
    if not callable(momentum):
        check_numbers(momentum=momentum)
    return Plan(
        "fit",
        epochs,
        rates=lambda step: [lr(step) * share for share in rates] if callable(lr) else [*rates],
        momentum=momentum if callable(momentum) else lambda step: momentum,
    )


def plan_of_one_cycle(
    epochs: int,
    steps_per_epoch: int,
    groups: int,
    lr_max: float | slice,
    div: float,
    div_final: float,
    pct_start: float,
    moms: tuple[float, float, float],
    layer_decay: float = LAYER_DECAY,
) -> Plan:
    """Plans one cycle of rate and momentum; see `Learner.fit_one_cycle`.

    Example:
        >>> plan = plan_of_one_cycle(1, 4, 1, 1.0, 25.0, 1e5, 0.25, (0.95, 0.85, 0.95))
        >>> [plan.rates(step)[0] for step in (0, 1)]
        [0.04, 1.0]
    """
    check_numbers(epochs=epochs)
    steps = epochs * steps_per_epoch
    cycles = [
        one_cycle(rate, steps, pct_start, div, div_final)
        for rate in group_rates(lr_max, groups, layer_decay)
    ]
    return Plan(
        "one_cycle",
        epochs,
        rates=lambda step: [cycle(step) for cycle in cycles],
        momentum=one_cycle_momentum(steps, pct_start, moms),
    )


def plans_of_fine_tune(
    epochs: int,
    steps_per_epoch: int,
    groups: int,
    base_lr: float = BASE_LR,
    freeze_epochs: int = FREEZE_EPOCHS,
    lr_mult: float = LR_MULT,
    pct_start: float = FINE_TUNE_PCT_START,
    div: float = FINE_TUNE_DIV,
    div_final: float = DIV_FINAL,
    moms: tuple[float, float, float] = MOMS,
    layer_decay: float = LAYER_DECAY,
) -> list[Plan]:
    """Plans the two phases of `Learner.fine_tune`; without frozen epochs, only the second.

    Example:
        >>> plans = plans_of_fine_tune(2, 10, 3, 2e-3, 1, 100.0, 0.3, 5.0, 1e5, (0.9, 0.8, 0.9))
        >>> [(plan.name, plan.start, plan.frozen_to) for plan in plans]
        [('frozen', 0, -1), ('unfrozen', 10, 0)]
    """
    cycles = lr_mult, pct_start, div, div_final, layer_decay
    rates = fine_tune_schedule(epochs, steps_per_epoch, base_lr, freeze_epochs, groups, *cycles)
    momentum = fine_tune_momentum(epochs, steps_per_epoch, freeze_epochs, pct_start, moms)

    def phase(name: str, epochs: int, start: int, frozen_to: int) -> Plan:
        return Plan(
            name,
            epochs,
            rates=lambda step: rates[start + step].tolist(),
            momentum=lambda step: float(momentum[start + step]),
            start=start,
            frozen_to=frozen_to,
        )

    unfrozen = phase("unfrozen", epochs, freeze_epochs * steps_per_epoch, frozen_to=0)
    return [phase("frozen", freeze_epochs, 0, frozen_to=-1), unfrozen][not freeze_epochs :]


def check_sizes(sizes: Sequence[Size], size: Size) -> None:
    """Checks that the sizes for progressive resizing rise to the validation size.

    Raises:
        ConfigError: The sizes do not rise to `size`.

    Example:
        >>> check_sizes([96, 128], 160)
        Traceback (most recent call last):
        jaxch5.errors.ConfigError: fit.sizes = 96,128: should rise to data.size, which is 160
    """
    sides = [(1, 1), *map(height_and_width, sizes)]
    rise = all(a[0] <= b[0] and a[1] <= b[1] for a, b in pairwise(sides))
    if sizes and not (rise and len(set(sizes)) == len(sizes) and sizes[-1] == size):
        raise ConfigError(f"{_said(sizes)}: should rise to data.size, which is {size_text(size)}")


def _said(sizes: Sequence[Size]) -> str:
    return f"fit.sizes = {','.join(map(size_text, sizes))}"


def in_sizes(plans: Sequence[Plan], sizes: Sequence[Size], steps_per_epoch: int) -> list[Plan]:
    """Divides successive plans among sizes of pictures, with an equal number of epochs per size.

    If the epochs do not divide evenly, some sizes get one more epoch than others. Rates and
    momentum do not change.

    Args:
        plans: Plans of a run, in order.
        sizes: Sides of the pictures, or their heights and widths, in pixels; if empty, the plans
            are unchanged.
        steps_per_epoch: Number of training batches.

    Raises:
        ConfigError: There are more sizes than epochs.

    Example:
        >>> plans = plans_of_fine_tune(3, 10, 3, 2e-3, 1, 100.0, 0.3, 5.0, 1e5, (0.9, 0.8, 0.9))
        >>> parts = in_sizes(plans, [96, 128], steps_per_epoch=10)
        >>> [(part.name, part.start, part.epochs, part.size) for part in parts]
        [('frozen', 0, 1, 96), ('unfrozen', 10, 1, 96), ('unfrozen', 20, 2, 128)]
    """
    if not sizes:
        return list(plans)
    epochs = sum(plan.epochs for plan in plans)
    if epochs < len(sizes):
        raise ConfigError(f"{_said(sizes)}: each size needs an epoch, but there are only {epochs}")
    bounds = [epochs * place // len(sizes) for place in range(len(sizes) + 1)]
    parts, before = [], 0
    for plan in plans:
        for size, (begin, end) in zip(sizes, pairwise(bounds), strict=True):
            first, last = max(begin - before, 0), min(end - before, plan.epochs)
            if first < last:
                parts.append(_part_of(plan, first, last, steps_per_epoch)._replace(size=size))
        before += plan.epochs
    return parts


def _part_of(plan: Plan, first: int, last: int, steps_per_epoch: int) -> Plan:
    skipped = first * steps_per_epoch
    return plan._replace(
        epochs=last - first,
        rates=lambda step: plan.rates(skipped + step),
        momentum=lambda step: plan.momentum(skipped + step),
        start=plan.start + skipped,
        # Freezing again would clear the optimizer's moments.
        frozen_to=None if first else plan.frozen_to,
    )


def check_rates(plans: Iterable[Plan], steps_per_epoch: int) -> None:
    """Refuses plans of which one has only steps that would change nothing.

    Raises:
        ConfigError: No rate is above 0.
    """
    for plan in plans:
        steps = plan.epochs * steps_per_epoch
        if not any(max(plan.rates(step)) > 0 for step in range(steps)):
            raise ConfigError(f"lr: none of the {steps} steps has a rate above 0")


def left_to_do(
    plans: Sequence[Plan], step: int, steps_per_epoch: int, unvalidated: bool
) -> list[Plan]:
    """Returns the plans of a run that are not finished after a number of steps.

    Args:
        plans: Plans of a run, in order.
        step: Number of completed steps.
        steps_per_epoch: Number of training batches.
        unvalidated: Whether the last completed step ended an epoch that is not validated yet.

    Example:
        >>> plans = plans_of_fine_tune(2, 10, 3, 2e-3, 1, 100.0, 0.3, 5.0, 1e5, (0.9, 0.8, 0.9))
        >>> [plan.name for plan in left_to_do(plans, 10, 10, unvalidated=False)]
        ['unfrozen']
        >>> [plan.name for plan in left_to_do(plans, 10, 10, unvalidated=True)]
        ['frozen', 'unfrozen']
    """
    return [
        plan
        for plan in plans
        if step < plan.stop(steps_per_epoch)
        or (unvalidated and plan.start < step == plan.stop(steps_per_epoch))
    ]


def finished(plans: Sequence[Plan], epochs: int) -> str:
    """Returns the line that a call prints if a restored run has nothing left to do.

    Args:
        plans: Plans of the call.
        epochs: Number of epochs that the run has.

    Example:
        >>> finished([plan_at_rate(2, lr=1e-3, momentum=0.9, groups=1)], 2).partition(",")[0]
        'this run is finished: it has 2 epochs'
    """
    asked = sum(plan.epochs for plan in plans)
    return (
        f"this run is finished: it has {counted(epochs, 'epoch')}, and this call asks for {asked}, "
        "so nothing is trained; in Python, call again to train further"
    )
