"""The hook that writes a run's figures for TensorBoard, without TensorFlow."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

from jaxch5.errors import Jaxch5Error
from jaxch5.insight.recorder import is_number
from jaxch5.training.events import Begin, Epoch, Event, Step
from jaxch5.training.interrupts import StopAtOnce


class TensorBoard:
    """Writes event files: losses and rates at each step, records at each epoch.

    Args:
        folder: where they are written. What an earlier process wrote there of steps that are made
            again is void.

    Raises:
        Jaxch5Error: what writes them is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            import tensorboardX  # noqa: F401
        except ImportError:
            raise Jaxch5Error(
                "--log tensorboard needs tensorboardX: python -m pip install -e '.[tensorboard]' "
                "in jaxch5's folder"
            ) from None
        self._folder = folder
        self._writer: Any = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, Begin):
            from tensorboardX import SummaryWriter

            self._groups = event.groups
            self._writer = SummaryWriter(str(self._folder), purge_step=event.number or None)
        if not isinstance(event, (Step, Epoch)):
            return
        for step in event.read:
            self._add("loss/step", step.loss, step.number)
            for name, rate in zip(self._groups, step.rates, strict=True):
                self._add(f"learning_rate/{name}", rate, step.number)
            self._add("momentum", step.momentum, step.number)
        if isinstance(event, Epoch):
            for name, value in event.record.items():
                if isinstance(value, float) and is_number(value):
                    self._add(f"epoch/{name}", value, event.number)

    def _add(self, tag: str, value: float, step: int) -> None:
        self._writer.add_scalar(tag, value, step)

    def __enter__(self) -> TensorBoard:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Writes what is left, and ends the thread that writes."""
        if self._writer and not isinstance(error, StopAtOnce):
            self._writer.close()
