"""Checkpoints: the last states of a run and the best, saved by orbax in the background."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jaxtyping import PyTree
from orbax.checkpoint import checkpoint_managers as policies

from jaxch5.errors import CheckpointError
from jaxch5.training.rundir import Record
from jaxch5.training.state import TrainState

# What is evaluated, which another run may begin from; the rest of the state; and all else, as JSON.
VARIABLES, REST, ABOUT = "variables", "rest", "about"


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
        read_only: leaves the directory as it is, with what its run may be saving at this moment.

    Raises:
        CheckpointError: from `save`, or on leaving, where one could not be written.
    """

    def __init__(self, directory: Path, read_only: bool = False) -> None:
        self.directory = directory
        self._read_only = read_only
        # Only saves at the end of an epoch have metrics; the others cannot be the best.
        best = policies.BestN(get_metric_fn=_accuracy, n=1, keep_checkpoints_without_metrics=False)
        self._manager = ocp.CheckpointManager(
            directory,
            options=ocp.CheckpointManagerOptions(
                best_fn=_accuracy,
                preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(2), best]),
                cleanup_tmp_directories=not read_only,
                create=not read_only,
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

    def save(
        self,
        state: TrainState,
        records: Sequence[Record],
        epoch_done: bool,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        """Begins to save a state under the number of its step.

        Args:
            state: it may be consumed by the next step as soon as this returns.
            records: of the epochs done so far.
            epoch_done: whether the last record is of this very state.
            about: what else a reader should know, as JSON has it; `about` gives it back.
        """
        # On a CPU the save would read the very buffers that the next step writes into.
        state = jax.tree.map(jnp.copy, state)
        with self._readable_errors("saved"):
            self._manager.save(
                int(state.step),
                args=ocp.args.Composite(
                    **{
                        VARIABLES: ocp.args.StandardSave(state.variables),
                        REST: ocp.args.StandardSave(_without_variables(state)),
                        ABOUT: ocp.args.JsonSave({**(about or {}), "records": list(records)}),
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

    def last_step(self) -> int | None:
        """The step of the newest checkpoint; None where there is none."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """The step of the checkpoint with the highest accuracy; None where there is none."""
        return self._manager.best_step()

    def about(self, step: int) -> dict[str, Any]:
        """What was said about a checkpoint when it was saved, and its `records`."""
        return self._read(step, {ABOUT: ocp.args.JsonRestore()})[ABOUT]

    def variables(self, step: int) -> dict[str, PyTree]:
        """What the model of a checkpoint is evaluated with: weights and statistics."""
        with self._readable_errors("restored"):
            item = self.directory / str(step) / VARIABLES
            written = ocp.PyTreeCheckpointHandler().metadata(item).tree
        # Without the devices that it was written from, which this machine may not have.
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), written)
        return self._read(step, {VARIABLES: ocp.args.StandardRestore(like)})[VARIABLES]

    def restore(self, like: TrainState, step: int | None = None) -> Saved | None:
        """The checkpoint of a step, by default the last; None where there is none.

        Args:
            like: a state of the same shapes, or its `jax.eval_shape`.
            step: one of `steps()`.
        """
        step = self.last_step() if step is None else step
        if step is None:
            return None
        like = jax.eval_shape(lambda: like)
        saved = self._read(
            step,
            {
                VARIABLES: ocp.args.StandardRestore(like.variables),
                REST: ocp.args.StandardRestore(_without_variables(like)),
                ABOUT: ocp.args.JsonRestore(),
            },
        )
        rest, variables = saved[REST], saved[VARIABLES]
        if like.average is None:
            state = rest.replace(**variables)
        else:
            state = rest.replace(average=variables)
        return Saved(state, saved[ABOUT]["records"])

    def _read(self, step: int, items: dict[str, Any]) -> Any:
        with self._readable_errors("restored"):
            return self._manager.restore(step, args=ocp.args.Composite(**items))

    @contextmanager
    def _readable_errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not self._read_only:
                for unfinished in self.directory.glob("*.orbax-checkpoint-tmp*"):
                    shutil.rmtree(unfinished, ignore_errors=True)
            raise CheckpointError(
                f"{self.directory}: the checkpoint could not be {what}: {_reason(error)}"
            ) from error


def _without_variables(state: TrainState) -> TrainState:
    """The state without what its `variables` holds."""
    if state.average is None:
        return state.replace(params=None, batch_stats=None)
    return state.replace(average=None)


def _reason(error: Exception) -> str:
    """The storage library's errors name internal files at length and the reason last."""
    line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    for known in (os.strerror(code) for code in (errno.ENOSPC, errno.EROFS, errno.EFBIG)):
        if known in line:
            return known
    return line


def _accuracy(metrics: Record) -> float:
    return metrics["accuracy"]
