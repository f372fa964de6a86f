"""Hooks that save states as checkpoints of a run, or keep the best weights in memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from jaxch5.errors import CheckpointError, DataError, TrainingError
from jaxch5.metrics import Record
from jaxch5.run.attempts import Attempts
from jaxch5.run.checkpoint import Checkpoints
from jaxch5.run.directory import RunDir
from jaxch5.task import SOFTMAX, Best
from jaxch5.training.events import Begin, End, Epoch, Event, Step
from jaxch5.training.state import TrainState, is_finite

# An epoch's record, and the weights and statistics at the end of the epoch.
Kept = tuple[Record, dict[str, PyTree]]


class Saving(NamedTuple):
    """Defines when checkpoints are written, in addition to the one after every epoch.

    Attributes:
        every_steps: Steps between two checkpoints; 0 disables this rule.
        every_minutes: Minutes between two checkpoints; 0 disables this rule.
        keep_best: Whether training ends with the weights of the best epoch (by the task's rule)
            instead of those of the last epoch.
    """

    every_steps: int = 0
    every_minutes: float = 5.0
    keep_best: bool = False


class SaveCheckpoints:
    """Saves the state after each epoch, when due within an epoch, and when training ends early.

    Args:
        run: Run to save into.
        saving: When to save.
        about: Function that returns the description to store in a checkpoint.
        records: Records of the epochs, which another hook extends before this hook is called.
        attempt: Wrapper that calls the functions that save, and records their failures.
    """

    def __init__(
        self,
        run: RunDir,
        saving: Saving,
        about: Callable[[], dict[str, Any]],
        records: list[Record],
        attempt: Attempts,
    ) -> None:
        self._saves = Checkpoints(run.checkpoints)
        self._saving = saving
        self._about = about
        self._records = records
        self._attempt = attempt

    def __call__(self, event: Event) -> None:
        match event:
            case Begin():
                self._length, self._seen = event.steps_per_epoch, event.number
                self._saved_at = time.monotonic()
            case Step():
                due = self._is_due(event.number)
                self._seen = event.number
                if due and event.number % self._length:
                    self._save(event.state, epoch_done=False)
            case Epoch():
                self._save(event.state, epoch_done=True)
            case End():
                self._end(event)

    def best(self) -> Kept | None:
        """Returns the record, weights and statistics of the best epoch; None if none was saved."""
        step = self._saves.best_step()
        if step is None:
            return None
        self._saves.wait()
        return self._saves.about(step)["records"][-1], self._saves.variables(step)

    def _end(self, event: End) -> None:
        # Save nothing if a bad picture ends training in the first epoch: the run then starts over.
        begun = self._records or not isinstance(event.error, DataError)
        failed = None
        try:
            if event.how == "finished":
                self._attempt("checkpoint", self._saves.wait)
            elif event.state and begun and int(event.state.step) not in self._saves.steps():
                self._save(event.state, epoch_done=False)
                self._saves.wait()
        except CheckpointError as error:
            failed = error
        last = self._saves.last_step()
        with suppress(CheckpointError):
            self._saves.close()
        if failed:
            raise failed
        if isinstance(event.error, TrainingError) and last is not None:
            where = f"the last checkpoint is {self._saves.directory / str(last)}"
            raise TrainingError(f"{event.error}; {where}") from None

    def _is_due(self, step: int) -> bool:
        every_steps, every_minutes, _ = self._saving
        # An event may cover many steps.
        if every_steps and step // every_steps > self._seen // every_steps:
            return True
        return bool(every_minutes) and time.monotonic() - self._saved_at >= 60 * every_minutes

    def _save(self, state: TrainState, epoch_done: bool) -> None:
        # A state that is not finite is useless, and must not replace a finite one.
        if not is_finite(state):
            return
        self._saved_at = time.monotonic()
        save = self._saves.save, state, self._records, epoch_done, self._about()
        # The first attempt may raise the previous save's error, so this save is then tried again.
        _ = self._attempt("checkpoint", *save) or self._attempt("checkpoint", *save)


class KeepBest:
    """Keeps the best epoch's weights in memory, in a process that writes no checkpoints.

    Args:
        record: Record of the best epoch so far; None if there is none.
        variables: Weights and statistics of that epoch.
        best: Rule by which epochs are compared.
    """

    def __init__(
        self, record: Record | None, variables: dict[str, PyTree], best: Best = SOFTMAX.best
    ) -> None:
        self._best_of = best.of
        self._kept = _copied(record, variables) if record else None

    def __call__(self, event: Event) -> None:
        if not isinstance(event, Epoch):
            return
        before = [self._kept[0]] if self._kept else []
        if self._best_of([*before, event.record]) == len(before):
            self._kept = _copied(event.record, event.state.variables)

    def best(self) -> Kept | None:
        """Returns the record, weights and statistics of the best epoch; None if there is none."""
        return self._kept


Keeper = SaveCheckpoints | KeepBest


def _copied(record: Record, variables: dict[str, PyTree]) -> Kept:
    """Copies a record, which other hooks share, and variables, which the next step consumes."""
    return dict(record), jax.tree.map(jnp.copy, variables)
