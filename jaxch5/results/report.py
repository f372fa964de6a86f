"""Renders the report of a run: one HTML file, which is rewritten after each epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Int

from jaxch5.metrics import Best, is_number, wilson_interval
from jaxch5.plots.chart import Chart, line_chart
from jaxch5.plots.embed import Image, Sheet, picture_image
from jaxch5.results.calibration import Calibration
from jaxch5.results.page import render_page
from jaxch5.task import SOFTMAX, Task
from jaxch5.util.files import write_file

if TYPE_CHECKING:
    # Importing `advice` loads SciPy's statistical tests, which would delay the start of training.
    from jaxch5.results.advice import Advice

# Number of shades in the confusion matrix; the style sheet has one rule for each.
SHADES = 8
# Seconds after which the page reloads while the run is still training.
REFRESH = 10


class Example(NamedTuple):
    """A picture in a cell of the confusion matrix.

    Attributes:
        tile: Index of the picture on the report's sheet of small pictures; None if it is not there.
        reference: Name of the picture.
    """

    tile: int | None
    reference: str


class Cell(NamedTuple):
    """A cell of the confusion matrix that is not empty.

    Attributes:
        actual, predicted: Index of the actual class, and index of the answer.
        number: Number of pictures.
        share: Share of these pictures among all those of the actual class.
        examples: Some of the pictures.
    """

    actual: int
    predicted: int
    number: int
    share: float
    examples: Sequence[Example]

    @property
    def style(self) -> str:
        """Returns the cell's CSS classes: right or wrong, and the shade for its share."""
        kind = "hit" if self.actual == self.predicted else "miss"
        return f"{kind} l{math.ceil(SHADES * self.share)}"


@dataclass(frozen=True, eq=False)
class Report:
    """The content of a report; all parts but the first two may be missing, and are then left out.

    Attributes:
        title: Name of the run.
        data_line: One sentence about the data.
        path: Path of the run, for the commands that the report shows.
        config: Configuration as TOML.
        changed: Settings that differ from their defaults, keyed by their dotted names.
        records: Record of each epoch: epoch, phase, train_loss, valid_loss, the task's metrics,
            seconds, images_per_second, and skipped_steps if steps may be skipped.
        right: Number of validation pictures classified correctly, and number of all validation
            pictures.
        rates: Learning rate of each group at each step.
        momentum: Momentum at each step.
        group_names: Names of the groups of layers; without names, the groups are numbered.
        sample: Training pictures, each with its label.
        counts: Name of each class, with its numbers of training and of validation pictures.
        confusion: Counts, with a row for each actual class and a column for each predicted one.
        classes: Names of the classes, followed by "none of these" if that is an answer.
        examples: Some pictures from each cell of the confusion matrix, keyed by the indices of the
            actual class and of the predicted one.
        sheet: Small pictures of the examples.
        class_table: A row for each class: class, precision, recall, f1 and support.
        top_losses: A row for each picture, worst first: picture, prediction, actual, loss,
            probability (of the actual class), confidence (of the prediction), suspect (whether the
            label looks wrong), reference and, if it is known, look (the picture with a map of the
            parts that support the most probable class).
        calibration: Calibration, which tells how far to trust the probabilities.
        cleaning: Labels corrected since an earlier run, and what changed as a result (see
            `run.cleaned.changes`).
        advice: Findings, and what to do about them.
        versions: Version of each package, keyed by the package's name.
        finished: Whether training is over.
        stopped: How training ended early, such as "was interrupted"; "" if it did not.
        time: Time of day at which the report was written.
        task: Task, which defines the scores and the answers.
        metrics: Names of the metrics that the records hold besides those of the task.
    """

    title: str
    data_line: str
    path: str = ""
    config: str = ""
    changed: Mapping[str, Any] = field(default_factory=dict)
    records: Sequence[Mapping[str, Any]] = ()
    right: tuple[int, int] | None = None
    rates: Sequence[Sequence[float]] = ()
    momentum: Sequence[float] = ()
    group_names: Sequence[str] = ()
    sample: Sequence[tuple[Image, str]] = ()
    counts: Sequence[tuple[str, int, int]] = ()
    confusion: Int[np.ndarray, "classes classes"] | None = None
    classes: Sequence[str] = ()
    examples: Mapping[tuple[int, int], Sequence[Example]] = field(default_factory=dict)
    sheet: Sheet | None = None
    class_table: Sequence[Mapping[str, Any]] = ()
    top_losses: Sequence[Mapping[str, Any]] = ()
    calibration: Calibration | None = None
    cleaning: Mapping[str, Any] | None = None
    advice: Sequence[Advice] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    finished: bool = False
    stopped: str = ""
    time: str = ""
    task: Task = SOFTMAX
    metrics: Sequence[str] = ()


def write_report(path: Path, report: Report) -> None:
    """Writes the report atomically: a reader sees either the old one or the new one.

    Args:
        path: HTML file to write; an existing one is replaced.
        report: Content of the report.

    Raises:
        CheckpointError: The file cannot be written.
    """
    write_file(path, render(report).encode("utf-8"))


