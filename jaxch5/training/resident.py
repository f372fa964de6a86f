"""Runs many steps in one call, without waiting for the host, if pictures are cached on the device.

Such a call runs one compiled program: a `lax.scan` over steps, each of which gathers its pictures,
augments them and trains. On a CPU, the scan is slower than single steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import jax
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Key

from jaxch5.batch import Batch, CachedBatch
from jaxch5.training.state import TrainState
from jaxch5.training.step import TrainStep

# An epoch is divided into at least this many calls (or one for each step, if it has fewer steps),
# so that the progress bar moves and signals are noticed.
CALLS = 8
# Maximum number of steps in a call.
MOST_STEPS = 32

Rates = Float[Array, "steps groups"]
ManySteps = Callable[
    [TrainState, CachedBatch, Rates, Float[Array, "steps"], Key[Array, ""]],
    tuple[TrainState, Float[Array, "steps"]],
]


def steps_a_call(steps_per_epoch: int) -> int:
    """Returns the number of steps per call; the remainder of an epoch is done in single steps.

    Example:
        >>> steps_a_call(4), steps_a_call(91), steps_a_call(10_000)
        (1, 11, 32)
    """
    return min(MOST_STEPS, max(1, steps_per_epoch // CALLS))


def make_many_steps(train_step: TrainStep) -> ManySteps:
    """Returns a many-step function `(state, batches, rates, momentum, key) -> (state, losses)`.

    Args:
        train_step: Function that does one step; see `make_train_step`.

    Returns:
        The function. It takes batches that are stacked as `calls` yields them, and the key of their
        epoch.
    """

    def many_steps(
        state: TrainState,
        batches: CachedBatch,
        rates: Rates,
        momentum: Float[Array, "steps"],
        key: Key[Array, ""],
    ) -> tuple[TrainState, Float[Array, "steps"]]:
        def step(
            state: TrainState, xs: tuple[CachedBatch, Float[Array, "groups"], Float[Array, ""]]
        ) -> tuple[TrainState, Float[Array, ""]]:
            rows, lr, momentum = xs
            batch = replace(rows, images=batches.images, frames=batches.frames)
            state, output = train_step(state.at_rate(lr, momentum), batch, key)
            return state, output["loss"]

        # The cached pictures are the same in every step, so the scan does not iterate over them.
        return lax.scan(step, state, (_rows(batches), rates, momentum))

    return many_steps


def calls(
    batches: Iterator[Batch | CachedBatch], start: int, steps_per_epoch: int, a_call: int
) -> Iterator[Batch | CachedBatch]:
    """Yields the batches of steps from `start` on, stacked for calls of many steps.

    Stacks begin at the same steps of every epoch, no matter at which step training resumes.
    """
    step = start
    while True:
        place = step % steps_per_epoch
        whole = a_call > 1 and place % a_call == 0 and place + a_call <= steps_per_epoch
        group = list(islice(batches, a_call if whole else 1))
        if not group:
            return
        step += len(group)
        yield _stack(group) if whole else group[0]


def steps_of(batch: Batch | CachedBatch) -> int:
    """Returns the number of steps that a batch is for: more than 1 if it is a stack of batches."""
    return len(batch.label) if batch.label.ndim == 2 else 1


def stacked(batch: CachedBatch, count: int) -> CachedBatch:
    """Returns the shapes of `count` stacked batches that are like `batch`."""
    rows = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype), _rows(batch)
    )
    return replace(rows, images=batch.images, frames=batch.frames)


def _stack(batches: Sequence[Any]) -> CachedBatch:
    rows = jax.tree.map(lambda *leaves: np.stack(leaves), *map(_rows, batches))
    return replace(rows, images=batches[0].images, frames=batches[0].frames)


def _rows(batch: CachedBatch) -> CachedBatch:
    """Returns a batch without the set of pictures, which all batches share."""
    return replace(batch, images=None, frames=None)
