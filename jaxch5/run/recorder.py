"""Records the loss and the rates of each training step, and the results of each epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jaxch5.metrics import Record, is_number
from jaxch5.util.fastai import NamesFastai
from jaxch5.util.text import counted

if TYPE_CHECKING:
    from jaxch5.plots.figure import Figure


@dataclass
class Recorder(NamesFastai):
    """Records losses, rates and metrics while a learner trains.

    After a run is resumed, `records` covers all its epochs; the other lists cover only new steps.

    Attributes:
        records: Record of each epoch: losses, metrics as fractions of 1, seconds, and pictures per
            second in training.
        losses: Loss of each step.
        lrs: Learning rates of each step, one for each group of layers, the head last.
        moms: Momentum of each step.
        ends: Length of `losses` at the end of each epoch, except for epochs that ended before the
            run was resumed.

    Example:
        >>> recorder = Recorder(losses=[2.0, 1.0], lrs=[[0.1], [0.2]], moms=[0.9, 0.8])
        >>> [axes.get_title() for axes in recorder.plot_sched().axes]
        ['learning rate', 'momentum']
    """

    records: list[Record] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    lrs: list[list[float]] = field(default_factory=list)
    moms: list[float] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"{counted(len(self.records), 'epoch')}, {counted(len(self.losses), 'step')}"

    def plot_loss(self, skip_start: int = 5) -> Figure:
        """Plots the training loss of each step and the validation loss of each epoch.

        Args:
            skip_start: Number of steps to leave out at the beginning of training, since their
                losses would dwarf the others.
        """
        from jaxch5.plots.figure import Figure

        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        axes.plot(range(skip_start, len(self.losses)), self.losses[skip_start:], label="training")
        validated = self.records[len(self.records) - len(self.ends) :]
        values = [record["valid_loss"] for record in validated]
        losses = [value if is_number(value) else math.nan for value in values]
        axes.plot(self.ends, losses, marker="o", label="validation")
        axes.set(xlabel="step", ylabel="loss")
        axes.legend()
        return figure

    def plot_sched(self) -> Figure:
        """Plots the learning rates and the momentum of each step."""
        from jaxch5.plots.figure import Figure

        figure = Figure(figsize=(10, 4), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.plot(self.lrs)
        left.set(title="learning rate", xlabel="step")
        right.plot(self.moms)
        right.set(title="momentum", xlabel="step")
        return figure
