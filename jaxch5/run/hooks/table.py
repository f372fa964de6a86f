"""The hook that shows progress: a table with a line per epoch, above a progress bar."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from jaxch5.metrics import Record, is_number
from jaxch5.results.interpretation import Interpretation
from jaxch5.task import SOFTMAX, Task
from jaxch5.training.events import Begin, End, Epoch, Event, Ready, Step
from jaxch5.util.text import COMPILING, NO_NUMBER, has_bars, print_line, print_row, working

# Minimum width of a column of figures.
FIGURES = 7
# Maximum number of classes whose recall is printed at the end, if class sizes are unequal.
RECALLS_SHOWN = 10


def header(extra: Sequence[str] = (), task: Task = SOFTMAX) -> str:
    """Returns the first line of the table.

    Args:
        extra: Names of further values in the records, which are shown in the last columns.
        task: Task whose metrics have one column each.

    Example:
        >>> print(header(["top_5"]))
        epoch  train_loss  valid_loss  accuracy  error_rate   time  images/s    top_5
    """

    def columns(names: Iterable[str]) -> str:
        return "".join(f"  {name:>{FIGURES}}" for name in names)

    metrics = columns(("train_loss", "valid_loss", *task.scores()))
    return f"epoch{metrics}   time  images/s{columns(extra)}"


HEADER = header()


def format_row(
    record: Record, extra: Sequence[str] = (), task: Task = SOFTMAX, epochs: int = 0
) -> str:
    """Returns a line of the table, with a dash for each value that is not a finite number.

    Args:
        record: Record of an epoch; epochs are shown numbered from 1.
        extra, task: As in `header`.
        epochs: Total number of epochs; with 0, the total is not shown.

    Example:
        >>> record = {"epoch": 0, "train_loss": 0.5, "valid_loss": 0.25, "accuracy": 0.9,
        ...     "error_rate": 0.1, "seconds": 64.2, "images_per_second": 410.4}
        >>> print(HEADER); print(format_row(record, epochs=5))
        epoch  train_loss  valid_loss  accuracy  error_rate   time  images/s
          1/5      0.5000      0.2500    0.9000      0.1000  01:04       410
    """
    minutes, seconds = divmod(round(record["seconds"]), 60)

    def columns(names: Iterable[str]) -> str:
        return "".join(f"  {shown(record[name]):>{max(FIGURES, len(name))}}" for name in names)

    def shown(value: float) -> str:
        if not is_number(value):
            return NO_NUMBER
        return f"{value:.4f}" if isinstance(value, float) else f"{value}"

    metrics = columns(("train_loss", "valid_loss", *task.scores()))
    time = f"{minutes:02d}:{seconds:02d}  {record['images_per_second']:>8.0f}"
    return f"{numbered(record['epoch'], epochs):>5}{metrics}  {time}{columns(extra)}"


def numbered(epoch: int, epochs: int = 0) -> str:
    """Returns an epoch's number as text, counted from 1, with the total number if it is given.

    Example:
        >>> numbered(0, 5), numbered(9)
        ('1/5', '10')
    """
    return f"{epoch + 1}/{epochs}" if epochs else f"{epoch + 1}"


def without_numbers(record: Record) -> Iterator[str]:
    """Yields lines that tell which numbers a record lacks, and why.

    Example:
        >>> list(without_numbers({"epoch": 2, "train_loss": 0.5, "unanswered": 3}))
        ['epoch 3 has no scores: outputs are not finite for 3 of the validation pictures']
    """
    if not is_number(record["train_loss"]):
        yield (
            f"epoch {record['epoch'] + 1} trained nothing: every step was skipped, because its "
            "gradients were too large for float16 (--model.precision bf16 avoids this)"
        )
    if record.get("unanswered"):
        yield (
            f"epoch {record['epoch'] + 1} has no scores: outputs are not finite for "
            f"{record['unanswered']:,} of the validation pictures"
        )


def recalls(interp: Interpretation) -> str:
    """Returns a line with the recalls of the rarest classes, each with its number of pictures.

    Example:
        >>> import numpy as np
        >>> recalls(Interpretation([0, 0, 1], np.eye(2)[[0, 1, 1]], ["cat", "dog"]))
        'recall  dog 1.0000 (of 1), cat 0.5000 (of 2)'
    """
    there = [scores for scores in interp.classification_report().classes if scores.support]
    there.sort(key=lambda scores: scores.support)
    shown = [f"{one.name} {one.recall:.4f} (of {one.support:,})" for one in there[:RECALLS_SHOWN]]
    more = len(there) - len(shown)
    return f"recall  {', '.join(shown)}" + (f" and {more:,} more in the report" if more else "")


class Table:
    """Shows the events of training as they arrive; see `jaxch5.training.events`.

    If the console is not a terminal, only lines of text are printed, without a bar or escape
    codes. A narrow terminal shows the columns that fit.

    Args:
        console: Console to draw on.
        extra, task: As in `header`.
    """

    def __init__(self, console: Console, extra: Sequence[str] = (), task: Task = SOFTMAX) -> None:
        self._console = console
        self._columns = extra, task
        self._head = header(extra, task)
        self._waiting = ExitStack()
        self._bar = Progress(
            TextColumn("{task.description}"),
            # A narrow terminal has no room for the bar beside the figures.
            *[BarColumn(bar_width=None)] * (console.width >= len(header(task=task))),
            TextColumn("batch {task.completed}/{task.total}  {task.fields[loss]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not has_bars(console),
        )

    def __call__(self, event: Event) -> None:
        match event:
            case Begin():
                self._length = event.steps_per_epoch
                self._plans = len(event.plans)
                steps = max((plan.stop(self._length) for plan in event.plans), default=0)
                self._earlier = event.earlier_epochs
                self._epochs = steps // self._length + self._earlier
                self._wait(COMPILING)
            case Ready():
                self._start(event)
            case Step():
                place = (event.number - 1) % self._length + 1
                self._bar.update(self._task, completed=place)
                if place == self._length:
                    self._bar.update(self._task, loss="validating")
                elif event.read:
                    self._bar.update(self._task, loss=f"loss {event.read[-1].loss:.4f}")
            case Epoch():
                self._end_epoch(event)
            case End():
                self._bar.stop()
                self._waiting.close()
                if event.interpretation and "balanced_accuracy" in self._columns[0]:
                    print_line(self._console, recalls(event.interpretation))

    def _wait(self, on: str) -> None:
        """Shows a spinner until the next bar appears or training ends."""
        self._waiting.enter_context(working(self._console, on))

    def _start(self, event: Ready) -> None:
        self._waiting.close()
        if not self._bar.tasks:
            print_row(self._console, self._head, self._head)
        for task in self._bar.task_ids:
            self._bar.remove_task(task)
        epoch, place = divmod(event.number, self._length)
        self._task = self._bar.add_task(
            self._name(epoch + self._earlier), total=self._length, completed=place, loss=""
        )
        self._stop = event.plan.stop(self._length)
        self._plans -= 1
        self._bar.start()

    def _name(self, epoch: int) -> str:
        return f"epoch {numbered(epoch, self._epochs)}"

    def _end_epoch(self, event: Epoch) -> None:
        row = format_row(event.record, *self._columns, self._epochs)
        print_row(self._console, row, self._head)
        for line in without_numbers(event.record):
            print_line(self._console, line)
        if event.number == self._stop:
            self._bar.stop()
            self._wait(COMPILING if self._plans > 0 else "writing the report")
        else:
            self._bar.reset(self._task, description=self._name(event.record["epoch"] + 1), loss="")
