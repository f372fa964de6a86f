"""Checkpoints: the last states of a run and the best, saved by orbax in the background."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from jaxch5.errors import CheckpointError
from jaxch5.training.rundir import Record
from jaxch5.training.state import TrainState

STATE, RECORDS = "state", "records"


class Saved(NamedTuple):
    """What a checkpoint holds: the state, and a record of each epoch that it has finished."""

    state: TrainState
    records: list[Record]


class Checkpoints:
    """The checkpoints of one run; a context manager that waits for the last save.

    A save returns as soon as the state has been copied and goes on in the background. It becomes
    visible in one piece, by a rename, so that a run killed during a save keeps the one before. The
    last two are kept, and the one whose epoch had the highest accuracy.

    Args:
        directory: where they lie; it exists.

    Raises:
        CheckpointError: from `save`, or on leaving, where one could not be written.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        # Only saves at the end of an epoch have metrics; the others cannot be the best.
        best = policies.BestN(get_metric_fn=_accuracy, n=1, keep_checkpoints_without_metrics=False)
        self._manager = ocp.CheckpointManager(
            directory,
            options=ocp.CheckpointManagerOptions(
                best_fn=_accuracy,
                preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(2), best]),
                cleanup_tmp_directories=True,
            ),
        )

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            with self._readable_errors("saved"):
                self._manager.close()
        except CheckpointError:
            if error is None:
                raise

    def save(self, state: TrainState, records: Sequence[Record], epoch_done: bool) -> None:
        """Begins to save a state under the number of its step.

        Args:
            state: it may be consumed by the next step as soon as this returns.
            records: of the epochs done so far.
            epoch_done: whether the last record is of this very state.
        """
        # On a CPU the save would read the very buffers that the next step writes into.
        state = jax.tree.map(jnp.copy, state)
        with self._readable_errors("saved"):
            self._manager.save(
                int(state.step),
                args=ocp.args.Composite(
                    **{
                        STATE: ocp.args.StandardSave(state),
                        RECORDS: ocp.args.JsonSave(list(records)),
                    }
                ),
                metrics=dict(records[-1]) if epoch_done else None,
            )

    def wait(self) -> None:
        """Returns when nothing is being saved any more."""
        with self._readable_errors("saved"):
            self._manager.wait_until_finished()

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, in rising order."""
        return sorted(self._manager.all_steps())

    def restore(self, like: TrainState, step: int | None = None) -> Saved | None:
        """The checkpoint of a step, by default the last; None where there is none.

        Args:
            like: a state of the same shapes, or its `jax.eval_shape`.
            step: one of `steps()`.
        """
        step = self._manager.latest_step() if step is None else step
        if step is None:
            return None
        with self._readable_errors("restored"):
            saved = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    **{
                        STATE: ocp.args.StandardRestore(jax.eval_shape(lambda: like)),
                        RECORDS: ocp.args.JsonRestore(),
                    }
                ),
            )
        return Saved(saved[STATE], saved[RECORDS])

    @contextmanager
    def _readable_errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            for unfinished in self.directory.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(unfinished, ignore_errors=True)
            raise CheckpointError(
                f"{self.directory}: the checkpoint could not be {what}: {_reason(error)}"
            ) from error


def _reason(error: Exception) -> str:
    """The storage library's errors name internal files at length and the reason last."""
    line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    for known in (os.strerror(code) for code in (errno.ENOSPC, errno.EROFS, errno.EFBIG)):
        if known in line:
            return known
    return line


def _accuracy(metrics: Record) -> float:
    return metrics["accuracy"]
