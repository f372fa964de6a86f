"""A run's figures for TensorBoard, written without TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxch5.insight.recorder import is_number


class Log:
    """Event files of one run.

    Args:
        folder: where they are written.
        groups: names of the groups of layers, each with a rate.
        start: the step that comes next; what an earlier process wrote from there on is void.
    """

    def __init__(self, folder: Path, groups: Sequence[str], start: int = 0) -> None:
        from tensorboardX import SummaryWriter

        self._groups = groups
        self._writer = SummaryWriter(str(folder), purge_step=start or None)

    def step(self, step: int, loss: float, rates: Sequence[float], momentum: float) -> None:
        """Writes the loss of a step, and what it was made with."""
        self._writer.add_scalar("loss/step", loss, step)
        for name, rate in zip(self._groups, rates, strict=True):
            self._writer.add_scalar(f"learning_rate/{name}", rate, step)
        self._writer.add_scalar("momentum", momentum, step)

    def epoch(self, step: int, record: Mapping[str, Any]) -> None:
        """Writes an epoch's losses, metrics and speed at the step at which it ended."""
        for name, value in record.items():
            if isinstance(value, float) and is_number(value):
                self._writer.add_scalar(f"epoch/{name}", value, step)

    def close(self) -> None:
        """Writes what is left, and ends the thread that writes."""
        self._writer.close()
