"""Keeps track of a trainer's earlier calls: how to number and compare epochs, and its runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxch5.data.block import Data
from jaxch5.errors import TrainingError
from jaxch5.metrics import CHANGES, Record
from jaxch5.run.checkpoint import StoredCheckpoints
from jaxch5.run.directory import RunDir, locked_once, write_metrics
from jaxch5.training.hosts import is_first

# Key of the digest of the pictures in a checkpoint's description.
PICTURES = "pictures"
# Key of `offset` in a checkpoint's description; like `CHANGES`, it is left out if the value is 0.
OFFSET = "epoch_offset"


@dataclass
class Past:
    """Holds what was trained before a call, apart from the state.

    Attributes:
        changes: Number of times that the trainer was given data whose scores cannot be compared
            with those of its earlier data.
        length: Number of batches per epoch in the last call; 0 if there was none.
        offset: Number of epochs that were trained, minus the number of epochs of `length` batches
            that the completed steps would make.
        runs: Paths of the runs that were written or restored, each with the steps that had a
            checkpoint then.
        restored: Path of the run that was restored, until a call writes.

    Example:
        >>> past = Past()
        >>> past.first_step(0, length=12), past.first_step(48, length=3), past.offset
        (0, 48, -12)
    """

    changes: int = 0
    length: int = 0
    offset: int = 0
    runs: dict[Path, set[int]] = field(default_factory=dict)
    restored: Path | None = None

    def first_step(self, step: int, length: int) -> int:
        """Returns the number of a call's first step, which is a multiple of the epoch's length.

        Args:
            step: Number of completed steps.
            length: Number of batches per epoch in the call.
        """
        before = self.length or length
        self.length, first = length, -(-step // length) * length
        if before != length:
            # Each epoch counts as one, whatever number of batches it had.
            self.offset += -(-step // before) - first // length
        return first

    @contextmanager
    def writing(self, run: RunDir | None, step: int, records: Sequence[Record]) -> Iterator[None]:
        """Lets a call write into a run, which the first process locks for as long as this takes.

        Args:
            run: Run to write into; None if nothing is written.
            step: Number of completed steps.
            records: Records of the epochs so far. The first call after a restore removes what the
                run has beyond them and `step`.

        Raises:
            CheckpointError: Another process writes into the run, or the run cannot be written.
            TrainingError: The run has the checkpoints of another training run, or of a process that
                continued this one, which would be mixed up with those of this call.
        """
        if run is None:
            yield
            return
        saves, known = StoredCheckpoints(run.checkpoints), self.runs.get(run.path)
        with locked_once(run) if is_first() else nullcontext():
            if known is None and saves.steps():
                raise TrainingError(
                    f"{run.path}: has the checkpoints of another training run; in Python, continue "
                    "that one with learn.restore(run), or set learn.run to a new run"
                )
            if known is not None and is_first():
                # Up to this step, they are this learner's own: a save may have ended in the
                # background after a call that was interrupted twice.
                if any(other > step and other not in known for other in saves.steps()):
                    raise TrainingError(
                        f"{run.path}: has been trained further elsewhere; in Python, continue it "
                        "with learn.restore(run), or set learn.run to a new run"
                    )
                if self.restored == run.path:
                    saves.remove_after(step)
                    write_metrics(run, records)
            self.restored = None
            try:
                yield
            finally:
                self.runs[run.path] = {*saves.steps()}

    def described(self, data: Data) -> dict[str, Any]:
        """Returns what a checkpoint's description says about the past and the present data."""
        said = {OFFSET: self.offset, CHANGES: self.changes}
        counts = {name: count for name, count in said.items() if count}
        return {PICTURES: data.pictures.digest, **counts}

    def restore(
        self, run: RunDir, about: Mapping[str, Any], data: Data, steps: Sequence[int]
    ) -> None:
        """Takes over the past of a run, and forgets its own.

        Args:
            run, about: Run, and the description of its checkpoint.
            data: Data that the run goes on with.
            steps: Steps that had a checkpoint before one of them was read.
        """
        digest = data.pictures.digest
        self.offset, self.changes = about.get(OFFSET, 0), about.get(CHANGES, 0)
        # The run may have ended before its first checkpoint on this data.
        self.changes += about.get(PICTURES, digest) != digest
        self.length, self.runs, self.restored = len(data.train), {run.path: {*steps}}, run.path
