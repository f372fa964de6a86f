"""Finds learning rates by recording the losses while the rate rises from step to step.

Source: Smith, 1506.01186, in the form of fastai's `lr_find`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Key
from rich.console import Console

from jaxch5.data.block import Data
from jaxch5.data.pipeline import to_device
from jaxch5.errors import ConfigError
from jaxch5.optim.groups import LAYER_DECAY, group_rates
from jaxch5.optim.optimizer import number_of_rates
from jaxch5.training.loop import STEPS_BETWEEN_READS, epoch_key
from jaxch5.training.mesh import placement_of
from jaxch5.training.state import TrainState
from jaxch5.training.step import TrainStep
from jaxch5.util.limits import check_numbers
from jaxch5.util.text import progress_bar

# Defaults of a sweep: its first rate, the rate that would follow the last one, and its length.
START_LR = 1e-7
END_LR = 10.0
NUM_IT = 100
MOMENTUM = 0.95
SMOOTHING = 0.98
# The sweep ends when the smoothed loss is above this many times its lowest value so far.
EXPLOSION = 4.0


class Sweep(NamedTuple):
    """Holds the results of a sweep: the rate, the loss and the smoothed loss of each step."""

    lrs: list[float]
    losses: list[float]
    smooth: list[float]


def sweep_rates(start_lr: float, end_lr: float, num_it: int) -> list[float]:
    """Returns the rates of a sweep, in geometric progression; `end_lr` would follow the last rate.

    Raises:
        ConfigError: A rate is not a finite number above 0, the rates do not rise, or `num_it` is
            below 2.

    Example:
        >>> [round(rate, 4) for rate in sweep_rates(1e-3, 10.0, 4)]
        [0.001, 0.01, 0.1, 1.0]
    """
    check_numbers(start_lr=start_lr, end_lr=end_lr)
    if not start_lr < end_lr:
        raise ConfigError(f"start_lr = {start_lr}: should be below end_lr = {end_lr}")
    if num_it < 2:
        raise ConfigError(f"num_it = {num_it}: should be at least 2")
    return [start_lr * (end_lr / start_lr) ** (step / num_it) for step in range(num_it)]


def smooth_losses(losses: list[float]) -> list[float]:
    """Returns bias-corrected exponential averages of the losses.

    The list ends early, with the first average that is NaN or above four times the lowest so far.

    Example:
        >>> [round(loss, 2) for loss in smooth_losses([1.0, 1.0, 99.0, 1.0])]
        [1.0, 1.0, 34.33]
    """
    average, best, smooth = 0.0, float("inf"), []
    for step, loss in enumerate(losses, start=1):
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        smooth.append(average / (1 - SMOOTHING**step))
        best = min(best, smooth[-1])
        if not smooth[-1] <= EXPLOSION * best:
            break
    return smooth


def find_lr(
    state: TrainState,
    data: Data,
    train_step: TrainStep,
    key: Key[Array, ""],
    start_lr: float = START_LR,
    end_lr: float = END_LR,
    num_it: int = NUM_IT,
    layer_decay: float = LAYER_DECAY,
    console: Console | None = None,
) -> Sweep:
    """Trains a copy of the state for one step at each rate, and stops early if the loss explodes.

    Args:
        state: State to start from; it is not consumed.
        data: Data whose training batches are used in order, repeatedly if necessary.
        train_step: Training step, compiled for the state and the batches.
        key: Root key for all random draws.
        start_lr, end_lr, num_it: See `sweep_rates`.
        layer_decay: See `group_rates`.
        console: Console on which to draw a progress bar; None draws it on standard error.
    """
    lrs = sweep_rates(start_lr, end_lr, num_it)
    state = jax.device_put(state, may_alias=False)
    # Only the rates of training have an upper limit, so the shares are computed from a rate of 1.
    shares = group_rates(1.0, number_of_rates(state.opt_state), layer_decay)
    unread, losses = [], []
    placement = placement_of(state)
    put = placement.put
    batches = to_device(data.train.steps(0, num_it), put=placement.put_batch)
    with progress_bar(console) as bar:
        tracked = bar.track(batches, total=num_it, description="trying rates")
        for step, batch in enumerate(tracked):
            rates = np.array([lrs[step] * share for share in shares], np.float32)
            state = state.at_rate(put(rates), put(np.float32(MOMENTUM)))
            state, metrics = train_step(state, batch, put(epoch_key(key, step // len(data.train))))
            unread.append(metrics["loss"])
            # A few superfluous steps at the end cost less than waiting for the loss of each step.
            if len(unread) == STEPS_BETWEEN_READS or step == num_it - 1:
                losses += [float(loss) for loss in jax.device_get(unread)]
                unread = []
                if len(smooth_losses(losses)) < len(losses):
                    break
    smooth = smooth_losses(losses)
    return Sweep(lrs[: len(smooth)], losses[: len(smooth)], smooth)
