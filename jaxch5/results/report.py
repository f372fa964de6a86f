"""The report of a run: one HTML file that needs nothing but a browser.

It holds its pictures, its style and its script, asks no one for anything, and treats names of
classes and files as text that anyone may have written.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jinja2
import numpy as np
from jaxtyping import Int

from jaxch5.metrics import is_number
from jaxch5.plots.chart import CANVAS, Chart, line_chart
from jaxch5.plots.embed import TINY_SIDE, Image, picture_image
from jaxch5.task import SOFTMAX, Task
from jaxch5.util.files import write_file
from jaxch5.util.text import NO_NUMBER, printable

if TYPE_CHECKING:
    # It takes SciPy's tests, which a command that starts to train does not wait for.
    from jaxch5.results.advice import Advice

# Codes that a browser or a terminal obeys, among them those that turn the direction of writing, and
# bytes of names that are no text.
HIDDEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
# Shades in the confusion matrix; the style sheet has one rule for each.
SHADES = 8


class ConfusionRow(NamedTuple):
    """A row of the confusion matrix: its class, and a style and a count for each cell."""

    name: str
    cells: list[tuple[str, int]]


@dataclass(frozen=True, eq=False)
class Report:
    """The content of a report; all but the first two may be missing, and are then left out.

    Attributes:
        title: Name of the run.
        data_line: One sentence about the data.
        config: Configuration as TOML.
        records: Record of each epoch: epoch, phase, train_loss, valid_loss, the task's metrics,
            seconds, images_per_second, and skipped_steps where steps may be skipped.
        rates: Learning rate of each group at each step.
        momentum: Momentum of each step.
        group_names: Names of the groups of layers; numbers where there are none.
        sample: Training pictures (see `embed.figure_image`).
        confusion: Counts, with a row for each actual class and a column for each predicted one.
        classes: Names of the classes, and of none of them where that is an answer.
        most_confused: Actual class, predicted class and count, the most frequent first.
        class_table: Row of each class: class, precision, recall, f1 and support.
        top_losses: Row of each picture, the worst first: picture (values from 0 to 1), prediction,
            actual, loss, probability (of the actual class), reference and, where it is known, look
            (a picture of where the network looks for its most probable class).
        calibration: How far to trust the probabilities (see `embed.figure_image`).
        cleaning: What was corrected in the labels since another run, and what became better by it
            (see `run.cleaned.changes`).
        advice: What to do next.
        versions: Version of each package, by name.
        finished: Whether training is over.
        task: Task of the records and the answers.
        metrics: Names of the other metrics of the records.
    """

    title: str
    data_line: str
    config: str = ""
    records: Sequence[Mapping[str, Any]] = ()
    rates: Sequence[Sequence[float]] = ()
    momentum: Sequence[float] = ()
    group_names: Sequence[str] = ()
    sample: Image | None = None
    confusion: Int[np.ndarray, "classes classes"] | None = None
    classes: Sequence[str] = ()
    most_confused: Sequence[tuple[str, str, int]] = ()
    class_table: Sequence[Mapping[str, Any]] = ()
    top_losses: Sequence[Mapping[str, Any]] = ()
    calibration: Image | None = None
    cleaning: Mapping[str, Any] | None = None
    advice: Sequence[Advice] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    finished: bool = False
    task: Task = SOFTMAX
    metrics: Sequence[str] = ()


def write_report(path: Path, report: Report) -> None:
    """Writes the report in one piece: a reader sees the old one or the new one.

    Args:
        path: HTML file, which may exist.
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
    environment = _environment()
    palette, style, script = (
        _source(environment, name) for name in ("palette.css", "report.css", "report.js")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = environment.get_template("report.html.jinja").render(
        report=report,
        style=palette + style,
        script=script,
        script_hash=f"sha256-{digest}",
        metrics=[
            (name, name.replace("_", " ")) for name in (*report.metrics, *report.task.scores())
        ],
        best=report.task.best.of(report.records),
        curves=_curves(report.records, report.task),
        schedules=_schedules(report.rates, report.momentum, report.group_names),
        confusion=None if report.confusion is None else _confusion(report),
        canvas=CANVAS,
        tiny=TINY_SIDE,
        losses=[(loss, *_loss_images(loss)) for loss in report.top_losses],
    )
    return HIDDEN.sub(lambda found: printable(found[0]), page)


def _loss_images(loss: Mapping[str, Any]) -> tuple[Image, Image | None]:
    alt = f"A picture of {loss['actual']} that was taken for {loss['prediction']}"
    look = loss.get("look")
    seen = None if look is None else picture_image(look, f"{alt}, and where the network looked")
    return picture_image(loss["picture"], alt), seen


def _curves(records: Sequence[Mapping[str, Any]], task: Task) -> list[Chart]:
    """Draws losses and the task's last metric over epochs, divided between phases of training."""
    if not records:
        return []
    epochs = [record["epoch"] for record in records]
    dividers = [b["epoch"] - 0.5 for a, b in pairwise(records) if a["phase"] != b["phase"]]

    def of(key: str, times: float = 1.0) -> list[float]:
        values = [record[key] for record in records]
        return [times * value if is_number(value) else math.nan for value in values]

    losses = {"training": of("train_loss"), "validation": of("valid_loss")}
    charts = [line_chart("Loss", epochs, losses, "epoch", "loss", dividers=dividers)]
    for name in list(task.scores())[-1:]:
        title, values = name.replace("_", " ").capitalize(), {"validation": of(name, 100)}
        charts.append(line_chart(title, epochs, values, "epoch", "%", dividers=dividers))
    return charts


def _schedules(
    rates: Sequence[Sequence[float]], momentum: Sequence[float], names: Sequence[str]
) -> list[Chart]:
    """Draws rates and momentum over steps.

    The rates of groups differ by a factor, often of 100: on a linear axis all but the largest would
    be zero to the eye, so the axis is logarithmic.
    """
    charts = []
    if len(rates):
        groups = [[float(rate) for rate in group] for group in zip(*rates, strict=True)]
        names = names if len(names) == len(groups) else [f"group {n}" for n in range(len(groups))]
        # Names of groups may repeat, curves may not.
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


def _confusion(report: Report) -> list[ConfusionRow]:
    """Shades each cell by its share of its row: classes may differ much in size."""
    counts = np.asarray(report.confusion)
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    shades = np.ceil(shares * SHADES).astype(int)
    rows = []
    for actual, name in enumerate(report.classes):
        cells = [
            (f"{'hit' if actual == predicted else 'miss'} l{shade}" if count else "", count)
            for predicted, (count, shade) in enumerate(
                zip(counts[actual].tolist(), shades[actual].tolist(), strict=True)
            )
        ]
        rows.append(ConfusionRow(name, cells))
    return rows


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("jaxch5.results", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"fixed": _fixed, "percent": _percent, "clock": _clock}
    return environment


def _source(environment: jinja2.Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _fixed(value: float | None, digits: int = 4) -> str:
    return f"{value:.{digits}f}" if is_number(value) else NO_NUMBER


def _percent(value: float | None, digits: int = 1) -> str:
    """Formats a share as a percentage.

    Example:
        >>> _percent(0.0625).split(), _percent(float("nan")) == NO_NUMBER
        (['6.2', '%'], True)
    """
    return f"{100 * value:.{digits}f}\N{NO-BREAK SPACE}%" if is_number(value) else NO_NUMBER


def _clock(seconds: float) -> str:
    """Formats a time as minutes and seconds, or hours, minutes and seconds.

    Example:
        >>> _clock(64.2), _clock(3725)
        ('1:04', '1:02:05')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
