"""Defines the events of training, which hooks receive.

A hook is a function that takes an event. Its result is ignored, and training does not use the event
afterwards, so a hook can only observe training, or end it by raising an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, NamedTuple

from jaxch5.errors import ConfigError
from jaxch5.metrics import Record
from jaxch5.results.interpretation import Interpretation
from jaxch5.training.plan import Plan
from jaxch5.training.state import TrainState
from jaxch5.util.text import name_of


class StepRecord(NamedTuple):
    """Describes a completed step.

    Attributes:
        number: Number of steps before this one.
        loss: Mean loss of the step's batch, computed with the weights before the step.
        rates: Learning rate of each group of layers, the head last.
        momentum: Momentum, or Adam's first beta.

    Example:
        >>> StepRecord(number=0, loss=2.3, rates=(1e-5, 1e-3), momentum=0.95).rates[-1]
        0.001
    """

    number: int
    loss: float
    rates: tuple[float, ...]
    momentum: float


class Begin(NamedTuple):
    """Signals that a training call begins, before any program is compiled for it.

    Attributes:
        number: Number of completed steps; above 0 if the model was trained before.
        steps_per_epoch: Number of training batches.
        plans: Phases of the call, each with its epochs, rates and momentum.
        groups: Names of the groups of layers.
        classes: Names of the classes.
        data: One-line description of the pictures.
        run: Run directory; None if nothing is written.
        earlier_epochs: Number of epochs beyond `number // steps_per_epoch` that were trained
            before; negative if they were fewer. It is 0 unless the number of batches has changed.

    Example:
        >>> begin = Begin(0, 23, (), ("body", "head"), ("cat", "dog"), "1,437 pictures", None)
        >>> begin.groups[-1]
        'head'
    """

    number: int
    steps_per_epoch: int
    plans: tuple[Plan, ...]
    groups: tuple[str, ...]
    classes: tuple[str, ...]
    data: str
    run: Path | None
    earlier_epochs: int = 0


class Ready(NamedTuple):
    """Signals that the program of a phase has been compiled; the phase's next step follows.

    Attributes:
        number: Number of completed steps.
        plan: Plan of the phase.

    Example:
        >>> from jaxch5.training.plan import plan_at_rate
        >>> Ready(0, plan_at_rate(2, lr=1e-3, momentum=0.9, groups=1)).plan.epochs
        2
    """

    number: int
    plan: Plan


class Step(NamedTuple):
    """Signals one completed step, or many at once if the data set is cached on an accelerator.

    Attributes:
        number: Number of completed steps.
        state: State after these steps, valid until the hook returns.
        read: Steps whose losses were just read back from the device. Losses are read a few at a
            time, in the order of the steps, and no step is reported twice.

    Example:
        >>> step = Step(8, None, [StepRecord(0, 2.3, (1e-3,), 0.95)])
        >>> [(record.number, record.loss) for record in step.read]
        [(0, 2.3)]
    """

    number: int
    state: TrainState
    read: list[StepRecord]

    @property
    def losses(self) -> list[float]:
        """Losses of `read`."""
        return [step.loss for step in self.read]


class Epoch(NamedTuple):
    """Signals that an epoch was trained and validated.

    Attributes:
        number: Number of completed steps.
        state: State after these steps, valid until the hook returns.
        read: Steps of the epoch that no `Step` has reported.
        record: Losses, and metrics as fractions of 1, keyed by name; also `epoch`, `phase`,
            `seconds` and `images_per_second`.

    Example:
        >>> Epoch(23, None, [], {"epoch": 0, "valid_loss": 0.25}).record["valid_loss"]
        0.25
    """

    number: int
    state: TrainState
    read: list[StepRecord]
    record: Record

    @property
    def losses(self) -> list[float]:
        """Losses of `read`."""
        return [step.loss for step in self.read]


class End(NamedTuple):
    """Signals how a training call ended.

    Each `Begin` is followed by an `End`, except if Ctrl-C is pressed when an earlier signal has not
    yet ended training.

    Attributes:
        number: Number of completed steps.
        state: State from which training can continue, valid until the hook returns; None if an
            error left no such state.
        how: "finished", "interrupted" (by Ctrl-C or SIGTERM) or "failed".
        error: Exception that ended the call early; None if the call finished.
        interpretation: The trained model's answers for the validation set; None unless training
            finished, the call has a run directory, and all outputs of the model are finite.

    Example:
        >>> End(23, None, "failed", ValueError("no")).how
        'failed'
    """

    number: int
    state: TrainState | None
    how: Literal["finished", "interrupted", "failed"]
    error: BaseException | None = None
    interpretation: Interpretation | None = None


Event = Begin | Ready | Step | Epoch | End
Hook = Callable[[Event], object]


def check_hooks(hooks: Iterable[Hook]) -> tuple[Hook, ...]:
    """Returns hooks as a tuple, after checking that they are several functions.

    Args:
        hooks: Hooks, in the order in which they are called.

    Raises:
        ConfigError: `hooks` is one function instead of several, or one of them is not a function.

    Example:
        >>> check_hooks(print)
        Traceback (most recent call last):
        jaxch5.errors.ConfigError: hooks = print: should be several functions; put a single one \
into a tuple, as in hooks=(print,)
    """
    if isinstance(hooks, str) or not isinstance(hooks, Iterable):
        shown = name_of(hooks) if callable(hooks) else hooks
        raise ConfigError(
            f"hooks = {shown}: should be several functions; put a single one into a tuple, as in "
            "hooks=(print,)"
        )
    several = tuple(hooks)
    for hook in several:
        if not callable(hook):
            raise ConfigError(f"hooks: {hook!r} should be a function that takes an event")
    return several