def render(report: Report) -> str:
    """Renders the page of a report.

    Example:
        >>> page = render(Report("digits", "Handwritten <digits>."))
        >>> "Handwritten &lt;digits&gt;." in page
        True
    """
    cells = [] if report.confusion is None else _cells(report)
    # The worst class comes first; a class without pictures has no score, and comes last.
    classes = sorted(
        report.class_table, key=lambda row: (row["f1"] is None, row["f1"], -row["support"])
    )
    return render_page(
        "report.html.jinja",
        report.title,
        report=report,
        refresh=REFRESH,
        metrics=[
            (Best(name), name.replace("_", " "))
            for name in (*report.metrics, *report.task.scores())
        ],
        best=report.task.best.of(report.records),
        interval=wilson_interval(*report.right) if report.right and report.right[1] else None,
        curves=_curves(report),
        schedules=_schedules(report.rates, report.momentum, report.group_names),
        rows=_rows(cells, len(report.classes)),
        # The most frequent mistakes come first; right answers, `hits`, are listed after them.
        mistakes=sorted(
            (cell for cell in cells if cell.actual != cell.predicted), key=lambda cell: -cell.number
        ),
        hits=[cell for cell in cells if cell.actual == cell.predicted],
        class_table=classes,
        calibration=report.calibration and _calibration(report.calibration),
        losses=[(loss, *_loss_images(loss)) for loss in report.top_losses],
    )


def _loss_images(loss: Mapping[str, Any]) -> tuple[Image, Image | None]:
    alt = f"A picture of {_as_answered(loss['actual'], loss['prediction'])}"
    look = loss.get("look")
    seen = None if look is None else picture_image(look, f"{alt}, and where the network looked")
    return picture_image(loss["picture"], alt), seen


def _as_answered(actual: str, predicted: str) -> str:
    return actual if actual == predicted else f"{actual} that was taken for {predicted}"


def _curves(report: Report) -> list[Chart]:
    """Draws losses and the task's last metric over epochs, with a line between training phases."""
    records = report.records
    if not records:
        return []
    # Counted from 1, as people count; records count from 0.
    epochs = [record["epoch"] + 1 for record in records]
    dividers = [b["epoch"] + 0.5 for a, b in pairwise(records) if a["phase"] != b["phase"]]

    def of(key: str, times: float = 1.0) -> list[float]:
        values = [record[key] for record in records]
        return [times * value if is_number(value) else math.nan for value in values]

    losses = {"training": of("train_loss"), "validation": of("valid_loss")}
    charts = [line_chart("Loss", epochs, losses, "epoch", "loss", dividers=dividers)]
    for name in list(report.task.scores())[-1:]:
        words = name.replace("_", " ")
        times, unit = (100, "%") if Best(name).is_share else (1, words)
        title, values = words.capitalize(), {"validation": of(name, times)}
        charts.append(line_chart(title, epochs, values, "epoch", unit, dividers=dividers))
    return charts


def _schedules(
    rates: Sequence[Sequence[float]], momentum: Sequence[float], names: Sequence[str]
) -> list[Chart]:
    """Draws rates and momentum over steps.

    The axis of the rates is logarithmic if the groups' rates differ. They often differ by a
    factor of 100, and on a linear axis all rates but the largest would then look like zero.
    """
    charts = []
    if len(rates):
        groups = [[float(rate) for rate in group] for group in zip(*rates, strict=True)]
        names = names if len(names) == len(groups) else [f"group {n}" for n in range(len(groups))]
        # Two groups may have the same name, but two curves may not.
        named = {
            f"{name} ({n})" if name in names[:n] else name: group
            for n, (name, group) in enumerate(zip(names, groups, strict=True))
        }
        log = len({max(group) for group in groups}) > 1
        title = "Learning rate of each group" if len(groups) > 1 else "Learning rate"
        charts.append(line_chart(title, range(len(rates)), named, "step", "rate", log=log))
    if len(momentum):
        values = {"momentum": [float(value) for value in momentum]}
        steps = range(len(momentum))
        charts.append(line_chart("Momentum", steps, values, "step", "momentum", from_zero=False))
    return charts


def _calibration(calibration: Calibration) -> Chart:
    """Draws how often the network is right against how sure it is."""
    filled = calibration.count > 0
    sure = [0.0, *(100 * calibration.confidence[filled]).tolist(), 100.0]
    right = [math.nan, *(100 * calibration.accuracy[filled]).tolist(), math.nan]
    series = {"the network": right, "perfect calibration": sure}
    return line_chart("Right answers by confidence", sure, series, "confidence, %", "right, %")


def _cells(report: Report) -> list[Cell]:
    counts = np.asarray(report.confusion)
    totals = counts.sum(axis=1)
    return [
        Cell(
            actual,
            predicted,
            int(counts[actual, predicted]),
            float(counts[actual, predicted] / totals[actual]),
            report.examples.get((actual, predicted), ()),
        )
        for actual, predicted in np.argwhere(counts).tolist()
    ]


def _rows(cells: Sequence[Cell], count: int) -> list[list[Cell | None]]:
    rows: list[list[Cell | None]] = [[None] * count for _ in range(count)]
    for cell in cells:
        rows[cell.actual][cell.predicted] = cell
    return rows
