"""Reads and writes a run's checkpoints; orbax writes them in the background."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import jax
from flax.traverse_util import unflatten_dict
from jaxtyping import PyTree

from jaxch5.errors import CheckpointError, ConfigError
from jaxch5.metrics import Record
from jaxch5.run.arrays import from_arrays, read_arrays, to_arrays
from jaxch5.task import Best
from jaxch5.util.files import json_value

if TYPE_CHECKING:
    from jaxch5.training.state import TrainState

# Items of a checkpoint: what evaluation needs, the rest of the state, and a description as JSON.
VARIABLES, REST, ABOUT = "variables", "rest", "about"
# Keys in a checkpoint's description: a checksum of the other entries, and the rule for comparing
# epochs.
DIGEST, BEST = "sha256", "best"

T = TypeVar("T")


class Saved(NamedTuple):
    """The content of a checkpoint: the state, and a record of each finished epoch."""

    state: TrainState
    records: list[Record]


class StoredCheckpoints:
    """Reads the checkpoints that a run has written.

    A checkpoint contains checksums, which are verified when the checkpoint is read, because files
    may be corrupted or lost, either on the disk or while they are copied.

    Args:
        directory: Folder of the checkpoints.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def steps(self) -> list[int]:
        """Returns the steps that have a checkpoint, in ascending order."""
        return self._written()

    def _written(self) -> list[int]:
        return sorted(int(path.name) for path in self.directory.glob("*") if path.name.isdecimal())

    def last_step(self) -> int | None:
        """Returns the step of the newest checkpoint; None if there is none."""
        return max(self.steps(), default=None)

    def best_step(self) -> int | None:
        """Returns the step of the best checkpoint saved after an epoch; None if there is none.

        Raises:
            CheckpointError: A description is damaged, so it is unknown which checkpoint is best.
        """
        ranked = [(_rank(record), step) for step in self.steps() if (record := self.record(step))]
        return max(ranked)[1] if ranked else None

    def record(self, step: int) -> Record:
        """Returns the record of the epoch that ended with a checkpoint; {} if there is none.

        Raises:
            CheckpointError: The description is damaged.
        """
        try:
            about = self.about(step)
        except CheckpointError as error:
            # A run that is still training removes checkpoints.
            if step not in self.steps():
                return {}
            line = f"{error}; it may be the best one: remove this folder to do without it"
            raise CheckpointError(line) from error
        if not (self.directory / str(step) / "metrics").is_dir():
            return {}
        return {**about["records"][-1], BEST: about.get(BEST)}

    def newest(self, read: Callable[[int], T], say: Callable[[str], None]) -> T | None:
        """Reads the newest intact checkpoint; returns None if none was written.

        Args:
            read: Function that takes a step and reads its checkpoint, or raises CheckpointError.
            say: Function that takes a line about each damaged checkpoint if an older one is intact.

        Raises:
            CheckpointError: Checkpoints were written, and none of them is intact.
        """
        damaged: list[str] = []
        for step in reversed(self._written()):
            try:
                found = read(step)
            except CheckpointError as error:
                damaged.append(str(error))
                continue
            for line in damaged:
                say(f"{line}; using the earlier checkpoint of step {step}")
            return found
        if damaged:
            raise CheckpointError(
                f"{damaged[0]}; this run has no intact checkpoint: begin a new run"
            )
        return None

    def remove_after(self, step: int) -> None:
        """Removes the checkpoints after a step, so that those saved next count as the newest."""
        for other in self._written():
            if other > step:
                shutil.rmtree(self.directory / str(other), ignore_errors=True)

    def about(self, step: int) -> dict[str, Any]:
        """Returns the description that a checkpoint was saved with, including the `records`.

        Raises:
            CheckpointError: The data to read is damaged; `variables` and `restore` also raise this.
        """
        with self._damage_of(step):
            file = self.directory / str(step) / ABOUT / "metadata"
            about: dict[str, Any] = dict(json.loads(file.read_text(encoding="utf-8")))
            if about.pop(DIGEST, None) != _digest(about):
                raise ValueError("its description is not the one that was saved")
        return about

    def variables(self, step: int) -> dict[str, PyTree]:
        """Reads the weights and statistics with which a checkpoint's model is evaluated."""
        with self._damage_of(step):
            return unflatten_dict(read_arrays(self.directory / str(step) / VARIABLES), sep="/")

    def restore(self, like: TrainState, step: int) -> Saved:
        """Reads the checkpoint of a step.

        Args:
            like: State with the same structure, shapes and types.
            step: One of `steps()`.

        Raises:
            ConfigError: The checkpoint's state has another structure, or other shapes or types.
        """
        records = self.about(step)["records"]
        like = jax.eval_shape(lambda: like)
        folder = self.directory / str(step)
        with self._damage_of(step):
            variables = read_arrays(folder / VARIABLES, like.variables)
            rest = read_arrays(folder / REST, _without_variables(like))
        try:
            variables = from_arrays(variables, like.variables)
            state = from_arrays(rest, _without_variables(like))
        except ValueError as error:
            # The arrays are those that were saved, so nothing is damaged.
            raise ConfigError(
                f"{folder}: was saved with other settings ({error}); resume a run with the "
                "network, optimizer, average, accumulate and precision that it began with"
            ) from None
        if like.average is None:
            state = state.replace(**variables)
        else:
            state = state.replace(average=variables)
        return Saved(jax.device_put(state), records)

    @contextmanager
    def _damage_of(self, step: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise CheckpointError(
                f"{self.directory / str(step)}: is damaged: {_reason(error)}"
            ) from error


class Checkpoints(StoredCheckpoints):
    """Writes the checkpoints of one run; as a context manager, waits for the last save on exit.

    A save returns as soon as the state has been copied, and continues in the background. The
    checkpoint becomes visible atomically, by a rename: a run killed during a save keeps the
    previous checkpoint. The last two checkpoints and the best one, as `Best` defines it, are kept.

    Args:
        directory: Existing folder for the checkpoints.

    Raises:
        CheckpointError: A save failed; raised by `save`, `wait` or `close`, or on exit.
    """

    def __init__(self, directory: Path) -> None:
        # Importing orbax takes longer than reading a run, and reading a run does not need orbax.
        import orbax.checkpoint as ocp
        from orbax.checkpoint import checkpoint_managers as policies

        super().__init__(directory)
        # Only saves at the end of an epoch have metrics; the others cannot be the best.
        best = policies.BestN(get_metric_fn=_rank, n=1, keep_checkpoints_without_metrics=False)
        self._manager = ocp.CheckpointManager(
            directory,
            options=ocp.CheckpointManagerOptions(
                best_fn=_rank,
                preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(2), best]),
                cleanup_tmp_directories=True,
                create=False,
                # Each process has its own manager, which does not wait for other processes.
                multiprocessing_options=_alone(),
                # The thread that writes needs the directory to exist.
                async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
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
            self.close()
        except CheckpointError:
            if error is None:
                raise

    def close(self) -> None:
        """Waits for the last save, and ends the threads that save."""
        with self._unsaved():
            self._manager.close()

    def save(
        self,
        state: TrainState,
        records: Sequence[Record],
        epoch_done: bool,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        """Starts saving a state under its step's number, replacing any checkpoint with that number.

        An error in the background is raised by the next `save`, `wait` or `close`.

        Args:
            state: State to save; the next step may consume it as soon as `save` returns.
            records: Records of the epochs finished so far.
            epoch_done: Whether the last record describes exactly this state.
            about: Further JSON values to store, which the method `about` returns. The key `BEST`
                may hold the `Best` by which epochs are compared; without it, the default applies.
        """
        import orbax.checkpoint as ocp

        from jaxch5.run.orbax import SaveArrays

        step = int(state.step)
        if step in self.steps():
            # The run saved this state before validating it, was stopped, and has been resumed.
            self.wait()
            self._manager.delete(step)
        # The arrays are copied: on a CPU the save would otherwise read the very buffers that the
        # next step overwrites.
        variables, rest = to_arrays(state.variables), to_arrays(_without_variables(state))
        said = json_value({**(about or {}), "records": list(records)})
        with self._unsaved():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    **{
                        VARIABLES: SaveArrays(variables),
                        REST: SaveArrays(rest),
                        ABOUT: ocp.args.JsonSave({**said, DIGEST: _digest(said)}),
                    }
                ),
                metrics=said["records"][-1] | {BEST: said.get(BEST)} if epoch_done else None,
            )

    def wait(self) -> None:
        """Waits until all saves are finished."""
        with self._unsaved():
            self._manager.wait_until_finished()

    def steps(self) -> list[int]:
        """Returns the steps that are saved or being saved, in ascending order."""
        return sorted(self._manager.all_steps())

    def last_step(self) -> int | None:
        """Returns the newest step that is saved or being saved; None if there is none."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """Returns the step of the best epoch saved or being saved; None if there is none."""
        return self._manager.best_step()

    @contextmanager
    def _unsaved(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            for unfinished in self.directory.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(unfinished, ignore_errors=True)
            raise CheckpointError(
                f"{self.directory}: the checkpoint could not be saved: {_reason(error)}"
            ) from error


def _rank(record: Mapping[str, Any]) -> tuple[float, float, float]:
    """Ranks a record by the rule stored in it, so that reading a run does not require its task."""
    return Best._make(record.get(BEST) or Best()).rank(record)


def _alone() -> Any:
    from orbax.checkpoint import options

    if jax.process_count() == 1:
        return options.MultiprocessingOptions()
    number = jax.process_index()
    return options.MultiprocessingOptions(
        primary_host=number, active_processes={number}, barrier_sync_key_prefix=f"process{number}"
    )


def _without_variables(state: TrainState) -> TrainState:
    """Returns the state without its `variables`."""
    if state.average is None:
        return state.replace(params=None, batch_stats=None)
    return state.replace(average=None)


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _reason(error: Exception) -> str:
    """Extracts the reason from a storage error, whose message may name internal files."""
    line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    for known in (os.strerror(code) for code in (errno.ENOSPC, errno.EROFS, errno.EFBIG)):
        if known in line:
            return known
    return line
