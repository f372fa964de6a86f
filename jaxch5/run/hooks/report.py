"""The hook that writes `report.html`, during training and at its end."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import datetime
from functools import partial

import numpy as np
from jaxtyping import Float, Int

from jaxch5.config.cases import chosen
from jaxch5.config.section import own_default
from jaxch5.config.toml import flat
from jaxch5.data.block import Data
from jaxch5.data.canvases import whole_picture
from jaxch5.data.parallel import in_order
from jaxch5.data.summary import draw, first_pictures
from jaxch5.errors import ConfigError
from jaxch5.metrics import Record, is_number
from jaxch5.plots.attribution import overlay
from jaxch5.plots.embed import (
    PICTURE_SIDE,
    TILE_SIDE,
    Image,
    Sheet,
    contact_sheet,
    picture_image,
)
from jaxch5.results.attribution import MOST_PROBABLE, attributions
from jaxch5.results.interpretation import Interpretation
from jaxch5.results.predictor import Predictor
from jaxch5.results.report import Example, Report, write_report
from jaxch5.run.attempts import Attempts
from jaxch5.run.cleaned import changes, record_cleaning
from jaxch5.run.directory import RunDir, open_run
from jaxch5.run.environment import versions
from jaxch5.task import Task
from jaxch5.training.events import Begin, End, Epoch, Event, Hook
from jaxch5.training.mesh import on_one_device
from jaxch5.util.files import from_here

SAMPLE = 8
TOP_LOSSES = 8
# Maximum number of pictures for a cell of the confusion matrix, and for all cells together.
OF_A_CELL, OF_ALL_CELLS = 5, 360
# Scores of a class that has no validation pictures.
NO_SCORES = {"precision": None, "recall": None, "f1": None, "support": 0}


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
        records: Records of the epochs, which another hook extends before this hook is called.
        attempt: Wrapper that calls the functions that write, and records their failures.
        task: Task, which defines the scores and the answers.
        metrics: Names of the metrics that the records hold besides those of the task.
        classifier: Classifier that gets the final weights, to show what its predictions rely on;
            None leaves this out.
    """
    path = shlex.quote(str(run.path))
    valid = np.bincount(data.valid.labels, minlength=len(data.classes))
    train = np.bincount(data.train.labels, minlength=len(data.classes))
    report = Report(
        run.path.name,
        data.describe(),
        path,
        counts=[*zip(data.classes, train.tolist(), valid.tolist(), strict=True)],
        versions=versions(),
        task=task,
        metrics=metrics,
    )

    def write(event: Event) -> None:
        nonlocal report
        match event:
            case Begin():
                if not event.number:
                    attempt("cleaned.json", record_cleaning, run)
                report = _of_run(report, run, event)
                return
            case Epoch():
                right = event.record.get("accuracy")
                total = int(valid.sum())
                known = (round(right * total), total) if is_number(right) else None
                report = replace(report, records=records, right=known)
            case End(how="finished"):
                now = None
                if classifier and event.state and event.interpretation:
                    weights = on_one_device(event.state.variables)
                    now = classifier.with_variables(weights)
                report = _finished(report, records, data, event.interpretation, now)
                report = replace(report, cleaning=changes(run, data, event.interpretation))
                if event.interpretation:
                    # This is imported late, as it loads SciPy's statistics, which takes some time.
                    from jaxch5.results.advice import advise, in_lines

                    facts = open_run(run.path)[1], event.interpretation, records, train
                    # The page may be read from another folder, so it names the absolute path.
                    report = replace(report, advice=advise(str(run.path), *facts))
                    for line in in_lines(advise(str(from_here(run.path)), *facts)):
                        attempt.say(line)
            case End():
                how = {"interrupted": "was interrupted", "failed": "failed"}[event.how]
                report = replace(report, stopped=how)
            case _:
                return
        report = replace(report, time=f"{datetime.now():%H:%M:%S}")
        attempt("report", write_report, run.report_file, report)

    return write


