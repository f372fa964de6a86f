"""Chooses the hooks of a training call: what is shown, written and kept."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

from rich.console import Console

from jaxch5.data.block import Data
from jaxch5.metrics import Record
from jaxch5.results.predictor import Predictor
from jaxch5.run.attempts import Attempts
from jaxch5.run.directory import RunDir
from jaxch5.run.follow import guest
from jaxch5.run.hooks.checkpoints import KeepBest, Keeper, SaveCheckpoints, Saving
from jaxch5.run.hooks.records import record_into, write_records
from jaxch5.run.hooks.report import write_reports
from jaxch5.run.hooks.table import Table
from jaxch5.run.hooks.tensorboard import TensorBoard
from jaxch5.run.hooks.trace import Trace
from jaxch5.run.recorder import Recorder
from jaxch5.training.events import Hook
from jaxch5.training.hosts import is_first
from jaxch5.training.recipe import Recipe
from jaxch5.training.state import TrainState
from jaxch5.util.text import print_line


class Training(Protocol):
    """What the hooks need of a trainer; see `jaxch5.trainer.Trainer`."""

    data: Data
    recipe: Recipe
    state: TrainState
    recorder: Recorder
    console: Console
    run: RunDir | None
    saving: Saving
    log: bool
    profile: bool
    hooks: Sequence[Hook]

    @property
    def _classifier(self) -> Predictor: ...

    def _about(self) -> dict[str, Any]: ...


def hooks_of(
    trainer: Training, restored: bool, kept: Record | None, attempt: Attempts
) -> tuple[list[Hook], Keeper]:
    """Returns a call's hooks in calling order, and the one of them that keeps the best epoch.

    Args:
        trainer: Trainer whose call begins.
        restored: Whether the call continues a run.
        kept: Record of the epoch whose weights the trainer has because it is the best; else None.
        attempt: Wrapper that calls functions that write, and records their failures.
    """
    task, metrics, records = trainer.recipe.task, trainer.recipe.columns, trainer.recorder.records
    columns = [*metrics, *["skipped_steps"] * bool(trainer.state.scale)]
    hooks: list[Hook] = [Table(trainer.console, columns, task), record_into(trainer.recorder)]
    if (run := trainer.run) and is_first():
        if trainer.log:
            hooks.append(TensorBoard(run.tensorboard, int(trainer.state.step)))
        hooks.append(write_records(run, trainer.data, restored, records, attempt))
        of = records, attempt, task, metrics, trainer._classifier
        hooks.append(write_reports(run, trainer.data, *of))
        keeper: Keeper = SaveCheckpoints(run, trainer.saving, trainer._about, records, attempt)
    else:
        keeper = KeepBest(kept, trainer.state.variables, task.best)
    hooks += [keeper, *map(guest, trainer.hooks if is_first() else ())]
    if run and trainer.profile and is_first():
        hooks.append(Trace(run.profile, partial(print_line, trainer.console)))
    return hooks, keeper
