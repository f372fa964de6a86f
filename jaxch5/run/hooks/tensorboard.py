"""A hook that writes a run's figures for TensorBoard, without TensorFlow."""

from __future__ import annotations

from pathlib import Path

from jaxch5.errors import Jaxch5Error
from jaxch5.metrics import is_number
from jaxch5.training.events import Begin, End, Epoch, Event, Step


class TensorBoard:
    """Writes event files with each step's loss, rates and momentum, and each epoch's record.

    Args:
        folder: Folder to write into.
        start: Number of the next step; unless it is 0, TensorBoard discards what was written
            earlier for this step and those after it.

    Raises:
        Jaxch5Error: The library that writes event files is not installed.
    """

    def __init__(self, folder: Path, start: int = 0) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise Jaxch5Error(
                "--log tensorboard needs tensorboardX: python -m pip install -e '.[tensorboard]' "
                "in jaxch5's folder"
            ) from None
        self._writer = SummaryWriter(str(folder), purge_step=start or None)

    def __call__(self, event: Event) -> None:
        if isinstance(event, Begin):
            self._groups = event.groups
        elif isinstance(event, End):
            # Writes the remaining values, and ends the thread that writes.
            self._writer.close()
        for step in event.read if isinstance(event, (Step, Epoch)) else ():
            self._add("loss/step", step.loss, step.number)
            for name, rate in zip(self._groups, step.rates, strict=True):
                self._add(f"learning_rate/{name}", rate, step.number)
            self._add("momentum", step.momentum, step.number)
        if isinstance(event, Epoch):
            for name, value in event.record.items():
                if name != "epoch" and is_number(value):
                    # An epoch's values are placed at its last step, since a resumed run discards
                    # the values from the next step on.
                    self._add(f"epoch/{name}", value, event.number - 1)

    def _add(self, tag: str, value: float, step: int) -> None:
        self._writer.add_scalar(tag, value, step)