def _of_run(report: Report, run: RunDir, begin: Begin) -> Report:
    """Adds to a report what is known about a run before its first epoch."""
    length = begin.steps_per_epoch
    steps = [(plan, step) for plan in begin.plans for step in range(plan.epochs * length)]
    return replace(
        report,
        config=run.config_file.read_text(encoding="utf-8"),
        changed=chosen(flat(open_run(run.path)[1]), own_default),
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
    """Adds sample pictures and, unless `interp` is None, the results on the validation set."""
    report = replace(report, records=records, sample=_sample_of(data), finished=True)
    if interp is None:
        return report
    losses, items = interp.top_losses(min(TOP_LOSSES, len(interp)))
    looks = _looks(classifier, data, items) if classifier else [None] * len(items)
    suspects = {suspect.item for suspect in interp.suspects()}
    references = interp.references or [""] * len(interp)
    top_losses = [
        {
            "picture": whole_picture(data.source, int(data.valid.items[item]), PICTURE_SIDE),
            "prediction": interp.answers[interp.predictions[item]],
            "actual": interp.classes[interp.targets[item]],
            "loss": float(loss),
            "probability": float(interp.probabilities[item, interp.targets[item]]),
            "confidence": float(interp.confidences[item]),
            "suspect": int(item) in suspects,
            "reference": references[item],
            "look": look,
        }
        for loss, item, look in zip(losses, items, looks, strict=True)
    ]
    table = [
        {"class": row.name} | (asdict(row) if row.support else NO_SCORES)
        for row in interp.classification_report().classes
    ]
    examples, sheet = _examples(data, interp, references)
    return replace(
        report,
        right=(int((interp.predictions == interp.targets).sum()), len(interp)),
        confusion=interp.confusion_matrix(),
        examples=examples,
        sheet=sheet,
        class_table=table,
        top_losses=top_losses,
        calibration=interp.calibration(),
    )


def _examples(
    data: Data, interp: Interpretation, references: Sequence[str]
) -> tuple[dict[tuple[int, int], list[Example]], Sheet | None]:
    """Chooses pictures for the cells of the confusion matrix: those with the largest losses.

    The contact sheet shows mistakes first, the most frequent kinds before the others. Once it is
    full, the remaining pictures are only named. If several processes read different files, the
    pictures that this process reads are preferred, and all others are only named.
    """
    cells, own = defaultdict(list), {*data.valid.own.tolist()}
    for item in sorted(interp.top_losses()[1].tolist(), key=lambda item: item not in own):
        cells[int(interp.targets[item]), int(interp.predictions[item])].append(item)
    order = sorted(cells, key=lambda cell: (cell[0] == cell[1], -len(cells[cell])))
    chosen_items = {cell: cells[cell][:OF_A_CELL] for cell in order}
    shown = [item for items in chosen_items.values() for item in items if item in own]
    shown = shown[:OF_ALL_CELLS]
    tiles = {item: tile for tile, item in enumerate(shown)}
    examples = {
        cell: [Example(tiles.get(item), references[item]) for item in items]
        for cell, items in chosen_items.items()
    }
    numbers = data.valid.items[shown].tolist()
    pictures = in_order(partial(whole_picture, data.source, side=TILE_SIDE), numbers)
    return examples, contact_sheet([*pictures]) if shown else None


def _looks(
    classifier: Predictor, data: Data, items: Int[np.ndarray, "items"]
) -> list[Float[np.ndarray, "height width 3"] | None]:
    """Draws attribution maps over pictures; returns only None values if the network has no maps."""
    canvases = data.valid.canvases(data.valid.items[items])
    try:
        found = attributions(classifier, *canvases, [MOST_PROBABLE] * len(items))
    except ConfigError:
        return [None] * len(items)
    return [overlay(one.picture, one.map) for one in found]


def _sample_of(data: Data) -> list[tuple[Image, str]]:
    """Returns some training pictures as the network sees them, each with its label."""
    batch = first_pictures(data.train, SAMPLE)
    names = [data.classes[label] for label in batch.label]
    pictures = draw(data.augment, batch, data.size)
    return [
        (picture_image(picture, f"A training picture of {name}, augmented"), name)
        for picture, name in zip(pictures, names, strict=True)
    ]
