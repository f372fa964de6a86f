"""One call to train, around the loop: what it records, saves, shows and says."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PyTree
from rich.console import Console

from jaxch5.data.block import Data
from jaxch5.errors import CheckpointError, DataError, TrainingError
from jaxch5.insight.recorder import Recorder, best_of
from jaxch5.insight.report import Report, write_report
from jaxch5.text import print_line
from jaxch5.training.checkpoint import Checkpoints
from jaxch5.training.interrupts import StopAtOnce, Terminated
from jaxch5.training.loop import Epoch, Step, fit
from jaxch5.training.memory import out_of_memory
from jaxch5.training.plan import Plan
from jaxch5.training.profile import profiled
from jaxch5.training.progress import show_progress, without_numbers
from jaxch5.training.recipe import Recipe
from jaxch5.training.rundir import Record, RunDir, write_metrics
from jaxch5.training.state import TrainState, is_finite
from jaxch5.training.steps import Steps
from jaxch5.training.tensorboard import Log

# The record of an epoch, and its weights and statistics.
Kept = tuple[Record, dict[str, PyTree]]


class Saving(NamedTuple):
    """When checkpoints are written, beside the one after every epoch.

    Attributes:
        every_steps: steps between two; 0 does not count them.
        every_minutes: minutes between two; 0 does not look at the clock.
        keep_best: training ends with the weights of the best epoch, as `best_of` has it, not of the
            last.
    """

    every_steps: int = 0
    every_minutes: float = 5.0
    keep_best: bool = False


class Session:
    """Trains through plans, and takes the loop's events; a context manager.

    What cannot be written does not end training: it is said after each epoch, and `finish` raises
    it if the last attempt failed too.

    Args:
        run: where to write; None writes nothing.
        recorder: grows.
        saving: when to save.
        about: gives what is said about each checkpoint.
        report: of the run, without its epochs; None where there is no run.
        log: TensorBoard's, or None.
        console: where the table is drawn, and what goes wrong is said.
        profile: whether some steps of each plan are traced, into the run.
        best: the best epoch so far, where the weights are still its own; see `best`.
    """

    def __init__(
        self,
        run: RunDir | None,
        recorder: Recorder,
        saving: Saving,
        about: Callable[[], dict[str, Any]],
        report: Report | None,
        log: Log | None,
        console: Console,
        profile: bool = False,
        best: Kept | None = None,
    ) -> None:
        self._run = run
        self._recorder = recorder
        self._saving = saving
        self._about = about
        self._report = report
        self._log = log
        self._console = console
        self._say = partial(print_line, console)
        self._profile = profile
        self._table_begun = False
        self._saves: Checkpoints | None = None
        self._saved_at = time.monotonic()
        self._unwritten: dict[str, CheckpointError] = {}
        self._best = best
        self._remember: Callable[[RunDir], None] | None = None
        self._open = ExitStack()

    def __enter__(self) -> Session:
        if self._run:
            self._saves = Checkpoints(self._run.checkpoints)
        if self._log:
            self._open.callback(self._log.close)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, StopAtOnce):
            return
        self._open.close()
        if not self._saves:
            return
        last = self._saves.last_step()
        self._saves.__exit__(kind, error, trace)
        if isinstance(error, TrainingError) and last is not None:
            where = f"the last checkpoint is {self._saves.directory / str(last)}"
            raise TrainingError(f"{error}; {where}") from None

    def remember(self, pictures: Callable[[RunDir], None], line: str | None) -> None:
        """Writes down what the run is trained on; where that fails, after an epoch again.

        Args:
            pictures: writes it into a run.
            line: what is to be said of them, if anything.
        """
        if line:
            self._say(line)
        if self._run:
            self._remember = pictures
            self._attempt("pictures", pictures, self._run)

    def train(
        self,
        state: TrainState,
        data: Data,
        plan: Plan,
        steps: Steps,
        recipe: Recipe,
        key: Key[Array, ""],
        check: Callable[[], None],
        validate_first: bool = False,
    ) -> Iterator[TrainState]:
        """Trains as planned: see `fit`, which takes the same.

        Yields:
            the state after each step and each epoch, before that is saved; it is good until the
            next one is asked for.

        Raises:
            TrainingError: the loss is no finite number, or the device's memory is too small.
            DataError: a picture cannot be read.
        """
        start, steps_per_epoch = int(state.step), len(data.train)
        self._plan, self._steps_per_epoch = plan, steps_per_epoch
        self._unread = self._seen = start
        metrics = recipe.metrics
        events = fit(state, data, plan, steps, recipe.loss, key, metrics, validate_first, check)
        if self._profile and self._run:
            program, folder = steps.many or steps.train, self._run.profile / plan.name
            events = profiled(events, folder, program, steps_per_epoch, self._say)
        extra = [name for name, _ in metrics] + ["skipped_steps"] * bool(state.scale)
        # The first step consumes it; what it held should not wait here for the last.
        del state
        begun, self._table_begun = self._table_begun, True
        shown = show_progress(events, self._console, steps_per_epoch, start, extra, begun)
        with out_of_memory(steps.need, data.train.batch_size, data.size):
            for event in shown:
                yield event.state
                self.watch(event)
                check()

    def watch(self, event: Step | Epoch) -> None:
        """Records an event, and saves where it is time to."""
        for loss in event.losses:
            self._record_step(loss)
        match event:
            case Epoch():
                self._end_epoch(event)
            case Step():
                due = self._is_due(event.number)
                self._seen = event.number
                if due and event.number % self._steps_per_epoch:
                    self._save(event.state, epoch_done=False)

    @contextmanager
    def saved_if_stopped(self, state: Callable[[], TrainState]) -> Iterator[None]:
        """Saves the state that a call has come to where it ends early, and waits for that.

        Args:
            state: gives it.
        """
        try:
            yield
        except StopAtOnce:
            raise
        except (KeyboardInterrupt, Terminated):
            self._save_and_wait(state())
            raise
        except DataError:
            # In the first epoch, the picture is mended and all begins again.
            if self._recorder.records:
                self._save_and_wait(state())
            raise

    def best(self) -> Kept | None:
        """Returns record, weights and statistics of the best epoch; None where none is kept."""
        if self._saves and (step := self._saves.best_step()) is not None:
            self._saves.wait()
            return self._saves.about(step)["records"][-1], self._saves.variables(step)
        return self._best

    def finish(self, finished: Callable[[Report], Report]) -> None:
        """Writes the last report.

        Args:
            finished: gives what the report says at the end.

        Raises:
            CheckpointError: the last checkpoint, the metrics or the report could not be written.
        """
        if self._run and self._saves and self._report:
            self._attempt("report", self._write_report, finished(self._report))
            self._attempt("checkpoint", self._saves.wait, retry=False)
        for error in self._unwritten.values():
            raise error

    def _record_step(self, loss: float) -> None:
        step, plan, recorder = self._unread, self._plan, self._recorder
        rates, momentum = list(plan.rates(step - plan.start)), plan.momentum(step - plan.start)
        recorder.losses.append(loss)
        recorder.lrs.append(rates)
        recorder.moms.append(momentum)
        if self._log:
            self._log.step(step, loss, rates, momentum)
        self._unread += 1

    def _end_epoch(self, event: Epoch) -> None:
        recorder, record = self._recorder, event.record
        recorder.records.append(record)
        recorder.ends.append(len(recorder.losses))
        for line in without_numbers(record):
            self._say(line)
        if self._log:
            self._log.epoch(self._unread, record)
        if self._run and self._remember and "pictures" in self._unwritten:
            self._attempt("pictures", self._remember, self._run)
        if self._run and self._report:
            self._attempt("metrics", write_metrics, self._run, recorder.records)
            unfinished = replace(self._report, records=recorder.records)
            self._attempt("report", self._write_report, unfinished)
        self._save(event.state, epoch_done=True)
        if self._saving.keep_best and not self._saves:
            before = [self._best[0]] if self._best else []
            if best_of([*before, record]) == len(before):
                # A copy, because the next step consumes the state.
                self._best = record, jax.tree.map(jnp.copy, event.state.variables)

    def _is_due(self, step: int) -> bool:
        every_steps, every_minutes, _ = self._saving
        # An event may be of many steps.
        if every_steps and step // every_steps > self._seen // every_steps:
            return True
        return bool(every_minutes) and time.monotonic() - self._saved_at >= 60 * every_minutes

    def _save(self, state: TrainState, epoch_done: bool) -> None:
        # What is no number is no good to anybody, and must not push out what is.
        if not self._saves or not is_finite(state):
            return
        self._saved_at = time.monotonic()
        records, about = self._recorder.records, self._about()
        self._attempt("checkpoint", self._saves.save, state, records, epoch_done, about)

    def _save_and_wait(self, state: TrainState) -> None:
        if self._saves and int(state.step) not in self._saves.steps():
            self._save(state, epoch_done=False)
            self._saves.wait()

    def _write_report(self, report: Report) -> None:
        assert self._run is not None
        write_report(self._run.report_file, report)

    def _attempt(
        self, what: str, write: Callable[..., None], *arguments: Any, retry: bool = True
    ) -> None:
        try:
            write(*arguments)
            self._unwritten.pop(what, None)
        except CheckpointError as error:
            self._unwritten[what] = error
            self._say(f"{error}; training goes on")
            if what == "checkpoint" and retry:
                # That was what became of the save before; this one was not begun yet.
                self._attempt(what, write, *arguments, retry=False)
