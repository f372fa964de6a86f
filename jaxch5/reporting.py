"""The report of a learner's run: what goes into it, while training goes on and at its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from jaxch5.data.block import Data
from jaxch5.data.summary import draw, first_pictures
from jaxch5.insight.embed import Image, figure_image, picture_image
from jaxch5.insight.interpret import Interpretation
from jaxch5.insight.report import Report
from jaxch5.training.environment import versions
from jaxch5.training.plan import Plan
from jaxch5.training.rundir import RunDir

SAMPLE_ROWS, SAMPLE_COLUMNS = 2, 4
TOP_LOSSES = 9
CONFUSED_SHOWN = 20


def report_of_run(run: RunDir, data: Data, plans: Sequence[Plan], groups: Sequence[str]) -> Report:
    """What is known of a run before its first epoch."""
    steps = [(plan, step) for plan in plans for step in range(plan.epochs * len(data.train))]
    return Report(
        title=run.path.name,
        data_line=data.describe(),
        config=run.config_file.read_text(encoding="utf-8"),
        rates=[list(plan.rates(step)) for plan, step in steps],
        momentum=[plan.momentum(step) for plan, step in steps],
        group_names=groups,
        classes=data.classes,
        versions=versions(),
    )


def finished_report(
    report: Report, records: Sequence[dict[str, Any]], data: Data, interp: Interpretation | None
) -> Report:
    """Adds what the trained model makes of the validation set, where `interp` has it."""
    report = replace(report, records=records, sample=sample_of(data), finished=True)
    if interp is None:
        return report
    assert interp.pictures is not None
    losses, items = interp.top_losses(min(TOP_LOSSES, len(interp)))
    top_losses = [
        {
            "picture": interp.pictures(int(item)),
            "prediction": interp.classes[interp.predictions[item]],
            "actual": interp.classes[interp.targets[item]],
            "loss": float(loss),
            "probability": float(interp.probabilities[item, interp.targets[item]]),
            "reference": interp.references[item] if interp.references else "",
        }
        for loss, item in zip(losses, items, strict=True)
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


def sample_of(data: Data) -> Image:
    """Some training pictures as the network gets them, side by side, in one picture."""
    batch = first_pictures(data.train, SAMPLE_ROWS * SAMPLE_COLUMNS)
    pictures = draw(data.augment, batch, data.size)
    rows = [
        np.concatenate(list(pictures[start : start + SAMPLE_COLUMNS]), axis=1)
        for start in range(0, len(pictures) // SAMPLE_COLUMNS * SAMPLE_COLUMNS, SAMPLE_COLUMNS)
    ]
    names = ", ".join(data.classes[label] for label in batch.label)
    return picture_image(np.concatenate(rows), f"Training pictures after augmentation: {names}")
