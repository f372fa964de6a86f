"""The hook that a person sees: a table that grows by a line an epoch, over a progress bar."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from jaxch5.insight.recorder import best_of, is_number
from jaxch5.text import NO_NUMBER, has_bars, print_line, print_row
from jaxch5.training.events import Begin, Epoch, Event, Ready, Step
from jaxch5.training.rundir import Record

HEADER = "epoch  train_loss  valid_loss  accuracy  error_rate   time  images/s"
# Width of a column that not every table has.
EXTRA = 9


def header(extra: Sequence[str] = ()) -> str:
    """The first line of the table.

    Args:
        extra: records that have a column beside those that every table has.

    Example:
        >>> header(["top_5"]).removeprefix(HEADER)
        '    top_5'
    """
    return HEADER + "".join(f"  {name:>{EXTRA - 2}}" for name in extra)


def format_row(record: Record, extra: Sequence[str] = ()) -> str:
    """Returns a line of the table, with a dash for what is no number; `extra` as in `header`.

    Example:
        >>> print(HEADER); print(format_row({"epoch": 0, "train_loss": 0.5, "valid_loss": 0.25,
        ...     "accuracy": 0.9, "error_rate": 0.1, "seconds": 64.2, "images_per_second": 410.4}))
        epoch  train_loss  valid_loss  accuracy  error_rate   time  images/s
            0      0.5000      0.2500    0.9000      0.1000  01:04       410
    """
    minutes, seconds = divmod(round(record["seconds"]), 60)

    def shown(name: str, width: int) -> str:
        value = record[name]
        if not is_number(value):
            return f"{NO_NUMBER:>{width}}"
        return f"{value:>{width}.4f}" if isinstance(value, float) else f"{value:>{width}}"

    others = "".join(f"  {shown(name, max(EXTRA - 2, len(name)))}" for name in extra)
    return (
        f"{record['epoch']:>5}  {shown('train_loss', 10)}  {shown('valid_loss', 10)}  "
        f"{shown('accuracy', 8)}  {shown('error_rate', 10)}  "
        f"{minutes:02d}:{seconds:02d}  {record['images_per_second']:>8.0f}{others}"
    )


def without_numbers(record: Record) -> Iterator[str]:
    """Yields lines about what has no number in a record, and why.

    Example:
        >>> list(without_numbers({"epoch": 2, "train_loss": 0.5, "unanswered": 3}))
        ['epoch 2 has no scores: the network gives no number for 3 of the validation pictures']
    """
    if not is_number(record["train_loss"]):
        yield (
            f"epoch {record['epoch']} has taught nothing: every step was skipped, because its "
            "gradients are too large for float16 (--model.precision bf16 has room)"
        )
    if record.get("unanswered"):
        yield (
            f"epoch {record['epoch']} has no scores: the network gives no number for "
            f"{record['unanswered']:,} of the validation pictures"
        )


def advice(records: Sequence[Record]) -> str | None:
    """A line where the best epoch lay far before the last, else None.

    With one-cycle the best epoch should be among the last, in which the rate falls to nothing; an
    earlier one says that the cycle was longer than the data can use.

    Example:
        >>> accuracies = [0.5, 0.9, 0.89, 0.88, 0.88, 0.87]
        >>> advice([{"accuracy": accuracy} for accuracy in accuracies])
        'the best of 6 epochs was epoch 1 (90.00 %): fewer epochs would have done'
        >>> advice([{"accuracy": accuracy} for accuracy in [*accuracies, 0.9]]) is None
        True
    """
    best = best_of(records)
    if best is None or len(records) - 1 - best < max(2, len(records) / 3):
        return None
    accuracy = 100 * records[best]["accuracy"]
    return (
        f"the best of {len(records)} epochs was epoch {best} ({accuracy:.2f} %): fewer epochs "
        "would have done"
    )


class Table:
    """Draws the events of a call to train as they come; see `jaxch5.training.events`.

    Where the console is no terminal there is no bar and no escape code, only the table's lines. A
    narrow terminal gets the columns that it has room for.

    Args:
        console: where to draw.
        extra: as in `header`.
    """

    def __init__(self, console: Console, extra: Sequence[str] = ()) -> None:
        self._console = console
        self._extra = extra
        self._head = header(extra)
        self._bar = Progress(
            TextColumn("{task.description}"),
            # On a narrow terminal the figures have its place.
            *[BarColumn(bar_width=None)] * (console.width >= len(HEADER)),
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
            case Ready():
                self._start(event)
            case Step():
                self._bar.update(self._task, completed=(event.number - 1) % self._length + 1)
                if event.read:
                    self._bar.update(self._task, loss=f"loss {event.read[-1].loss:.4f}")
            case Epoch():
                self._end_epoch(event)

    def _start(self, event: Ready) -> None:
        if not self._bar.tasks:
            print_row(self._console, self._head, self._head)
        for task in self._bar.task_ids:
            self._bar.remove_task(task)
        epoch, place = divmod(event.number, self._length)
        self._task = self._bar.add_task(
            f"epoch {epoch}", total=self._length, completed=place, loss=""
        )
        self._stop = event.plan.stop(self._length)
        self._bar.start()

    def _end_epoch(self, event: Epoch) -> None:
        print_row(self._console, format_row(event.record, self._extra), self._head)
        for line in without_numbers(event.record):
            print_line(self._console, line)
        self._bar.reset(self._task, description=f"epoch {event.record['epoch'] + 1}", loss="")
        if event.number == self._stop:
            self._bar.stop()

    def __enter__(self) -> Table:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
