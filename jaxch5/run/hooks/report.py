"""The hook that writes `report.html`, while training goes on and at its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np
from jaxtyping import Float, Int

from jaxch5.data.block import Data
from jaxch5.data.summary import draw, first_pictures
from jaxch5.errors import ConfigError
from jaxch5.metrics import Record
from jaxch5.plots.attribution import overlay
from jaxch5.plots.embed import Image, figure_image, picture_image
from jaxch5.results.attribution import MOST_PROBABLE, attributions
from jaxch5.results.interpretation import Interpretation
from jaxch5.results.predictor import Predictor
from jaxch5.results.report import Report, write_report
from jaxch5.run.attempts import Attempts
from jaxch5.run.cleaned import changes, record_cleaning
from jaxch5.run.directory import RunDir, open_run
from jaxch5.run.environment import versions
from jaxch5.task import Task
from jaxch5.training.events import Begin, End, Epoch, Event, Hook
from jaxch5.training.mesh import on_one_device

SAMPLE_ROWS, SAMPLE_COLUMNS = 2, 4
TOP_LOSSES = 9
CONFUSED_SHOWN = 20


def write_reports(
    run: RunDir,
    data: Data,
    records: Sequence[Record],
    attempt: Attempts,
    task: Task,
    metrics: Sequence[str] = (),
    classifier: Predictor | None = None,
) -> Hook:
    """Returns a hook that writes the report after each epoch, and a fuller one at the end.

    Args:
        run: Run to write into.
        data: Pictures of the run.
        records: Records of the epochs; another hook has added to them before this one is called.
        attempt: Caller of what writes, which notes failures, and says what to do next.
        task: Task of the records and the answers.
        metrics: Names of the other metrics of the records.
        classifier: Classifier, whatever its weights, whose last state shows where it looks.
    """
    report = Report(run.path.name, data.describe(), versions=versions(), task=task, metrics=metrics)

    def write(event: Event) -> None:
        nonlocal report
        match event:
            case Begin():
                if not event.number:
                    attempt("cleaned.json", record_cleaning, run)
                report = _of_run(report, run, event)
                return
            case Epoch():
                report = replace(report, records=records)
            case End(how="finished"):
                now = None
                if classifier and event.state and event.interpretation:
                    weights = on_one_device(event.state.variables)
                    now = classifier.with_variables(weights)
                report = _finished(report, records, data, event.interpretation, now)
                report = replace(report, cleaning=changes(run, data, event.interpretation))
                if event.interpretation:
                    # It takes SciPy's tests, which a command that starts does not wait for.
                    from jaxch5.results.advice import advise, in_lines

                    config = open_run(run.path)[1]
                    counts = np.bincount(data.train.labels, minlength=len(data.classes))
                    found = advise(str(run.path), config, event.interpretation, records, counts)
                    report = replace(report, advice=found)
                    for line in in_lines(found):
                        attempt.say(line)
            case _:
                return
        attempt("report", write_report, run.report_file, report)

    return write


def _of_run(report: Report, run: RunDir, begin: Begin) -> Report:
    """Adds what is known of a run before its first epoch."""
    length = begin.steps_per_epoch
    steps = [(plan, step) for plan in begin.plans for step in range(plan.epochs * length)]
    return replace(
        report,
        config=run.config_file.read_text(encoding="utf-8"),
        rates=[list(plan.rates(step)) for plan, step in steps],
        momentum=[plan.momentum(step) for plan, step in steps],
        group_names=begin.groups,
        classes=report.task.answers(begin.classes),
    )


def _finished(
    report: Report,
    records: Sequence[Record],
    data: Data,
    interp: Interpretation | None,
    classifier: Predictor | None,
) -> Report:
    """Adds what the trained model makes of the validation set, where `interp` has it."""
    report = replace(report, records=records, sample=_sample_of(data), finished=True)
    if interp is None:
        return report
    assert interp.pictures is not None
    losses, items = interp.top_losses(min(TOP_LOSSES, len(interp)))
    looks = _looks(classifier, data, items) if classifier else [None] * len(items)
    top_losses = [
        {
            "picture": interp.pictures(int(item)),
            "prediction": interp.answers[interp.predictions[item]],
            "actual": interp.classes[interp.targets[item]],
            "loss": float(loss),
            "probability": float(interp.probabilities[item, interp.targets[item]]),
            "reference": interp.references[item] if interp.references else "",
            "look": look,
        }
        for loss, item, look in zip(losses, items, looks, strict=True)
    ]
    table = interp.classification_report().classes
    return replace(
        report,
        confusion=interp.confusion_matrix(),
        most_confused=interp.most_confused()[:CONFUSED_SHOWN],
        class_table=[{"class": scores.name, **asdict(scores)} for scores in table],
        top_losses=top_losses,
        calibration=figure_image(interp.plot_calibration(), "How far to trust the probabilities"),
    )


def _looks(
    classifier: Predictor, data: Data, items: Int[np.ndarray, "items"]
) -> list[Float[np.ndarray, "height width 3"] | None]:
    """Shows where the network looks for its prediction; nothing where it has no map."""
    canvases = data.valid.canvases(data.valid.items[items])
    try:
        found = attributions(classifier, *canvases, [MOST_PROBABLE] * len(items))
    except ConfigError:
        return [None] * len(items)
    return [overlay(one.picture, one.map) for one in found]


def _sample_of(data: Data) -> Image:
    """Puts some training pictures, as the network gets them, side by side in one picture."""
    batch = first_pictures(data.train, SAMPLE_ROWS * SAMPLE_COLUMNS)
    pictures = draw(data.augment, batch, data.size)
    rows = [
        np.concatenate(list(pictures[start : start + SAMPLE_COLUMNS]), axis=1)
        for start in range(0, len(pictures) // SAMPLE_COLUMNS * SAMPLE_COLUMNS, SAMPLE_COLUMNS)
    ]
    names = ", ".join(data.classes[label] for label in batch.label)
    return picture_image(np.concatenate(rows), f"Training pictures after augmentation: {names}")
